//! The devices that a container may use in addition to those that its spec allows.

use crisp_executor::cgroup::{Access, DeviceKind, DeviceRule};

/// The devices that the runtime spec gives every container, and terminals: 136 to 143 are the slave ends of
/// pseudo-terminals.
const ALWAYS: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// The rules of a spec, followed by the rules that runc adds: callers rely on them.
pub fn policy(requested: Option<Vec<DeviceRule>>) -> Vec<DeviceRule> {
    let mut rules = requested.unwrap_or_else(|| vec![DeviceRule::DENY_ALL]);
    let mknod = Access { read: false, write: false, mknod: true };
    let any = |kind| DeviceRule { allow: true, kind, major: None, minor: None, access: mknod };
    rules.extend([any(DeviceKind::Char), any(DeviceKind::Block)]);
    rules.extend(ALWAYS.map(|(major, minor)| DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(major),
        minor,
        access: Access::ALL,
    }));
    rules
}
