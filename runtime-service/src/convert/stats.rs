//! Converts readings to proto messages.

use crisp_executor::cgroup::{MemoryStats, Psi, PsiLine, Stats};
use crisp_proto::runtime::v1 as proto;
use crisp_sandbox::network::InterfaceCounters;

use super::response;
use crate::stats::reading::Network;
use crate::stats::writable::Usage;
use crate::stats::{ContainerReading, PodReading};

fn value(value: u64) -> Option<proto::UInt64Value> {
    Some(proto::UInt64Value { value })
}

/// `mountpoint` of the file system with the writable layers, for `fs_id`.
#[must_use]
pub fn container(reading: &ContainerReading, mountpoint: &str) -> proto::ContainerStats {
    let counters = reading.cgroup.as_ref();
    proto::ContainerStats {
        attributes: Some(response::container_attributes(&reading.container)),
        cpu: counters.and_then(|stats| cpu(stats, reading.nano_cores)),
        memory: counters.and_then(memory),
        writable_layer: reading.writable.map(|usage| writable(&usage, mountpoint)),
        swap: counters.and_then(swap),
        io: counters.and_then(io),
    }
}

/// The values are those of the pod's own cgroup, or sums over its containers where it has none.
#[must_use]
pub fn pod(reading: &PodReading, mountpoint: &str) -> proto::PodSandboxStats {
    let containers: Vec<_> = reading.containers.iter().map(|c| container(c, mountpoint)).collect();
    let own = reading.cgroup.as_ref();
    let linux = proto::LinuxPodSandboxStats {
        cpu: own.and_then(|stats| cpu(stats, reading.nano_cores)).or_else(|| sum_cpu(&containers)),
        memory: own.and_then(memory).or_else(|| sum_memory(&containers)),
        network: reading.network.as_ref().map(network),
        process: processes(reading),
        io: own.and_then(io),
        containers,
    };
    proto::PodSandboxStats {
        attributes: Some(response::pod_attributes(&reading.pod)),
        linux: Some(linux),
        windows: None,
    }
}

fn cpu(stats: &Stats, nano_cores: Option<u64>) -> Option<proto::CpuUsage> {
    let cpu = stats.cpu.as_ref()?;
    Some(proto::CpuUsage {
        timestamp: stats.timestamp_ns,
        usage_core_nano_seconds: value(cpu.usage_ns),
        usage_nano_cores: nano_cores.and_then(value),
        psi: cpu.psi.as_ref().map(psi),
    })
}

fn memory(stats: &Stats) -> Option<proto::MemoryUsage> {
    let memory: &MemoryStats = stats.memory.as_ref()?;
    Some(proto::MemoryUsage {
        timestamp: stats.timestamp_ns,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.available.and_then(value),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: memory.psi.as_ref().map(psi),
    })
}

fn swap(stats: &Stats) -> Option<proto::SwapUsage> {
    let swap = stats.swap.as_ref()?;
    Some(proto::SwapUsage {
        timestamp: stats.timestamp_ns,
        swap_available_bytes: swap.limit.map(|limit| limit.saturating_sub(swap.usage)).and_then(value),
        swap_usage_bytes: value(swap.usage),
    })
}

fn io(stats: &Stats) -> Option<proto::IoUsage> {
    let pressure = stats.io.as_ref()?.psi.as_ref()?;
    Some(proto::IoUsage { timestamp: stats.timestamp_ns, psi: Some(psi(pressure)) })
}

fn psi(pressure: &Psi) -> proto::PsiStats {
    let line = |line: &PsiLine| proto::PsiData {
        total: line.total_us,
        avg10: f64::from(line.avg10) / 100.0,
        avg60: f64::from(line.avg60) / 100.0,
        avg300: f64::from(line.avg300) / 100.0,
    };
    proto::PsiStats { full: Some(line(&pressure.full)), some: Some(line(&pressure.some)) }
}

