//! The comparison as the table in the documentation of crisp-metrics, with the reasons of all differences.

use std::fmt::Write as _;
use std::path::Path;

use crisp_e2e::programs::{CONTAINERD, KUBELET};

use super::compare::{Comparison, Pair, Series, Subject};
use super::reasons::{HostKind, Reason};

/// When it is 1, the test writes the file instead of comparing it.
const WRITE: &str = "CRISP_CADVISOR_WRITE";
fn head(host: HostKind) -> String {
    let cgroups = match host {
        HostKind::V1 => "v1",
        HostKind::V2 => "v2",
    };
    format!(
        "# The series of containers on cgroup {cgroups}, beside those of a kubelet with containerd

Crisp's page `/metrics/cadvisor` and the page of that name of a kubelet {} with containerd {}, on cgroup {cgroups},
for the same pod: its container `limited` has limits of CPU and memory, `free` has none. A test in
`e2e/tests/e2e/cadvisor` makes this table; it compares names, types, labels and values. A kubelet with the
feature gate PodAndContainerStatsFromCRI has the series of Crisp, with times in whole seconds.

Columns: the cgroup of the pod; its sandbox, which is the pause container of containerd, and in Crisp the
network of the pod; and the two containers. *both*: the same on both pages; *kubelet*, *Crisp*: on that page
alone; *differs*: on both, with another value. The numbers are those of the reasons below the table.

| series | type | pod | sandbox | `limited` | `free` | why |
|---|---|---|---|---|---|---|
",
        KUBELET.version(),
        CONTAINERD.version()
    )
}

/// Returns the table, and what is wrong with the comparison: differences without a reason, and reasons
/// without a difference.
pub fn table(comparison: &Comparison, host: HostKind, reasons: &[&Reason]) -> (String, Vec<String>) {
    let mut text = head(host);
    let mut problems = Vec::new();
    let mut is_needed = vec![false; reasons.len()];
    for (series, pairs) in comparison {
        let mut cells = Vec::new();
        let mut why = Vec::new();
        for subject in Subject::ALL {
            let pair = pairs.get(&subject).cloned().unwrap_or_default();
            let difference = pair.difference(series);
            cells.push(cell(&pair, difference.is_some()));
            let Some(difference) = difference else { continue };
            let reason = reasons.iter().position(|reason| reason.explains(series, subject, difference));
            match reason {
                Some(number) => {
                    is_needed[number] = true;
                    why.push(number + 1);
                }
                None => problems.push(format!("no reason: {series:?} {subject:?} {difference:?}: {pair:?}")),
            }
        }
        why.sort_unstable();
        why.dedup();
        let why: Vec<_> = why.iter().map(ToString::to_string).collect();
        let kind = pairs.values().find_map(|pair| pair.theirs.as_ref().or(pair.ours.as_ref()));
        let kind = kind.map_or("", |found| &found.kind);
        let _ = writeln!(text, "| {} | {kind} | {} | {} |", named(series), cells.join(" | "), why.join(", "));
    }
    text.push_str("\n## Reasons\n\n");
    for (number, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {}", number + 1, reason.text);
        if !is_needed[number] {
            problems.push(format!("there is no such difference: {:?}", reason.text));
        }
    }
    (text, problems)
}

fn named(series: &Series) -> String {
    match &*series.labels {
        "" => format!("`{}`", series.family),
        labels => format!("`{}{{{labels}}}`", series.family),
    }
}

fn cell(pair: &Pair, differs: bool) -> &'static str {
    match (&pair.theirs, &pair.ours) {
        (None, None) => "",
        (Some(_), None) => "kubelet",
        (None, Some(_)) => "Crisp",
        (Some(_), Some(_)) if differs => "differs",
        (Some(_), Some(_)) => "both",
    }
}

/// Compares the file in the documentation with the table.
pub fn is_documented(expected: &str, host: HostKind) {
    let name = match host {
        HostKind::V1 => "CADVISOR.md",
        HostKind::V2 => "CADVISOR-V2.md",
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../metrics").join(name);
    if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        std::fs::write(&file, expected).expect("the table can be written");
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = text.lines().zip(expected.lines()).find(|(is, should)| is != should);
    assert!(
        text == expected,
        "{} is not what this machine has ({differs:?}): {WRITE}=1 cargo test -p crisp-e2e --test e2e cadvisor \
         writes it anew:\n{expected}",
        file.display()
    );
}

#[test]
fn differences_need_a_reason_and_reasons_a_difference() {
    use crisp_e2e::exposition::parse;

    let theirs = parse(
        "# TYPE a gauge\na{pod=\"p\"} 1\n# TYPE container_health_state gauge\ncontainer_health_state{pod=\"p\"} -1\n",
    );
    let theirs = theirs.expect("a page");
    let health: Vec<_> =
        super::reasons::REASONS.iter().filter(|reason| reason.text.starts_with("Always -1")).collect();
    let comparison = super::compare::compare(&theirs, &[]);
    let (text, problems) = table(&comparison, HostKind::V1, &health);
    assert!(text.contains("| `container_health_state` | gauge | kubelet |  |  |  | 1 |\n"), "{text}");
    assert!(
        problems.len() == 1 && problems[0].starts_with("no reason: Series { family: \"a\""),
        "{problems:?}"
    );
    let comparison = super::compare::compare(&theirs[..1], &theirs[..1]);
    let (text, problems) = table(&comparison, HostKind::V1, &health);
    assert!(text.contains("| `a` | gauge | both |  |  |  |  |\n"), "{text}");
    assert!(problems.len() == 1 && problems[0].starts_with("there is no such difference"), "{problems:?}");
}
