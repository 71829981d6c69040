//! The kubelet's /stats/summary.

use std::collections::BTreeSet;

use serde_json::Value;

use super::workload::{CONTAINERS, WRITTEN};

/// Values that a kubelet with containerd has, and with Crisp has not.
const NOT_IN_THE_CRI: [&str; 7] = [
    // LinuxPodSandboxStats has no swap.
    "/swap/swapUsageBytes",
    "/swap/time",
    // NetworkUsage.interfaces is without the default one.
    "/network/interfaces/eth0/name",
    "/network/interfaces/eth0/rxBytes",
    "/network/interfaces/eth0/rxErrors",
    "/network/interfaces/eth0/txBytes",
    "/network/interfaces/eth0/txErrors",
];

/// Whether the rates are there, which need two measurements.
pub fn has_rates(pod: &Value) -> bool {
    let has = |one: &Value| one["cpu"]["usageNanoCores"].is_u64();
    has(pod) && pod["containers"].as_array().is_some_and(|all| all.iter().all(has))
}

/// Asserts that a pod has figures of both containers, and its own.
pub fn is_full(pod: &Value) {
    let above = |least: u64, pointer: &str| {
        let value = pod.pointer(pointer).and_then(Value::as_u64);
        assert!(value.is_some_and(|value| value > least), "{pointer}: {value:?}, not above {least}: {pod:#}");
    };
    let containers: Vec<_> = pod["containers"].as_array().into_iter().flatten().collect();
    assert_eq!(containers.len(), CONTAINERS.len(), "{pod:#}");
    for number in 0..containers.len() {
        let above = |least, field: &str| above(least, &format!("/containers/{number}/{field}"));
        above(100_000_000, "cpu/usageCoreNanoSeconds");
        above(8_000_000, "memory/usageBytes");
        above(8_000_000, "memory/workingSetBytes");
        above(7_000_000, "memory/rssBytes");
        above(1000, "memory/pageFaults");
        above(WRITTEN - 1, "rootfs/usedBytes");
        above(0, "rootfs/inodesUsed");
        above(WRITTEN, "rootfs/capacityBytes");
        above(0, "logs/usedBytes");
    }
    above(200_000_000, "/cpu/usageCoreNanoSeconds");
    above(16_000_000, "/memory/workingSetBytes");
    above(0, "/network/rxBytes");
    above(0, "/network/txBytes");
    above(3, "/process_stats/process_count");
    above(2 * WRITTEN, "/ephemeral-storage/usedBytes");
}

/// Asserts that our pod has each value that the other has.
pub fn lacks_nothing(theirs: &Value, ours: &Value) {
    let (mut has, mut should) = (BTreeSet::new(), BTreeSet::new());
    add_paths("", ours, &mut has);
    add_paths("", theirs, &mut should);
    let lacking: BTreeSet<&str> = should.difference(&has).map(String::as_str).collect();
    assert_eq!(lacking, BTreeSet::from(NOT_IN_THE_CRI), "{ours:#}");
}

/// The paths of all values; elements of lists by their names.
fn add_paths(at: &str, value: &Value, paths: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| add_paths(&format!("{at}/{name}"), value, paths));
        }
        Value::Array(elements) => {
            for element in elements {
                add_paths(&format!("{at}/{}", element["name"].as_str().unwrap_or_default()), element, paths);
            }
        }
        _ => {
            paths.insert(at.to_owned());
        }
    }
}
