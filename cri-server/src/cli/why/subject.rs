//! Finds the object of a name in the history: also objects that are gone, or whose creation failed.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::bail;
use crisp_image_service::Reference;
use crisp_proto::crisp::v1::{JournalAction, JournalEntry, JournalKind, RunningOperation};

/// A pod, or containers of one name in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub namespace: String,
    pub pod: String,
    /// Of the newest pod with the name; empty where it is not known.
    pub pod_uid: String,
    /// None for the pod with all its containers.
    pub container: Option<String>,
    /// Only this container.
    pub id: Option<String>,
}

impl Subject {
    /// # Errors
    /// The name matches nothing, or more than one object.
    pub fn find(
        entries: &[JournalEntry],
        under_way: &[RunningOperation],
        text: &str,
    ) -> anyhow::Result<Self> {
        let (only_pods, name) = match text.strip_prefix("pod/") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let all: BTreeSet<Self> =
            entries.iter().flat_map(Self::of).chain(under_way.iter().flat_map(Self::of_operation)).collect();
        let chosen = |is_meant: &dyn Fn(&Self) -> bool| -> Vec<Self> {
            let meant = all.iter().filter(|subject| !only_pods || subject.container.is_none());
            meant.filter(|subject| is_meant(subject)).cloned().collect()
        };
        let mut found = chosen(&|subject| subject.container.is_some() && subject.full_name() == name);
        if found.is_empty() {
            let is_it = |s: &Self| s.pod == name || format!("{}/{}", s.namespace, s.pod) == name;
            found = chosen(&|subject| subject.container.is_none() && is_it(subject));
        }
        if found.is_empty() {
            found = chosen(&|subject| subject.container.as_deref() == Some(name));
        }
        if found.is_empty() {
            found = of_id(entries, name);
        }
        match &found[..] {
            [] => bail!("neither the server nor its journal knows a pod or container {text:?}"),
            [one] if one.pod_uid.is_empty() => Ok(Self { pod_uid: newest_uid(entries, one), ..one.clone() }),
            [one] => Ok(one.clone()),
            several => {
                let names: Vec<_> = several.iter().map(Self::full_name).collect();
                bail!("{text:?} may be any of {}: say one of them, or an id", names.join(", "))
            }
        }
    }

    /// The pod and the container of an entry. The uid is filled in later: one name is one subject.
    fn of(entry: &JournalEntry) -> Vec<Self> {
        if entry.pod.is_empty() {
            return Vec::new();
        }
        let is_container = entry.kind() == JournalKind::JournalContainer && !entry.name.is_empty();
        Self::both(&entry.namespace, &entry.pod, is_container.then_some(&entry.name))
    }

    fn of_operation(operation: &RunningOperation) -> Vec<Self> {
        if operation.pod.is_empty() {
            return Vec::new();
        }
        let is_container = operation.kind() == JournalKind::JournalContainer && !operation.name.is_empty();
        Self::both(&operation.namespace, &operation.pod, is_container.then_some(&operation.name))
    }

    fn both(namespace: &str, pod: &str, container: Option<&String>) -> Vec<Self> {
        let pod = Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            pod_uid: String::new(),
            container: None,
            id: None,
        };
        let container = container.map(|name| Self { container: Some(name.clone()), ..pod.clone() });
        std::iter::once(pod).chain(container).collect()
    }

    /// The name as people write it.
    fn full_name(&self) -> String {
        match &self.container {
            Some(container) => format!("{}/{container}", self.pod),
            None => format!("{}/{}", self.namespace, self.pod),
        }
    }

    /// Its entries, the oldest first.
    pub fn entries<'a>(&self, all: &'a [JournalEntry]) -> Vec<&'a JournalEntry> {
        let own: Vec<&JournalEntry> = all.iter().filter(|entry| self.has(entry)).collect();
        let images: BTreeSet<String> = own
            .iter()
            .filter(|entry| entry.kind() == JournalKind::JournalContainer)
            .map(|entry| whole_reference(&entry.image))
            .collect();
        let is_wanted = |entry: &JournalEntry| {
            let is_image = entry.kind() == JournalKind::JournalImage;
            let is_its_own =
                self.is_in_pod(entry) && (self.container.is_none() || images.contains(&entry.name));
            is_image && (is_its_own || self.is_pull_before(entry, &own, all))
        };
        all.iter().filter(|entry| self.has(entry) || is_wanted(entry)).collect()
    }

    /// Whether this is the last pull, not for a known pod, of a container's image before its creation.
    fn is_pull_before(&self, pull: &JournalEntry, own: &[&JournalEntry], all: &[JournalEntry]) -> bool {
        let is_of_it = |entry: &&&JournalEntry| {
            let is_created = entry.kind() == JournalKind::JournalContainer
                && matches!(entry.action(), JournalAction::JournalCreate | JournalAction::JournalFail);
            is_created && entry.at >= pull.at && whole_reference(&entry.image) == pull.name
        };
        let Some(created) = own.iter().find(is_of_it).filter(|_| pull.pod.is_empty()) else { return false };
        let is_later = |other: &JournalEntry| {
            other.kind() == JournalKind::JournalImage
                && other.name == pull.name
                && other.at > pull.at
                && other.at <= created.at
        };
        !all.iter().any(is_later)
    }

    fn is_in_pod(&self, entry: &JournalEntry) -> bool {
        let same_uid = entry.pod_uid.is_empty() || self.pod_uid.is_empty() || entry.pod_uid == self.pod_uid;
        entry.pod == self.pod && entry.namespace == self.namespace && same_uid
    }

    fn has(&self, entry: &JournalEntry) -> bool {
        if !self.is_in_pod(entry) {
            return false;
        }
        let Some(container) = &self.container else { return entry.kind() != JournalKind::JournalImage };
        match entry.kind() {
            JournalKind::JournalContainer => {
                let is_it = |id: &String| entry.id.is_empty() || entry.id == *id;
                entry.name == *container && self.id.as_ref().is_none_or(is_it)
            }
            JournalKind::JournalPod => match entry.action() {
                JournalAction::JournalNote => entry.text.starts_with(container.as_str()),
                action => matches!(action, JournalAction::JournalFail | JournalAction::JournalDie),
            },
            JournalKind::JournalImage => false,
        }
    }

    /// Whether an operation under way concerns this subject.
    pub fn is_of(&self, operation: &RunningOperation) -> bool {
        let is_in_pod = operation.pod == self.pod && operation.namespace == self.namespace;
        let is_it =
            |name: &String| operation.kind() != JournalKind::JournalContainer || operation.name == *name;
        is_in_pod && self.container.as_ref().is_none_or(is_it)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, pod, pod_uid, container, id } = self;
        if let Some(container) = container {
            write!(f, "container {container} of ")?;
        }
        write!(f, "pod {namespace}/{pod}")?;
        match (id, pod_uid.as_str()) {
            (Some(id), _) => write!(f, " ({id})"),
            (None, "") => Ok(()),
            (None, uid) => write!(f, " (uid {uid})"),
        }
    }
}

