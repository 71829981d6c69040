//! Requests and limits as cgroup values, by the rules of kubelet.

use crisp_proto::runtime::v1::LinuxContainerResources;

use super::super::manifest::{Pod, Resources};

const PERIOD: i64 = 100_000;
const LEAST_QUOTA: u64 = 1000;
const LEAST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 262_144;

/// The limits of a container of `pod` on a host with `host_memory` bytes.
pub fn resources(pod: &Pod, own: &Resources, host_memory: u64) -> LinuxContainerResources {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let shares = (own.cpu_request.unwrap_or(0).saturating_mul(1024) / 1000).clamp(LEAST_SHARES, MOST_SHARES);
    let quota = own
        .cpu_limit
        .filter(|milli| *milli > 0)
        .map_or(0, |milli| milli.saturating_mul(100).max(LEAST_QUOTA));
    LinuxContainerResources {
        cpu_period: if quota > 0 { PERIOD } else { 0 },
        cpu_quota: number(quota),
        cpu_shares: number(shares),
        memory_limit_in_bytes: number(own.memory_limit.unwrap_or(0)),
        oom_score_adj: oom_score_adj(pod, own, host_memory),
        ..LinuxContainerResources::default()
    }
}

/// The order in which the kernel kills containers: first those without requests, then those with small
/// requests.
fn oom_score_adj(pod: &Pod, own: &Resources, host_memory: u64) -> i64 {
    let all = || pod.all_containers().map(|c| &c.resources);
    let guaranteed = |r: &Resources| {
        r.cpu_limit.is_some()
            && r.memory_limit.is_some()
            && r.cpu_request == r.cpu_limit
            && r.memory_request == r.memory_limit
    };
    if all().all(guaranteed) {
        return -997;
    }
    if all().all(|r| *r == Resources::default()) {
        return 1000;
    }
    let share = own.memory_request.unwrap_or(0) as f64 / host_memory.max(1) as f64;
    // Between the values of "guaranteed" and "best effort".
    (1000 - (1000.0 * share) as i64).clamp(3, 999)
}

/// Bytes of memory of the host.
pub fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::super::super::manifest::parse;
    use super::*;

    fn of(resources: &str) -> LinuxContainerResources {
        let pod = parse(
            "p",
            &format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: a, image: b, resources: {resources}}}]}}"),
        )
        .unwrap()
        .pods
        .remove(0)
        .pod;
        super::resources(&pod, &pod.containers[0].resources, 1 << 30)
    }

    #[test]
    fn limits_become_quota_shares_and_bytes() {
        let found = of("{limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 250m}}");
        assert_eq!((found.cpu_period, found.cpu_quota, found.cpu_shares), (100_000, 50_000, 256));
        assert_eq!(found.memory_limit_in_bytes, 64 << 20);
        assert_eq!(found.oom_score_adj, 1000 - 62);
        assert_eq!(of("{limits: {cpu: 1m}}").cpu_quota, 1000, "the kernel takes no less");
    }

    #[test]
    fn who_asks_for_nothing_goes_first_and_who_has_all_goes_last() {
        let nothing = of("{}");
        assert_eq!((nothing.cpu_quota, nothing.cpu_period, nothing.cpu_shares), (0, 0, 2));
        assert_eq!(nothing.oom_score_adj, 1000);
        assert_eq!(of("{limits: {cpu: 1, memory: 1Gi}}").oom_score_adj, -997);
        assert_eq!(of("{requests: {memory: 1Gi}}").oom_score_adj, 3);
    }
}
