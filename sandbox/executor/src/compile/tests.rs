use std::fs::File;

use serde_json::{Value, json};

use super::*;
use crate::plan::{MountKind, PidNamespace};

/// A spec like those that the container side builds; `change` edits its JSON.
fn spec(change: impl FnOnce(&mut Value)) -> Spec {
    let mut value = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "user": {"uid": 1000, "gid": 1001, "additionalGids": [1001, 5, 5]},
            "args": ["/bin/sh", "-c", "true"],
            "env": ["PATH=/bin", "A=1", "B=2", "A=3"],
            "cwd": "/work/",
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"],
                "permitted": ["CAP_CHOWN", "CAP_KILL"], "inheritable": [], "ambient": []
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
            "noNewPrivileges": true,
            "oomScoreAdj": -5
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "size=65536k"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/etc/passwd", "options": ["rbind", "rprivate", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
        ],
        "linux": {
            "namespaces": [
                {"type": "mount"}, {"type": "cgroup"}, {"type": "pid"},
                {"type": "network", "path": "/proc/1/ns/net"}
            ],
            "devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}],
            "maskedPaths": ["/proc/kcore", "/proc/kcore"],
            "readonlyPaths": ["/proc//sys/"]
        }
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn inputs() -> Inputs<'static> {
    Inputs {
        root: File::open("/").unwrap().into(),
        cgroups: Cgroups::detect().unwrap(),
        cgroup: JoinFds { v2: Some(File::open("/").unwrap().into()), v1_tasks: vec![], oom_events: None },
        pid: PidNamespace::Own,
        user: None,
        mounts: Vec::new(),
        pod_shm: true,
        standalone: false,
        hooks: None,
        source_deadline: Duration::from_secs(5),
    }
}

#[test]
fn a_whole_spec_becomes_a_plan() {
    crisp_skip::needs!();
    let Compiled { plan, fds } = compile(&spec(|_| ()), inputs()).unwrap();
    let process = &plan.process;
    assert_eq!(process.env, [c"PATH=/bin".to_owned(), c"A=3".to_owned(), c"B=2".to_owned()]);
    assert_eq!((process.uid, process.gid, &process.groups[..]), (1000, 1001, &[1001, 5][..]));
    assert_eq!(process.cwd.as_c_str(), c"/work");
    assert_eq!((process.capabilities.bounding, process.capabilities.effective), (0b10_0001, 0b10_0000));
    assert_eq!(process.rlimits, [plan::Rlimit { resource: libc::RLIMIT_NOFILE, soft: 10, hard: 20 }]);
    assert!(plan.root.readonly && !plan.root.shared && process.no_new_privileges);
    let kinds: Vec<_> = plan.mounts.iter().map(|m| &m.kind).collect();
    assert!(matches!(kinds[0], MountKind::Proc));
    assert!(matches!(kinds[2], MountKind::Devpts { gid: 5 }));
    assert!(matches!(kinds[3], MountKind::PodShm));
    assert_eq!(*kinds[4], MountKind::Bind { source: FdIndex(2), file: true });
    assert_eq!(plan.mounts[1].attributes, 0x22, "nosuid and strictatime");
    assert_eq!(plan.cgroup.v2, Some(FdIndex(1)));
    assert_eq!(fds.len(), 3);
    assert_eq!(plan.pid, PidNamespace::Own);
    let null = plan.devices.iter().find(|d| d.path.as_c_str() == c"/dev/null").unwrap();
    assert_eq!((plan.devices.len(), null.mode), (6, libc::S_IFCHR | 0o600));
    assert_eq!(plan.masked_paths, [c"/proc/kcore".to_owned()]);
    assert_eq!(plan.readonly_paths, [c"/proc/sys".to_owned()]);
}