fn writable(usage: &Usage, mountpoint: &str) -> proto::FilesystemUsage {
    proto::FilesystemUsage {
        timestamp: usage.at,
        fs_id: Some(proto::FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
        used_bytes: value(usage.bytes),
        inodes_used: value(usage.inodes),
    }
}

fn network(network: &Network) -> proto::NetworkUsage {
    let interface = |(name, counters): &(String, InterfaceCounters)| proto::NetworkInterfaceUsage {
        name: name.clone(),
        rx_bytes: value(counters.rx_bytes),
        rx_errors: value(counters.rx_errors),
        tx_bytes: value(counters.tx_bytes),
        tx_errors: value(counters.tx_errors),
    };
    proto::NetworkUsage {
        timestamp: network.at,
        default_interface: network.default.as_ref().map(interface),
        interfaces: network.others.iter().map(interface).collect(),
    }
}

fn processes(reading: &PodReading) -> Option<proto::ProcessUsage> {
    let of = |stats: &Option<Stats>| {
        let stats = stats.as_ref()?;
        Some((stats.timestamp_ns, stats.pids.as_ref()?.current))
    };
    let all = match of(&reading.cgroup) {
        Some(own) => vec![own],
        None => reading.containers.iter().filter_map(|c| of(&c.cgroup)).collect(),
    };
    let timestamp = all.iter().map(|(at, _)| *at).max()?;
    Some(proto::ProcessUsage { timestamp, process_count: value(all.iter().map(|(_, n)| n).sum()) })
}

fn sum_cpu(containers: &[proto::ContainerStats]) -> Option<proto::CpuUsage> {
    let all: Vec<_> = containers.iter().filter_map(|c| c.cpu.as_ref()).collect();
    let sum = |get: fn(&proto::CpuUsage) -> Option<proto::UInt64Value>| total(all.iter().map(|c| get(c)));
    Some(proto::CpuUsage {
        timestamp: all.iter().map(|c| c.timestamp).max()?,
        usage_core_nano_seconds: sum(|c| c.usage_core_nano_seconds),
        usage_nano_cores: sum(|c| c.usage_nano_cores),
        psi: None,
    })
}

fn sum_memory(containers: &[proto::ContainerStats]) -> Option<proto::MemoryUsage> {
    let all: Vec<_> = containers.iter().filter_map(|c| c.memory.as_ref()).collect();
    let sum = |get: fn(&proto::MemoryUsage) -> Option<proto::UInt64Value>| total(all.iter().map(|m| get(m)));
    Some(proto::MemoryUsage {
        timestamp: all.iter().map(|m| m.timestamp).max()?,
        working_set_bytes: sum(|m| m.working_set_bytes),
        available_bytes: None,
        usage_bytes: sum(|m| m.usage_bytes),
        rss_bytes: sum(|m| m.rss_bytes),
        page_faults: sum(|m| m.page_faults),
        major_page_faults: sum(|m| m.major_page_faults),
        psi: None,
    })
}

/// None when no container has a value.
fn total(values: impl Iterator<Item = Option<proto::UInt64Value>>) -> Option<proto::UInt64Value> {
    values.flatten().map(|v| v.value).reduce(|a, b| a + b).and_then(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_in_percent() {
        let line = PsiLine { avg10: 1234, avg60: 0, avg300: 5, total_us: 7 };
        let converted = psi(&Psi { some: line, full: PsiLine::default() });
        let some = converted.some.unwrap();
        assert_eq!((some.avg10, some.avg300, some.total), (12.34, 0.05, 7));
    }

    #[test]
    fn sums_without_values_are_none() {
        assert_eq!(sum_cpu(&[]), None);
        let one = |n| proto::ContainerStats {
            cpu: Some(proto::CpuUsage {
                timestamp: 1,
                usage_core_nano_seconds: value(n),
                ..Default::default()
            }),
            ..Default::default()
        };
        let sum = sum_cpu(&[one(1), one(2)]).unwrap();
        assert_eq!((sum.usage_core_nano_seconds, sum.usage_nano_cores), (value(3), None));
    }
}
