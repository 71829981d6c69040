//! How long processes waited for a resource (PSI).

use crisp_executor::cgroup::{Psi, Stats};

use super::family::Kind::Counter;
use super::family::{Family, Samples, Value};

const CPU_WAITING: Family = Family {
    name: "container_pressure_cpu_waiting_seconds_total",
    help: "Time in which a process waited for cpu, in seconds.",
    kind: Counter,
    labels: &[],
};
const CPU_STALLED: Family = Family {
    name: "container_pressure_cpu_stalled_seconds_total",
    help: "Time in which all processes waited for cpu, in seconds.",
    kind: Counter,
    labels: &[],
};
const MEMORY_WAITING: Family = Family {
    name: "container_pressure_memory_waiting_seconds_total",
    help: "Time in which a process waited for memory, in seconds.",
    kind: Counter,
    labels: &[],
};
const MEMORY_STALLED: Family = Family {
    name: "container_pressure_memory_stalled_seconds_total",
    help: "Time in which all processes waited for memory, in seconds.",
    kind: Counter,
    labels: &[],
};
const IO_WAITING: Family = Family {
    name: "container_pressure_io_waiting_seconds_total",
    help: "Time in which a process waited for input or output, in seconds.",
    kind: Counter,
    labels: &[],
};
const IO_STALLED: Family = Family {
    name: "container_pressure_io_stalled_seconds_total",
    help: "Time in which all processes waited for input or output, in seconds.",
    kind: Counter,
    labels: &[],
};

pub(super) const FAMILIES: &[Family] =
    &[CPU_WAITING, CPU_STALLED, MEMORY_WAITING, MEMORY_STALLED, IO_WAITING, IO_STALLED];

pub(super) fn usage(stats: &Stats, samples: &mut impl Samples) {
    let cpu = stats.cpu.as_ref().and_then(|cpu| cpu.psi.as_ref());
    let memory = stats.memory.as_ref().and_then(|memory| memory.psi.as_ref());
    let io = stats.io.as_ref().and_then(|io| io.psi.as_ref());
    for (psi, waiting, stalled) in [
        (cpu, &CPU_WAITING, &CPU_STALLED),
        (memory, &MEMORY_WAITING, &MEMORY_STALLED),
        (io, &IO_WAITING, &IO_STALLED),
    ] {
        let Some(Psi { some, full }) = psi else { continue };
        samples.add(waiting, &[], Value::Microseconds(some.total_us));
        samples.add(stalled, &[], Value::Microseconds(full.total_us));
    }
}
