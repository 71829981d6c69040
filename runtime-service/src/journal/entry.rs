//! One line of the journal.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version that this release writes. Lines of other versions are skipped.
const VERSION: u8 = 1;
/// Limit for a message in bytes: errors with the text of a plugin may be long.
const MAX_TEXT: usize = 4 << 10;
/// Limit for a name in bytes: a request that is refused may have any. A line is whole also where JSON escapes each byte.
const MAX_NAME: usize = 768;
/// Limit for a line in bytes: a longer line leaves out its labels.
pub(super) const MAX_LINE: usize = 32 << 10;

/// An event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    pub v: u8,
    /// Nanoseconds since 1970.
    pub at: i64,
    pub action: Action,
    pub kind: Kind,
    /// Of the container or pod; empty if it was never created.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub id: Cow<'a, str>,
    /// Of the container or pod; for an image its reference.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub name: Cow<'a, str>,
    #[serde(default)]
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub pod_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub pod: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub namespace: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub pod_uid: Cow<'a, str>,
    /// The container's image, as the user named it.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub image: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Ended<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation<'a>>,
    /// For people.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub text: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub labels: Cow<'a, BTreeMap<String, String>>,
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Create,
    Start,
    Die,
    Destroy,
    /// A stop was requested.
    Stop,
    /// A client requested a signal other than by a stop.
    Kill,
    /// An operation failed.
    Fail,
    /// An operation succeeded that took long or has a message, such as the source of an image.
    Done,
    /// A message from the supervisor of a pod: probes, restarts.
    #[default]
    Note,
}

/// The kind of the object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Pod,
    Container,
    Image,
}

/// The end of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended<'a> {
    pub code: i32,
    pub reason: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    pub finished_at: i64,
}

/// An operation that failed or was completed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation<'a> {
    pub name: Cow<'a, str>,
    /// The stage that failed.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub stage: Cow<'a, str>,
    #[serde(default)]
    pub took_ns: u64,
    /// Stages that took long, with their nanoseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slow: Vec<(Cow<'a, str>, u64)>,
}

fn is_empty(labels: &BTreeMap<String, String>) -> bool {
    labels.is_empty()
}

/// Shortens a text that is longer than `limit` bytes.
fn cut(text: &mut Cow<'_, str>, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        *text = format!("{}…", &text[..end]).into();
    }
}

impl Entry<'_> {
    /// The line of JSON with its newline.
    pub(super) fn line(mut self) -> String {
        self.v = VERSION;
        cut(&mut self.text, MAX_TEXT);
        for name in [
            &mut self.id,
            &mut self.name,
            &mut self.pod_id,
            &mut self.pod,
            &mut self.namespace,
            &mut self.pod_uid,
            &mut self.image,
        ] {
            cut(name, MAX_NAME);
        }
        let mut line = self.json();
        if line.len() > MAX_LINE {
            self.labels = Cow::default();
            line = self.json();
        }
        line.push('\n');
        line
    }

    fn json(&self) -> String {
        // Cannot fail: all keys of its maps are strings.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// None for a line that is damaged or of another release.
    pub(super) fn parse(line: &[u8]) -> Option<Entry<'static>> {
        let entry: Entry<'static> = serde_json::from_slice(line).ok()?;
        (entry.v == VERSION).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let entry = Entry {
            at: 7,
            action: Action::Die,
            kind: Kind::Container,
            id: "c1".into(),
            name: "app\n".into(),
            labels: Cow::Borrowed(&labels),
            exit: Some(Ended { code: 137, reason: "OOMKilled".into(), started_at: Some(5), finished_at: 6 }),
            ..Entry::default()
        };
        let line = entry.clone().line();
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(!line.contains("operation") && !line.contains("text"), "{line}");
        assert_eq!(Entry::parse(line.trim_end().as_bytes()), Some(Entry { v: VERSION, ..entry }));
    }

    #[test]
    fn lines_are_bounded_and_those_of_other_releases_are_skipped() {
        let labels = BTreeMap::from([("a".to_owned(), "x".repeat(MAX_LINE))]);
        let long =
            Entry { text: "é".repeat(MAX_TEXT).into(), labels: Cow::Borrowed(&labels), ..Entry::default() };
        let line = long.line();
        assert!(line.len() < MAX_TEXT + 200, "{}", line.len());
        assert!(Entry::parse(line.trim_end().as_bytes()).is_some());
        assert_eq!(Entry::parse(line.replace("\"v\":1", "\"v\":2").as_bytes()), None);
        assert_eq!(Entry::parse(&line.as_bytes()[..20]), None);
        let name = "n".repeat(1 << 20);
        let long = Entry {
            name: (&*name).into(),
            pod_uid: (&*name).into(),
            image: (&*name).into(),
            ..Entry::default()
        };
        let line = long.line();
        assert!(
            line.len() < MAX_LINE && Entry::parse(line.trim_end().as_bytes()).is_some(),
            "{}",
            line.len()
        );
    }
}
