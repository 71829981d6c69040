//! The resources of a whole pod, as its client announces them.

use crisp_executor::cgroup;
use serde::{Deserialize, Serialize};

/// The sums that a client has announced for a running pod. None before the first announcement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodResources {
    /// Resources of the pod in addition to its containers.
    pub overhead: Option<cgroup::Resources>,
    /// Limits for all its containers together.
    pub containers: Option<cgroup::Resources>,
}

impl PodResources {
    /// These, overridden by those in `newer`.
    #[must_use]
    pub fn updated(&self, newer: &Self) -> Self {
        Self {
            overhead: newer.overhead.as_ref().or(self.overhead.as_ref()).cloned(),
            containers: newer.containers.as_ref().or(self.containers.as_ref()).cloned(),
        }
    }

    /// The limits of containers and overhead together.
    pub(crate) fn total(&self) -> cgroup::Resources {
        let mut total = self.containers.clone().unwrap_or_default();
        let Some(overhead) = &self.overhead else { return total };
        total.memory.limit = sum(total.memory.limit, overhead.memory.limit);
        total.memory.swap = sum(total.memory.swap, overhead.memory.swap);
        if total.cpu.period == overhead.cpu.period {
            total.cpu.quota = sum(total.cpu.quota, overhead.cpu.quota);
        }
        if let (Some(shares), Some(more)) = (total.cpu.shares, overhead.cpu.shares) {
            total.cpu.shares = Some(shares.saturating_add(more));
        }
        total
    }

    /// Like [`total`](Self::total), but missing limits are set to "unlimited": to restore an earlier state.
    pub(crate) fn total_or_unlimited(&self) -> cgroup::Resources {
        let mut total = self.total();
        total.memory.limit = total.memory.limit.or(Some(-1));
        total.memory.swap = total.memory.swap.or(Some(-1));
        total.cpu.quota = total.cpu.quota.or(Some(-1));
        total
    }
}

/// Without a limit for the containers there is none for the pod.
fn sum(limit: Option<i64>, more: Option<i64>) -> Option<i64> {
    match (limit, more) {
        (Some(limit @ 1..), Some(more @ 1..)) => Some(limit.saturating_add(more)),
        (limit, _) => limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: i64) -> Option<cgroup::Resources> {
        let memory = cgroup::Memory { limit: Some(bytes), ..Default::default() };
        Some(cgroup::Resources { memory, ..Default::default() })
    }

    #[test]
    fn what_is_not_announced_stays_and_overhead_is_added() {
        let first = PodResources { overhead: memory(10), containers: memory(100) };
        let updated = first.updated(&PodResources { overhead: None, containers: memory(200) });
        assert_eq!(updated, PodResources { overhead: memory(10), containers: memory(200) });
        assert_eq!(updated.total().memory.limit, Some(210));
        let unlimited = PodResources { overhead: memory(10), containers: memory(-1) };
        assert_eq!(unlimited.total().memory.limit, Some(-1));
        let nothing = PodResources { overhead: memory(10), containers: None };
        assert_eq!(nothing.total().memory.limit, None);
        assert_eq!(nothing.total_or_unlimited().memory.limit, Some(-1));
    }
}