fn newest_uid(entries: &[JournalEntry], subject: &Subject) -> String {
    let of_name = |entry: &&JournalEntry| {
        let is_it = subject.id.as_ref().is_none_or(|id| entry.id == *id);
        entry.pod == subject.pod && entry.namespace == subject.namespace && !entry.pod_uid.is_empty() && is_it
    };
    entries.iter().rev().find(of_name).map(|entry| entry.pod_uid.clone()).unwrap_or_default()
}

/// Finds subjects by an id or the beginning of one.
fn of_id(entries: &[JournalEntry], text: &str) -> Vec<Subject> {
    let is_meant = |entry: &&JournalEntry| !text.is_empty() && entry.id.starts_with(text);
    let meant: BTreeSet<(bool, Subject)> = entries
        .iter()
        .filter(is_meant)
        .filter_map(|entry| {
            let subject = Subject::of(entry).pop()?;
            let id = (entry.kind() == JournalKind::JournalContainer).then(|| entry.id.clone());
            Some((entry.id == text, Subject { id, pod_uid: entry.pod_uid.clone(), ..subject }))
        })
        .collect();
    let is_exact = meant.iter().any(|(is_exact, _)| *is_exact);
    meant.into_iter().filter(|(exact, _)| *exact || !is_exact).map(|(_, subject)| subject).collect()
}

/// `busybox` becomes `docker.io/library/busybox:latest`.
pub fn whole_reference(text: &str) -> String {
    Reference::parse(text).map_or_else(|_| text.to_owned(), |reference| reference.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: JournalKind, namespace: &str, pod: &str, name: &str, id: &str) -> JournalEntry {
        JournalEntry {
            kind: kind.into(),
            namespace: namespace.into(),
            pod: pod.into(),
            pod_uid: format!("uid-{pod}"),
            name: name.into(),
            id: id.into(),
            image: "busybox".into(),
            ..JournalEntry::default()
        }
    }

    fn history() -> Vec<JournalEntry> {
        use JournalKind::{JournalContainer as Container, JournalImage as Image, JournalPod as Pod};
        let mut pull = entry(Image, "", "", "docker.io/library/busybox:latest", "");
        pull.pod_uid.clear();
        let created = entry(Container, "a", "shop", "web", "c1");
        vec![
            JournalEntry { at: 1, ..pull.clone() },
            JournalEntry { at: 2, ..pull },
            entry(Pod, "a", "shop", "shop", "p1"),
            JournalEntry { at: 3, action: JournalAction::JournalCreate.into(), ..created },
            entry(Pod, "a", "store", "store", "p2"),
            entry(Container, "a", "store", "web", "c2"),
            entry(Container, "a", "store", "db", ""),
            entry(Pod, "b", "store", "store", "p3"),
        ]
    }

    #[test]
    fn names_and_ids_are_understood() {
        let found = |text: &str| {
            let found = Subject::find(&history(), &[], text);
            found.map(|subject| subject.full_name()).map_err(|error| error.to_string())
        };
        for (text, name) in [
            ("shop", "a/shop"),
            ("pod/shop", "a/shop"),
            ("b/store", "b/store"),
            ("db", "store/db"),
            ("store/web", "store/web"),
            ("c1", "shop/web"),
            ("p3", "b/store"),
        ] {
            assert_eq!(found(text).as_deref(), Ok(name), "{text}");
        }
        assert!(found("store").unwrap_err().contains("b/store"));
        assert!(found("web").unwrap_err().contains("shop/web"));
        assert!(found("none").unwrap_err().contains("none"));
    }

    #[test]
    fn the_last_pull_before_a_container_is_part_of_its_story() {
        let history = history();
        let subject = Subject::find(&history, &[], "shop").unwrap();
        let times: Vec<i64> = subject.entries(&history).iter().map(|entry| entry.at).collect();
        assert_eq!(times, [2, 0, 3], "one pull, the pod, the container");
        let alone = Subject::find(&history, &[], "c1").unwrap();
        assert_eq!(alone.id.as_deref(), Some("c1"));
        assert_eq!(alone.entries(&history).len(), 2);
    }
}
