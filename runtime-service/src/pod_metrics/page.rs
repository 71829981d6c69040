//! Samples in Prometheus' text format: all samples of one metric together, for all subjects.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Subject;
use super::family::{Family, Kind, Samples, Value};

/// The samples of all subjects, collected in one pass over them.
#[derive(Debug, Default)]
pub(super) struct Page {
    families: BTreeMap<&'static str, (&'static Family, String)>,
}

/// Receives the samples of one subject.
pub(super) struct OfSubject<'a> {
    page: &'a mut Page,
    /// `container="web",id="...` of every line.
    labels: String,
}

impl Page {
    pub(super) fn of(&mut self, subject: &Subject) -> OfSubject<'_> {
        let mut labels = String::new();
        for (name, value) in Subject::LABELS.iter().zip(subject.values()) {
            add_label(&mut labels, name, value);
        }
        OfSubject { page: self, labels }
    }

    pub(super) fn write(self, text: &mut String) {
        for (name, (family, lines)) in self.families {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n{lines}", family.help);
        }
    }
}

impl Samples for OfSubject<'_> {
    fn add(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        let (_, lines) = self.page.families.entry(family.name).or_insert((family, String::new()));
        lines.push_str(family.name);
        lines.push('{');
        lines.push_str(&self.labels);
        for (name, value) in family.labels.iter().zip(labels) {
            add_label(lines, name, value);
        }
        // The last comma is allowed, but unusual.
        lines.pop();
        let _ = writeln!(lines, "}} {value}");
    }
}

/// With a comma behind it.
fn add_label(line: &mut String, name: &str, value: &str) {
    line.push_str(name);
    line.push_str("=\"");
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
