//! Which devices a container may use, beside those that its spec allows.

use crisp_executor::cgroup::DeviceRule;

/// The rules of a spec with those after it that runc adds: callers count on them.
pub fn policy(given: Option<Vec<DeviceRule>>) -> Vec<DeviceRule> {
    let mut rules = given.unwrap_or_else(|| vec![DeviceRule::DENY_ALL]);
    rules.extend(DeviceRule::harmless());
    rules
}
