//! Why series differ.

use std::path::Path;

use super::compare::{Difference, Series, Subject};

/// The cgroups of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    V1,
    V2,
}

impl HostKind {
    pub fn of_this() -> Self {
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { Self::V2 } else { Self::V1 }
    }
}

const BOTH: &[HostKind] = &[HostKind::V1, HostKind::V2];
const V1: &[HostKind] = &[HostKind::V1];
const V2: &[HostKind] = &[HostKind::V2];

/// A reason, and the differences that it explains.
#[derive(Debug)]
pub struct Reason {
    pub text: &'static str,
    hosts: &'static [HostKind],
    difference: Difference,
    subjects: &'static [Subject],
    /// Names of metrics, which may be followed by the value of a label. One that ends with `*` stands for all
    /// that begin so.
    families: &'static [&'static str],
}

impl Reason {
    pub fn is_of(&self, host: HostKind) -> bool {
        self.hosts.contains(&host)
    }

    pub fn explains(&self, series: &Series, subject: Subject, difference: Difference) -> bool {
        let is_named = |name: &&str| match (name.strip_suffix('*'), name.split_once(' ')) {
            (Some(beginning), _) => series.family.starts_with(beginning),
            (None, Some((name, value))) => {
                series.family == name && series.labels.contains(&format!("\"{value}\""))
            }
            (None, None) => series.family == **name,
        };
        self.difference == difference
            && self.subjects.contains(&subject)
            && self.families.iter().any(is_named)
    }
}

/// All but the sandbox.
const CGROUPS: &[Subject] = &[Subject::Pod, Subject::Limited, Subject::Free];

pub const REASONS: &[Reason] = &[
    Reason {
        text: "Crisp has no pause container. The series of a pod's network are there, with the image `crisp`.",
        hosts: BOTH,
        difference: Difference::OnlyTheirs,
        subjects: &[Subject::Sandbox],
        families: &["*"],
    },
    Reason {
        text: "Always 0: a kubelet does not have them counted.",
        hosts: BOTH,
        difference: Difference::OnlyTheirs,
        subjects: CGROUPS,
        families: &[
            "container_cpu_load_average_10s",
            "container_cpu_load_d_average_10s",
            "container_tasks_state",
        ],
    },
    Reason {
        text: "Always -1: cAdvisor knows no health of these containers.",
        hosts: BOTH,
        difference: Difference::OnlyTheirs,
        subjects: CGROUPS,
        families: &["container_health_state"],
    },
    Reason {
        text: "Always 0: the CRI has no reservation of memory, and a kubelet sets none.",
        hosts: BOTH,
        difference: Difference::OnlyTheirs,
        subjects: CGROUPS,
        families: &["container_spec_memory_reservation_limit_bytes"],
    },
    Reason {
        text: "The kubelet sets the CPU limits of a pod's cgroup itself, from those of the containers. Crisp \
               has the limits that it sets.",
        hosts: BOTH,
        difference: Difference::OnlyTheirs,
        subjects: &[Subject::Pod],
        families: &["container_spec_cpu_*"],
    },
    Reason {
        text: "Always 0: the processes of a pod are in the cgroups of its containers, and cAdvisor does not add \
               them up.",
        hosts: BOTH,
        difference: Difference::OnlyTheirs,
        subjects: &[Subject::Pod],
        families: &["container_file_descriptors", "container_processes", "container_sockets"],
    },
    Reason {
        text: "Always 0: a process that was killed counts for its container.",
        hosts: BOTH,
        difference: Difference::OnlyTheirs,
        subjects: &[Subject::Pod],
        families: &["container_oom_events_total"],
    },
    Reason {
        text: "cAdvisor counts the page faults of processes in the cgroup itself, and a pod's has none. Crisp \
               counts those of its containers.",
        hosts: V1,
        difference: Difference::Value,
        subjects: &[Subject::Pod],
        families: &["container_memory_failures_total"],
    },
    Reason {
        text: "cgroup v1 counts each byte several times: by direction, by whether it was waited for, and in \
               total. Crisp has the directions, which are all that there is on cgroup v2.",
        hosts: V1,
        difference: Difference::OnlyTheirs,
        subjects: CGROUPS,
        families: &[
            "container_blkio_device_usage_total Async",
            "container_blkio_device_usage_total Discard",
            "container_blkio_device_usage_total Sync",
            "container_blkio_device_usage_total Total",
        ],
    },
    Reason {
        text: "cAdvisor does not measure the writable layers of containerd's containers.",
        hosts: BOTH,
        difference: Difference::OnlyOurs,
        subjects: &[Subject::Limited, Subject::Free],
        families: &[
            "container_fs_inodes_free",
            "container_fs_inodes_total",
            "container_fs_limit_bytes",
            "container_fs_usage_bytes",
        ],
    },
    Reason {
        text: "cAdvisor reads the pressure of cgroup v2 alone, Crisp also that of the v2 tree beside v1.",
        hosts: V1,
        difference: Difference::OnlyOurs,
        subjects: CGROUPS,
        families: &["container_pressure_*"],
    },
    Reason {
        text: "Always 0 with cAdvisor on cgroup v2. Crisp counts how often the limit was hit.",
        hosts: V2,
        difference: Difference::Value,
        subjects: &[Subject::Pod, Subject::Limited],
        families: &["container_memory_failcnt"],
    },
    Reason {
        text: "cAdvisor computes shares from the weight of cgroup v2 with a line, runtimes the weight from shares \
               with a curve. Crisp has the shares that the kubelet set.",
        hosts: V2,
        difference: Difference::Value,
        subjects: &[Subject::Limited],
        families: &["container_spec_cpu_shares"],
    },
    Reason {
        text: "A container of containerd has the limits that containerd runs with, 1024 on this host. One of Crisp has \
               65536 on every host.",
        hosts: V2,
        difference: Difference::Value,
        subjects: &[Subject::Limited, Subject::Free],
        families: &["container_ulimits_soft"],
    },
];
