//! The devices that a container may use in addition to those that its spec allows.

use crisp_executor::cgroup::DeviceRule;

/// The rules of a spec, followed by the rules that runc adds: callers rely on them.
pub fn policy(requested: Option<Vec<DeviceRule>>) -> Vec<DeviceRule> {
    let mut rules = requested.unwrap_or_else(|| vec![DeviceRule::DENY_ALL]);
    rules.extend(DeviceRule::harmless());
    rules
}
