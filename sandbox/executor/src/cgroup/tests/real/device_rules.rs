//! Rules for devices, on v1 and v2.

use super::*;

#[test]
fn device_rules_decide() {
    let Some(own) = Own::new() else { return };
    let apply =
        |rules| own.cgroup.apply(&Resources { devices: Some(rules), ..Resources::default() }).unwrap();
    let opens = |device: &str| own.run(&format!("exec 3<{device}")).wait().unwrap().success();
    apply(harmless_devices());
    assert!(opens("/dev/null"));
    assert!(!opens("/dev/kmsg"));
    let kmsg = DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(11),
        access: Access::parse("r").unwrap(),
    };
    apply([harmless_devices(), vec![kmsg]].concat());
    assert!(opens("/dev/kmsg"));
    assert!(!own.run("exec 3>/dev/kmsg").wait().unwrap().success());
    apply(vec![DeviceRule::ALLOW_ALL]);
    assert!(own.run("exec 3>/dev/kmsg").wait().unwrap().success());
}

#[test]
fn the_v2_device_program_decides_like_v1() {
    let Some(own) = Own::new() else { return };
    let Some(v2) = &own.cgroup.host.v2 else {
        crisp_skip::unsupported!(CgroupV2);
    };
    let dir = v2.dir(own.cgroup.path()).unwrap().unwrap();
    let apply = |rules: &[DeviceRule]| devices::apply_v2(own.cgroup.path(), &dir, rules).unwrap();
    let opens = |how: &str| own.run(&format!("exec 3{how}")).wait().unwrap().success();
    let rule = |allow, access| DeviceRule {
        allow,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(3),
        access: Access::parse(access).unwrap(),
    };
    for _ in 0..2 {
        apply(&harmless_devices());
        assert!(opens("<>/dev/null") && opens("</dev/zero") && !opens("</dev/kmsg"));
    }
    // Bits come from different rules; the later one wins for its own bits only.
    apply(&[DeviceRule::DENY_ALL, rule(true, "r"), rule(true, "w")]);
    assert!(opens("<>/dev/null") && !opens("</dev/zero"));
    apply(&[DeviceRule::ALLOW_ALL, rule(false, "w")]);
    assert!(opens("</dev/null") && !opens("<>/dev/null") && opens("</dev/kmsg"));
    apply(&[]);
    assert!(!opens("</dev/null"));
    apply(&[DeviceRule::ALLOW_ALL]);
    assert!(opens("<>/dev/null") && opens("</dev/kmsg"));
}
