//! Profiles as input: their formats, and the ones that are refused.

use oci_spec::runtime::Capability;

use super::*;
use crate::seccomp::profile::Context;

#[test]
fn what_cannot_be_done_is_refused() {
    for (json, expected) in [
        (
            json!({"defaultAction": "SCMP_ACT_TRACE"}),
            "linux.seccomp.defaultAction: SCMP_ACT_TRACE is not supported",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}),
            "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY",
        ),
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}), "errno 5000 is above"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}), "linux.seccomp.listenerPath"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
            "there is no argument 6",
        ),
    ] {
        let error = to_bpf(&profile_of(&json)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_misspelt_name_in_a_deny_list_is_refused() {
    let profile = |default: &str, action: &str, name: &str| {
        to_bpf(&profile_of(&json!({
            "defaultAction": default,
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}, {"names": ["mount", name], "action": action}]
        })))
    };
    let error = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "unmount").unwrap_err().to_string();
    assert!(error.starts_with("linux.seccomp.syscalls[1].names: \"unmount\" is not a known"), "{error}");
    assert!(profile("SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS", "unmount").is_err());
    // Calls of other architectures are not mistakes; and in a profile that denies by default, an unknown name
    // allows nothing.
    for name in ["s390_pci_mmio_read", "cacheflush", "stime", "spu_run"] {
        profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", name).unwrap();
    }
    profile("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "unmount").unwrap();
    profile("SCMP_ACT_ERRNO", "SCMP_ACT_ERRNO", "unmount").unwrap();
}

/// Any content of a profile's file gives a profile or an error.
#[test]
fn damaged_profiles_never_panic() {
    let mut dice = Dice(7);
    let calls: Vec<&str> = table::names().collect();
    let context = Context { capabilities: &Capabilities::default(), kernel: (6, 1) };
    for _ in 0..300 {
        let mut bytes = serde_json::to_vec(&random_profile(&mut dice, &calls)).unwrap();
        for _ in 0..1 + dice.roll(4) {
            let at = dice.roll(bytes.len() as u64) as usize;
            match dice.roll(3) {
                0 => bytes[at] = dice.roll(256) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"0123456789[]{},:\"-e."[dice.roll(20) as usize]),
            }
        }
        if let Ok(profile) = profile::parse(&bytes, &context) {
            let _ = compile(&profile);
        }
    }
    for extreme in [
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":18446744073709551615,"value":18446744073709551615,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4294967295}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99999999999999999999.1"}}]}"#,
    ] {
        if let Ok(profile) = profile::parse(extreme.as_bytes(), &context) {
            assert!(compile(&profile).is_err(), "{extreme}");
        }
    }
}

#[test]
fn dockers_format_is_read_with_its_conditions() {
    let text = br#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": "c", "args": null, "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["vm86"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}}
        ]}"#;
    let names = |caps: &Capabilities, kernel| {
        let profile = profile::parse(text, &Context { capabilities: caps, kernel }).unwrap();
        profile.syscalls().iter().flatten().flat_map(|s| s.names().clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&Capabilities::default(), (4, 7)), ["read", "write", "clone3"]);
    let admin = Capabilities::from([Capability::SysAdmin]);
    assert_eq!(names(&admin, (4, 10)), ["read", "write", "mount", "ptrace"]);
}

#[test]
fn a_bad_profile_is_named_with_its_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.json");
    let load = || load_profile(&path, &Capabilities::default()).unwrap_err().to_string();
    assert!(load().starts_with(&format!("seccomp profile {}: ", path.display())));
    for (text, expected) in [
        ("{", "EOF"),
        ("{}", "missing field `defaultAction`"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscals":[]}"#, "unknown field `syscals`"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#, "names no call"),
        (r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#, "unknown variant"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = load();
        assert!(error.contains(expected) && error.contains("p.json"), "{error}");
    }
}
