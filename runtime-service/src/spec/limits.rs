//! Resource limits: cgroup limits of the request, rlimits of every container.

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxResources, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType,
};

use rustix::process::{Resource, getrlimit};

use crate::container::config::Resources;

const UNLIMITED: u64 = u64::MAX;

/// Soft and hard limits. They are the same for every container on every host, independent of the limits of
/// the server, as far as that may raise them.
const RLIMITS: [(PosixRlimitType, Resource, u64, u64); 8] = [
    (PosixRlimitType::RlimitAs, Resource::As, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitCore, Resource::Core, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitCpu, Resource::Cpu, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitData, Resource::Data, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitFsize, Resource::Fsize, UNLIMITED, UNLIMITED),
    // Enough for servers. With a million, programs that close every possible descriptor take seconds.
    (PosixRlimitType::RlimitNofile, Resource::Nofile, 65_536, 1_048_576),
    (PosixRlimitType::RlimitNproc, Resource::Nproc, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitStack, Resource::Stack, 8 << 20, UNLIMITED),
];

/// The limits of every container. `highest` is the highest hard limit that can be set: a lower one is set
/// instead, and logged, because otherwise every start and every exec would find that out. The executor lowers
/// those that a monitor may not set.
#[must_use]
pub fn rlimits(highest: impl Fn(Resource) -> u64) -> Vec<PosixRlimit> {
    RLIMITS
        .iter()
        // Every field has a default, so `build` cannot fail; a test counts the results.
        .filter_map(|(typ, resource, soft, hard)| {
            let highest = highest(*resource);
            if highest < *hard {
                tracing::info!(
                    "this host could not do all that containers need: {typ}: not permitted above {highest} without CAP_SYS_RESOURCE"
                );
            }
            let hard = highest.min(*hard);
            PosixRlimitBuilder::default().typ(*typ).soft(hard.min(*soft)).hard(hard).build().ok()
        })
        .collect()
}

/// With CAP_SYS_RESOURCE, every hard limit can be set.
#[must_use]
pub fn any(_: Resource) -> u64 {
    UNLIMITED
}

/// Like [`any`], but the kernel refuses more descriptors than fs.nr_open to every process.
#[must_use]
pub fn of_kernel(resource: Resource) -> u64 {
    if resource != Resource::Nofile {
        return UNLIMITED;
    }
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    text.trim().parse().unwrap_or(UNLIMITED)
}

/// Without it, this process's own is the highest.
#[must_use]
pub fn own_hard_limit(resource: Resource) -> u64 {
    getrlimit(resource).maximum.unwrap_or(UNLIMITED)
}

/// `linux.resources` of the spec.
#[must_use]
pub fn resources(request: &Resources, devices: Vec<LinuxDeviceCgroup>) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(request.cpu_shares)
        .set_quota(request.cpu_quota)
        .set_period(request.cpu_period)
        .set_cpus(request.cpuset_cpus.clone())
        .set_mems(request.cpuset_mems.clone());
    let mut memory = LinuxMemory::default();
    // A container with a memory limit and no swap limit gets no swap, as with containerd and CRI-O.
    let swap = request.memory_swap_limit.or(request.memory_limit);
    memory.set_limit(request.memory_limit).set_swap(swap);
    let hugepages = request.hugepages.iter().map(|(page_size, limit)| {
        let mut entry = LinuxHugepageLimit::default();
        entry.set_page_size(page_size.clone()).set_limit(i64::try_from(*limit).unwrap_or(i64::MAX));
        entry
    });
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(devices))
        .set_cpu(Some(cpu))
        .set_memory(Some(memory))
        .set_hugepage_limits(Some(hugepages.collect()))
        .set_unified(Some(request.unified.clone().into_iter().collect()));
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_has_all_of_them() {
        let limits = rlimits(any);
        assert_eq!(limits.len(), RLIMITS.len());
        assert!(limits.iter().all(|l| l.soft() <= l.hard()));
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_lowered() {
        let of = |highest: u64| {
            let limits = rlimits(|resource| if resource == Resource::Nofile { highest } else { UNLIMITED });
            let nofile = limits.iter().find(|l| l.typ() == PosixRlimitType::RlimitNofile).unwrap();
            let others = limits.iter().filter(|l| l.hard() == UNLIMITED).count();
            (nofile.soft(), nofile.hard(), others)
        };
        assert_eq!(of(UNLIMITED), (65_536, 1_048_576, 7));
        assert_eq!(of(100_000), (65_536, 100_000, 7));
        assert_eq!(of(1024), (1024, 1024, 7));
    }

    #[test]
    fn a_memory_limit_alone_leaves_no_swap() {
        let of = |memory_limit, memory_swap_limit| {
            let request = Resources { memory_limit, memory_swap_limit, ..Default::default() };
            resources(&request, vec![]).memory().as_ref().unwrap().swap()
        };
        assert_eq!(of(Some(1 << 20), None), Some(1 << 20));
        assert_eq!(of(Some(1 << 20), Some(1 << 21)), Some(1 << 21));
        assert_eq!(of(Some(-1), None), Some(-1));
    }

    #[test]
    fn no_request_sets_no_limit() {
        let resources = resources(&Resources::default(), vec![]);
        let memory = resources.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (None, None));
        assert_eq!(resources.cpu().as_ref().unwrap().shares(), None);
    }
}