/// Each case has the place in the JSON, the new value, and the beginning of the error.
#[test]
fn errors_name_the_field() {
    crisp_skip::needs!();
    let cases: [(&str, Value, &str); 36] = [
        ("/process/args", json!([]), "process.args: empty"),
        ("/process/args", json!(["a\0b"]), "process.args[0]: it contains a NUL"),
        ("/process/args/0", json!(""), "process.args[0]: empty"),
        ("/process/cwd", json!("tmp"), "process.cwd: \"tmp\" is not absolute"),
        ("/process/env", json!(["A=1", "SECRETVALUE"]), "process.env[1]: it is not NAME=value"),
        ("/process/env", json!(["=1"]), "process.env[0]: its name is empty"),
        ("/process/user/uid", json!(u32::MAX), "process.user.uid: "),
        ("/process/user/umask", json!(0o1000), "process.user.umask: 1000 is above"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001"),
        ("/process/rlimits/0/soft", json!(21), "process.rlimits[0]: RLIMIT_NOFILE: soft limit 21"),
        ("/process/capabilities/ambient", json!(["CAP_KILL"]), "process.capabilities.ambient: "),
        ("/process/capabilities/effective", json!(["CAP_SYS_ADMIN"]), "process.capabilities.effective: "),
        ("/process/selinuxLabel", json!("x"), "process.selinuxLabel: is not supported"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 1}), "process.ioPriority: "),
        ("/mounts/0/destination", json!("proc"), "mounts[0].destination: \"proc\" is not absolute"),
        ("/mounts/0/destination", json!("/a/../b"), "mounts[0].destination: \"/a/../b\" has a part .."),
        ("/mounts/0/destination", json!("//"), "mounts[0].destination: nothing can be mounted"),
        ("/mounts/0/type", json!("nfs"), "mounts[0].type: \"nfs\": is not supported"),
        ("/mounts/0/options", json!(["hidepid=2"]), "mounts[0].options: \"hidepid=2\": is not supported"),
        ("/mounts/0/options", json!(["rslave"]), "mounts[0].options: "),
        ("/mounts/1/options", json!(["evil=1"]), "mounts[1].options: \"evil=1\": is not supported"),
        ("/mounts/2/options", json!(["mode=0666"]), "mounts[2].options: \"mode=0666\""),
        ("/mounts/4/source", json!("relative"), "mounts[4].source: \"relative\" is not absolute"),
        (
            "/mounts/4/source",
            json!("/no/such"),
            "mounts[4] at \"/etc/hosts\": host path \"/no/such\" does not exist",
        ),
        ("/mounts/4/options", json!(["bind", "rro"]), "mounts[4].options: rro needs rbind"),
        ("/mounts/4/options", json!(["rbind", "idmap"]), "mounts[4].uidMappings: idmap without uidMappings"),
        (
            "/mounts/4/uidMappings",
            json!([{"hostID": 1, "containerID": 0, "size": 0}]),
            "mounts[4].uidMappings: uids[0]: its length is 0",
        ),
        (
            "/mounts/0/uidMappings",
            json!([{"hostID": 1, "containerID": 0, "size": 1}]),
            "mounts[0].uidMappings: is not supported",
        ),
        ("/linux/namespaces/3", json!({"type": "user"}), "linux.namespaces: user: but the pod has no"),
        ("/linux/uidMappings", json!([{"hostID": 1, "containerID": 0, "size": 1}]), "linux.uidMappings: "),
        ("/linux/namespaces/3", json!({"type": "network"}), "linux.namespaces[3]: "),
        ("/linux/namespaces/2", json!({"type": "pid", "path": "/proc/1/ns/pid"}), "linux.namespaces: pid: "),
        ("/linux/devices/0/major", json!(-1), "linux.devices[0].major: -1 is out of range"),
        ("/linux/maskedPaths", json!(["proc"]), "linux.maskedPaths[0]: "),
        ("/linux/rootfsPropagation", json!("unbindable"), "linux.rootfsPropagation: "),
        ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt: is not supported"),
    ];
    for (pointer, value, expected) in cases {
        let spec = spec(|json| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = json.pointer_mut(parent).unwrap();
            match key.parse::<usize>() {
                Ok(index) => parent[index] = value,
                Err(_) => parent[key] = value,
            }
        });
        let error = compile(&spec, inputs()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{pointer}: {error}");
        assert!(!error.contains("SECRETVALUE"));
    }
}

#[test]
fn the_pid_namespace_must_be_the_one_that_the_spec_says() {
    crisp_skip::needs!();
    let joined = spec(|json| json["linux"]["namespaces"][2]["path"] = json!("/proc/1/ns/pid"));
    let target = PidNamespace::Target(File::open("/").unwrap().into());
    let Compiled { plan, fds } = compile(&joined, Inputs { pid: target, ..inputs() }).unwrap();
    assert!(matches!(plan.pid, PidNamespace::Target(FdIndex(i)) if usize::from(i) < fds.len()));
    assert!(compile(&joined, Inputs { pid: PidNamespace::Host, ..inputs() }).is_err());
}

#[test]
fn a_plan_survives_its_journey() {
    crisp_skip::needs!();
    let plan = compile(&spec(|_| ()), inputs()).unwrap().plan;
    let bytes = postcard::to_allocvec(&plan).unwrap();
    assert_eq!(postcard::from_bytes::<plan::Plan>(&bytes).unwrap(), plan);
}

/// Compiles the cgroup mount of a spec with this option, with or without a cgroup namespace.
fn cgroup_mount(namespace: bool, option: &str) -> Result<MountKind, CompileError> {
    let spec = spec(|spec| {
        spec["mounts"][5]["options"] = json!(["ro", option]);
        if !namespace {
            spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}]);
        }
    });
    let mut mounts = compile(&spec, inputs())?.plan.mounts;
    Ok(mounts.remove(5).kind)
}

#[test]
fn without_a_cgroup_namespace_no_new_mount_changes_the_options_of_the_hosts() {
    let v2 = Cgroups::detect().unwrap().mode() == crate::cgroup::Mode::V2;
    match cgroup_mount(false, "nsdelegate").unwrap() {
        MountKind::Bind { file: false, .. } => assert!(v2),
        MountKind::Cgroup1 { unified, .. } => assert!(!v2 && !unified),
        other => panic!("{other:?}"),
    }
    match cgroup_mount(true, "memory_recursiveprot").unwrap() {
        MountKind::Cgroup2 => assert!(v2),
        MountKind::Cgroup1 { .. } => assert!(!v2),
        other => panic!("{other:?}"),
    }
    let error = cgroup_mount(true, "xattr").unwrap_err().to_string();
    assert!(error.contains("mounts[5].options: \"xattr\""), "{error}");
}
