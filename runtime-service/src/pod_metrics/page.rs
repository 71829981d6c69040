//! Samples in Prometheus' text format: all samples of one metric together, for all subjects.

use std::fmt::Write as _;
use std::ops::Range;

use super::Subject;
use super::family::{Family, Kind, Samples, Value};

/// The samples of all subjects, collected in one pass over them.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The labels of each subject: `container="web",id="...",`.
    subjects: Vec<String>,
    /// In the order of their first samples.
    families: Vec<(&'static Family, Vec<Sample>)>,
    /// The index of the family of the last sample. Most subjects have their samples in the same order.
    last: usize,
    /// The samples' other labels, one behind the other.
    labels: String,
}

/// A line of the page, which is not text yet: with its labels it will have some 300 bytes.
#[derive(Debug)]
struct Sample {
    subject: usize,
    /// In [`Page::labels`].
    labels: Range<usize>,
    value: Value,
}

/// Receives the samples of one subject.
pub(super) struct OfSubject<'a> {
    page: &'a mut Page,
}

impl Page {
    pub(super) fn of(&mut self, subject: &Subject) -> OfSubject<'_> {
        let mut labels = String::with_capacity(512);
        for (name, value) in Subject::LABELS.iter().zip(subject.values()) {
            add_label(&mut labels, name, value);
        }
        self.subjects.push(labels);
        OfSubject { page: self }
    }

    /// The index of a family.
    fn find(&mut self, family: &'static Family) -> usize {
        let is_it = |index: &usize| self.families.get(*index).is_some_and(|(is, _)| is.name == family.name);
        let guess = [self.last + 1, self.last].into_iter().find(is_it);
        guess.or_else(|| (0..self.families.len()).find(is_it)).unwrap_or_else(|| {
            self.families.push((family, Vec::new()));
            self.families.len() - 1
        })
    }

    /// Not less than the length of the text.
    fn length(&self) -> usize {
        let of_family = |(family, samples): &(&Family, Vec<Sample>)| {
            let name = family.name.len();
            let line = |sample: &Sample| {
                name + self.subjects[sample.subject].len()
                    + sample.labels.len()
                    + "{} \n".len()
                    + Value::MAX_LENGTH
            };
            2 * (name + "# HELP  counter\n".len())
                + family.help.len()
                + samples.iter().map(line).sum::<usize>()
        };
        self.families.iter().map(of_family).sum()
    }

    pub(super) fn write(mut self, text: &mut String) {
        self.families.sort_by_key(|(family, _)| family.name);
        text.reserve(self.length());
        for (family, samples) in &self.families {
            let Family { name, help, .. } = family;
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for sample in samples {
                text.push_str(name);
                text.push('{');
                text.push_str(&self.subjects[sample.subject]);
                text.push_str(&self.labels[sample.labels.clone()]);
                // The last comma is allowed, but unusual.
                text.pop();
                text.push_str("} ");
                sample.value.write(text);
                text.push('\n');
            }
        }
    }
}

impl Samples for OfSubject<'_> {
    fn add(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        let page = &mut *self.page;
        page.last = page.find(family);
        let start = page.labels.len();
        for (name, value) in family.labels.iter().zip(labels) {
            add_label(&mut page.labels, name, value);
        }
        let (subject, labels) = (page.subjects.len() - 1, start..page.labels.len());
        page.families[page.last].1.push(Sample { subject, labels, value });
    }
}

/// With a comma behind it.
fn add_label(line: &mut String, name: &str, value: &str) {
    line.push_str(name);
    line.push_str("=\"");
    if !value.contains(['\\', '"', '\n']) {
        line.push_str(value);
        line.push_str("\",");
        return;
    }
    for character in value.chars() {
        match character {
            '\\' => line.push_str("\\\\"),
            '"' => line.push_str("\\\""),
            '\n' => line.push_str("\\n"),
            other => line.push(other),
        }
    }
    line.push_str("\",");
}

#[cfg(test)]
mod tests {
    use super::*;

    static TIME: Family =
        Family { name: "b_seconds_total", help: "Time.", kind: Kind::Counter, labels: &["cpu"] };
    static SIZE: Family = Family { name: "a_bytes", help: "Size.", kind: Kind::Gauge, labels: &[] };

    #[test]
    fn samples_of_one_metric_are_together_and_labels_are_escaped() {
        let mut page = Page::default();
        for pod in ["one", "two \"\\\n"] {
            let mut samples = page.of(&Subject { pod: pod.to_owned(), ..Subject::default() });
            samples.add(&TIME, &["total"], Value::Nanoseconds(1_500_000_000));
            samples.add(&SIZE, &[], Value::Count(7));
        }
        let mut text = String::new();
        page.write(&mut text);
        let labels = r#"container="",id="",image="",name="",namespace="",pod="#;
        assert_eq!(
            text,
            format!(
                "# HELP a_bytes Size.\n# TYPE a_bytes gauge\na_bytes{{{labels}\"one\"}} 7\na_bytes{{{labels}\"two \\\"\\\\\\n\"}} 7\n\
                 # HELP b_seconds_total Time.\n# TYPE b_seconds_total counter\n\
                 b_seconds_total{{{labels}\"one\",cpu=\"total\"}} 1.500000000\n\
                 b_seconds_total{{{labels}\"two \\\"\\\\\\n\",cpu=\"total\"}} 1.500000000\n"
            )
        );
    }
}
