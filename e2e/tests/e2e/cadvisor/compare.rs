//! Lays the samples of both runtimes side by side.

use std::collections::{BTreeMap, BTreeSet};

use crisp_e2e::exposition::Sample;

use super::workload::CONTAINERS;

/// The owner of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The pod's cgroup.
    Pod,
    /// The pause container of containerd; the network of the pod in Crisp.
    Sandbox,
    Limited,
    Free,
}

impl Subject {
    pub const ALL: [Self; 4] = [Self::Pod, Self::Sandbox, Self::Limited, Self::Free];

    fn of(sample: &Sample) -> Self {
        match (sample.label("container"), sample.label("name")) {
            (container, _) if container == CONTAINERS[0] => Self::Limited,
            (container, _) if container == CONTAINERS[1] => Self::Free,
            (_, "") => Self::Pod,
            _ => Self::Sandbox,
        }
    }
}

/// The labels that every sample has: they name the subject.
const OF_SUBJECT: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];
/// Labels whose values depend on the machine.
const OF_MACHINE: [&str; 3] = ["device", "major", "minor"];

/// A metric with the values of its own labels, such as `container_cpu_usage_seconds_total{cpu="total"}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub family: String,
    pub labels: String,
}

impl Series {
    fn of(sample: &Sample) -> Self {
        let own = sample.labels.iter().filter(|(name, _)| !OF_SUBJECT.contains(&name.as_str()));
        let text = |(name, value): (&String, &String)| {
            let is_name = OF_MACHINE.contains(&name.as_str()) && !value.is_empty();
            format!("{name}={}", if is_name { "…".to_owned() } else { format!("\"{value}\"") })
        };
        Self { family: sample.family.clone(), labels: own.map(text).collect::<Vec<_>>().join(",") }
    }
}

/// The samples of one series, subject and runtime: several when the machine has several disks.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub kind: String,
    /// Names of all labels.
    pub names: BTreeSet<String>,
    /// Their sum.
    pub value: f64,
}

/// The same of both runtimes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pair {
    pub theirs: Option<Found>,
    pub ours: Option<Found>,
}

/// How the two of a pair differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    OnlyTheirs,
    OnlyOurs,
    Kind,
    LabelNames,
    Value,
}

pub type Comparison = BTreeMap<Series, BTreeMap<Subject, Pair>>;

pub fn compare(theirs: &[Sample], ours: &[Sample]) -> Comparison {
    let mut all = Comparison::new();
    for (samples, is_ours) in [(theirs, false), (ours, true)] {
        for sample in samples {
            let pair = all.entry(Series::of(sample)).or_default().entry(Subject::of(sample)).or_default();
            let side = if is_ours { &mut pair.ours } else { &mut pair.theirs };
            let found = side.get_or_insert_with(|| Found {
                kind: sample.kind.clone(),
                names: sample.labels.keys().cloned().collect(),
                value: 0.0,
            });
            found.value += sample.value;
        }
    }
    all
}

impl Pair {
    /// None when they are equal, as far as two runs can be.
    pub fn difference(&self, series: &Series) -> Option<Difference> {
        match (&self.theirs, &self.ours) {
            (None, None) => None,
            (Some(_), None) => Some(Difference::OnlyTheirs),
            (None, Some(_)) => Some(Difference::OnlyOurs),
            (Some(theirs), Some(ours)) if theirs.kind != ours.kind => Some(Difference::Kind),
            (Some(theirs), Some(ours)) if theirs.names != ours.names => Some(Difference::LabelNames),
            (Some(theirs), Some(ours)) => {
                let is_near = Tolerance::of(&series.family).allows(theirs.value, ours.value);
                (!is_near).then_some(Difference::Value)
            }
        }
    }
}

/// How far the values of two runs of the same pod may be apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    None,
    /// Seconds, for points in time: one pod runs after the other.
    Minutes,
    /// They differ by at most that much, or by at most [`FACTOR`]: a wrong unit is further away.
    Noise(f64),
}

const FACTOR: f64 = 5.0;

impl Tolerance {
    pub fn of(family: &str) -> Self {
        match family {
            "container_processes"
            | "container_threads"
            | "container_threads_max"
            | "container_ulimits_soft"
            | "container_fs_inodes_total"
            | "container_fs_limit_bytes"
            | "container_oom_events_total" => Self::None,
            "container_start_time_seconds" | "container_last_seen" => Self::Minutes,
            family if family.starts_with("container_spec_") => Self::None,
            "container_memory_failures_total" | "container_memory_failcnt" => Self::Noise(50.0),
            // The kernel divides the time of a process by where its ticks found it.
            "container_cpu_system_seconds_total" | "container_cpu_user_seconds_total" => Self::Noise(10.0),
            // Of all threads; it grows with what else runs on the machine.
            "container_cpu_cfs_throttled_seconds_total" => Self::Noise(60.0),
            family if family.contains("_seconds") => Self::Noise(0.5),
            family if family.starts_with("container_network_") && family.contains("_bytes") => {
                Self::Noise(1000.0)
            }
            family if family.contains("_bytes") || family.starts_with("container_memory_") => {
                Self::Noise(1_000_000.0)
            }
            _ => Self::Noise(20.0),
        }
    }

    #[expect(clippy::float_cmp, reason = "whole numbers, without arithmetic")]
    fn allows(self, a: f64, b: f64) -> bool {
        match self {
            Self::None => a == b,
            Self::Minutes => (a - b).abs() < 1200.0,
            Self::Noise(floor) => (a - b).abs() <= floor || (a < b * FACTOR && b < a * FACTOR),
        }
    }
}

#[test]
fn a_wrong_unit_is_a_difference() {
    let series = |family: &str| Series { family: family.into(), labels: String::new() };
    let found = |value| Some(Found { kind: "gauge".into(), names: BTreeSet::new(), value });
    let pair = |theirs, ours| Pair { theirs: found(theirs), ours: found(ours) };
    let seconds = series("container_cpu_usage_seconds_total");
    assert_eq!(pair(2.0, 2_000_000_000.0).difference(&seconds), Some(Difference::Value));
    assert_eq!(pair(2.0, 2000.0).difference(&seconds), Some(Difference::Value));
    assert_eq!(pair(2.0, 3.0).difference(&seconds), None);
    let bytes = series("container_memory_usage_bytes");
    assert_eq!(pair(8_000_000.0, 8000.0).difference(&bytes), Some(Difference::Value));
    assert_eq!(pair(8_000_000.0, 1953.0).difference(&bytes), Some(Difference::Value));
    assert_eq!(pair(1.0, 2.0).difference(&series("container_spec_cpu_shares")), Some(Difference::Value));
    let other = Pair { theirs: found(1.0), ours: None };
    assert_eq!(other.difference(&bytes), Some(Difference::OnlyTheirs));
}
