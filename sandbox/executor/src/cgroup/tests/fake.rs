use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::hierarchy::Host;
use super::super::*;

/// A folder that plays all hierarchies of a host.
struct Fake {
    folder: tempfile::TempDir,
    cgroups: Cgroups,
    path: CgroupPath,
}

impl Fake {
    fn v2(controllers: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cgroup.controllers"), controllers).unwrap();
        std::fs::write(folder.path().join("cgroup.subtree_control"), "").unwrap();
        let line = format!("1 1 0:1 / {} rw - cgroup2 cgroup2 rw", folder.path().display());
        Self::new(folder, &line)
    }

    fn v1(controllers: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = String::new();
        for name in controllers {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            lines += &format!("1 1 0:1 / {}/{name} rw - cgroup cgroup rw,{name}\n", folder.path().display());
        }
        Self::new(folder, &lines)
    }

    fn new(folder: tempfile::TempDir, mountinfo: &str) -> Self {
        let cgroups = Cgroups { host: Arc::new(Host::from_mountinfo(mountinfo).unwrap()) };
        Self { folder, cgroups, path: CgroupPath::parse("/pods/a").unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn seed(&self, files: &[(&str, &str)]) {
        for (name, content) in files {
            let file = self.file(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
        }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    fn cgroup(&self) -> Cgroup {
        self.cgroups.open(&self.path).unwrap()
    }
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[test]
fn a_supervisor_is_only_where_its_use_is_counted_and_systemd_looks() {
    let fake = Fake::v1(&["memory", "devices", "pids", "name=systemd", "blkio"]);
    let cgroup = fake.cgroups.create_for_supervisor(&fake.path).unwrap();
    assert!(cgroup.created());
    let made = |name: &str| exists(&fake.file(name).join("pods/a"));
    assert_eq!(["memory", "pids", "name=systemd"].map(made), [true; 3]);
    assert_eq!(["devices", "blkio"].map(made), [false; 2]);
    fake.seed(&[("memory/pods/a/tasks", ""), ("pids/pods/a/tasks", ""), ("name=systemd/pods/a/tasks", "")]);
    assert_eq!(cgroup.join().unwrap().v1_tasks.len(), 3);
    assert!(fake.cgroups.create(&fake.path.parent().unwrap().child("b").unwrap()).unwrap().created());
    assert!(exists(&fake.file("devices/pods/b")));
}

#[test]
fn the_v2_part_of_a_supervisors_cgroup_is_made_alone() {
    let fake = Fake::v1(&["memory", "pids"]);
    let first = fake.cgroups.create_v2_for_supervisor(&fake.path).unwrap();
    assert!(!first.created() && !exists(&fake.file("memory/pods")));
    let fds = first.join().unwrap();
    assert!(fds.v2.is_none() && fds.v1_tasks.is_empty());
    let whole = fake.cgroups.create_for_supervisor(&fake.path).unwrap();
    fake.seed(&[("memory/pods/a/tasks", ""), ("pids/pods/a/tasks", "")]);
    assert_eq!(whole.join_v1().unwrap().len(), 2);

    let fake = Fake::v2("memory");
    fake.seed(&[("pods/a/cgroup.controllers", "memory")]);
    let first = fake.cgroups.create_v2_for_supervisor(&fake.path).unwrap();
    assert!(first.join().unwrap().v2.is_some() && first.join_v1().unwrap().is_empty());
}

#[test]
fn a_cgroup_of_another_program_is_never_made() {
    let fake = Fake::v2("memory");
    let path = |text: &str| CgroupPath::parse(text).unwrap();
    let (scope, leaf) = (path("/a.slice/x.scope"), path("/a.slice/x.scope/pod/b"));
    for there in ["", "a.slice"] {
        std::fs::create_dir_all(fake.file(there)).unwrap();
        for path in [&leaf, &path("/a.slice/x.scope/c")] {
            let errors = [
                fake.cgroups.create_below(&scope, path).unwrap_err(),
                fake.cgroups.create_without_controllers(&scope, path).unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(&error, CgroupError::Gone { path } if *path == scope), "{error}");
            }
        }
        assert!(!exists(&fake.file("a.slice/x.scope")));
    }
    std::fs::create_dir(fake.file("a.slice/x.scope")).unwrap();
    assert!(fake.cgroups.create_without_controllers(&scope, &leaf).unwrap().created());
    assert!(exists(&fake.file("a.slice/x.scope/pod/b")));
}

#[test]
fn v2_enables_controllers_above_the_leaf_only() {
    let fake = Fake::v2("cpu memory pids misc rdma dmem");
    fake.seed(&[
        ("pods/cgroup.subtree_control", ""),
        ("pods/cgroup.controllers", ""),
        ("pods/a/cgroup.subtree_control", ""),
        ("pods/a/cgroup.controllers", ""),
    ]);
    let made = fake.cgroups.create(&fake.path).unwrap();
    assert!(!made.created());
    assert_eq!(fake.read("cgroup.subtree_control"), "+cpu +memory +misc +pids +rdma");
    assert_eq!(fake.read("pods/cgroup.subtree_control"), "+cpu +memory +misc +pids +rdma");
    assert_eq!(fake.read("pods/a/cgroup.subtree_control"), "");
}

fn io(spec: serde_json::Value) -> Result<Resources, CgroupError> {
    Resources::from_spec(&serde_json::from_value(serde_json::json!({ "blockIO": spec })).unwrap())
}

#[test]
fn io_weights_and_rates_are_written_in_each_dialect() {
    let device = |rate: u64| serde_json::json!([{"major": 254, "minor": 0, "rate": rate}]);
    let limits = io(serde_json::json!({
        "weight": 500,
        "throttleReadBpsDevice": device(1 << 20),
        "throttleWriteIOPSDevice": device(0),
    }))
    .unwrap();
    let v1 = Fake::v1(&["memory", "blkio"]);
    let files = ["blkio.bfq.weight", "blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device"];
    files.iter().for_each(|file| v1.seed(&[(&format!("blkio/pods/a/{file}"), "")]));
    v1.cgroup().apply(&limits).unwrap();
    let found = files.map(|file| v1.read(&format!("blkio/pods/a/{file}")));
    assert_eq!(found, ["500", "254:0 1048576", "254:0 0"]);
    for (file, value) in [("io.weight", "default 4950"), ("io.bfq.weight", "default 500")] {
        let v2 = Fake::v2("memory io");
        v2.seed(&[(&format!("pods/a/{file}"), ""), ("pods/a/io.max", "")]);
        v2.cgroup().apply(&limits).unwrap();
        assert_eq!(v2.read(&format!("pods/a/{file}")), value);
        // The last line, over the one before it, which is longer.
        assert!(v2.read("pods/a/io.max").starts_with("254:0 wiops=max"));
    }
    let v2 = Fake::v2("memory io");
    v2.seed(&[("pods/a/io.max", "")]);
    let error = v2.cgroup().apply(&limits).unwrap_err().to_string();
    assert!(error.contains("io.weight: cannot write default 4950") && error.contains("BFQ"), "{error}");
}

#[test]
fn io_limits_that_no_kernel_has_are_refused_by_name() {
    let refused = |spec, field: &str| {
        let fake = Fake::v2("memory io");
        fake.seed(&[("pods/a/io.weight", "")]);
        let error = io(spec).and_then(|limits| fake.cgroup().apply(&limits)).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
        assert_eq!(fake.read("pods/a/io.weight"), "");
    };
    refused(serde_json::json!({"weight": 9}), "io weight: 9 is not between 10 and 1000");
    refused(serde_json::json!({"weight": 1001}), "io weight");
    refused(serde_json::json!({"leafWeight": 10}), "linux.resources.blockIO.leafWeight");
    let device = |major: i64| serde_json::json!([{"major": major, "minor": 0, "rate": 1, "weight": 10}]);
    refused(serde_json::json!({"weightDevice": device(-1)}), "linux.resources.blockIO.weightDevice");
    refused(serde_json::json!({"throttleReadIOPSDevice": device(1 << 40)}), "throttleReadIOPSDevice");
}

#[test]
fn rdma_limits_are_one_line_for_each_device() {
    let spec = r#"{"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx5_1": {"hcaObjects": 7}}}"#;
    let mut limits = Resources::from_spec(&serde_json::from_str(spec).unwrap()).unwrap();
    limits.rdma.sort_by(|one, other| other.device.cmp(&one.device));
    for (fake, file) in [
        (Fake::v2("memory rdma"), "pods/a/rdma.max"),
        (Fake::v1(&["memory", "rdma"]), "rdma/pods/a/rdma.max"),
    ] {
        fake.seed(&[(file, "")]);
        fake.cgroup().apply(&limits).unwrap();
        assert_eq!(fake.read(file), "mlx5_0 hca_handle=3 hca_object=10000", "written last");
    }
    let fake = Fake::v2("memory");
    fake.seed(&[("pods/a/memory.max", "")]);
    let error = fake.cgroup().apply(&limits).unwrap_err().to_string();
    assert!(error.contains("no rdma controller"), "{error}");
    for device in ["", "a b", "a\nb"] {
        let spec = serde_json::json!({"rdma": {device: {"hcaHandles": 1}}});
        let error = Resources::from_spec(&serde_json::from_value(spec).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.rdma: "), "{error}");
    }
}

#[test]
fn a_cgroup_that_does_not_pause_goes_on() {
    let fake = Fake::v2("memory");
    fake.seed(&[("pods/a/cgroup.freeze", "0"), ("pods/a/cgroup.events", "populated 1\nfrozen 1\n")]);
    fake.cgroup().freeze().unwrap();
    assert_eq!(fake.read("pods/a/cgroup.freeze"), "1");
    assert!(fake.cgroup().is_frozen().unwrap());
    fake.seed(&[("pods/a/cgroup.events", "populated 1\nfrozen 0\n")]);
    let error = fake.cgroup().freeze().unwrap_err();
    assert!(matches!(error, CgroupError::NotFrozen { .. }), "{error}");
    assert_eq!(fake.read("pods/a/cgroup.freeze"), "0");
    let fake = Fake::v1(&["memory"]);
    fake.seed(&[("memory/pods/a/tasks", "")]);
    let error = fake.cgroup().freeze().unwrap_err().to_string();
    assert!(error.contains("no freezer controller"), "{error}");
}

#[test]
fn v2_limits_are_written_in_v2_units() {
    let fake = Fake::v2("cpu memory pids hugetlb cpuset io");
    let names =
        ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.low", "pids.max", "cpuset.cpus"];
    for name in names.into_iter().chain([
        "hugetlb.2MB.max",
        "hugetlb.2MB.rsvd.max",
        "memory.high",
        "memory.oom.group",
    ]) {
        fake.seed(&[(&format!("pods/a/{name}"), "max 100000")]);
    }
    let limits = Resources {
        cpu: Cpu { shares: Some(1024), quota: Some(50_000), period: Some(100_000), ..Cpu::default() },
        memory: Memory {
            limit: Some(1 << 20),
            swap: Some(3 << 20),
            reservation: Some(4096),
            oom_group: Some(true),
            ..Memory::default()
        },
        cpuset: Cpuset { cpus: Some("0-1".into()), mems: Some(String::new()) },
        pids: Some(12),
        hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
        rdma: vec![],
        io: BlockIo::default(),
        unified: BTreeMap::from([("memory.high".to_owned(), "7".to_owned())]),
        devices: None,
    };
    fake.cgroup().apply(&limits).unwrap();
    let expected = [
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("memory.swap.max", "2097152"),
        ("memory.low", "4096"),
        ("memory.oom.group", "1"),
        ("pids.max", "12"),
        ("cpuset.cpus", "0-1"),
        ("memory.high", "7"),
    ];
    for (file, value) in expected {
        // Plain files keep what a shorter write leaves behind.
        assert!(fake.read(&format!("pods/a/{file}")).starts_with(value), "{file}");
    }
}

#[test]
fn a_period_alone_keeps_the_quota() {
    let fake = Fake::v2("cpu");
    fake.seed(&[("pods/a/cpu.max", "20000 100000\n")]);
    let cpu = Cpu { period: Some(50_000), ..Cpu::default() };
    fake.cgroup().apply(&Resources { cpu, ..Resources::default() }).unwrap();
    assert!(fake.read("pods/a/cpu.max").starts_with("20000 50000"));
}

#[test]
fn v1_limits_are_written_in_v1_units() {
    let fake = Fake::v1(&["cpu", "memory", "pids"]);
    fake.seed(&[
        ("cpu/pods/a/cpu.shares", ""),
        ("cpu/pods/a/cpu.cfs_quota_us", ""),
        ("cpu/pods/a/cpu.cfs_period_us", ""),
        ("memory/pods/a/memory.limit_in_bytes", ""),
        ("memory/pods/a/memory.memsw.limit_in_bytes", "9223372036854771712\n"),
        ("pids/pods/a/pids.max", ""),
    ]);
    let limits = Resources {
        cpu: Cpu { shares: Some(1), quota: Some(-5), period: Some(100_000), ..Cpu::default() },
        memory: Memory { limit: Some(1 << 20), swap: Some(1 << 20), ..Memory::default() },
        pids: Some(0),
        ..Resources::default()
    };
    fake.cgroup().apply(&limits).unwrap();
    assert_eq!(fake.read("cpu/pods/a/cpu.shares"), "2");
    assert_eq!(fake.read("cpu/pods/a/cpu.cfs_quota_us"), "-1");
    assert_eq!(fake.read("memory/pods/a/memory.limit_in_bytes"), "1048576");
    assert!(fake.read("memory/pods/a/memory.memsw.limit_in_bytes").starts_with("1048576"));
    assert_eq!(fake.read("pids/pods/a/pids.max"), "max");
}

#[test]
fn impossible_limits_are_refused_before_anything_is_written() {
    let fake = Fake::v2("cpu memory hugetlb");
    fake.seed(&[("pods/a/cpu.weight", ""), ("pods/a/memory.max", ""), ("pods/a/memory.current", "5000\n")]);
    let cpu = Cpu { shares: Some(5), quota: Some(10), ..Cpu::default() };
    let below = Memory { limit: Some(2000), swap: Some(1000), ..Memory::default() };
    let used = Memory { limit: Some(2000), check_before_update: true, ..Memory::default() };
    let cases = [
        (Resources { cpu, ..Resources::default() }, "1000 us"),
        (Resources { memory: below, ..Resources::default() }, "cannot be below the memory limit"),
        (Resources { memory: used, ..Resources::default() }, "below the 5000 bytes in use"),
        (
            Resources {
                hugepages: vec![HugepageLimit { page_size: "../x".into(), limit: 1 }],
                ..Resources::default()
            },
            "not like 2MB",
        ),
        (
            Resources {
                unified: BTreeMap::from([("../memory.max".to_owned(), "1".to_owned())]),
                ..Resources::default()
            },
            "not the name of a controller's file",
        ),
    ];
    for (limits, text) in cases {
        let error = fake.cgroup().apply(&limits).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    assert_eq!(fake.read("pods/a/cpu.weight") + &fake.read("pods/a/memory.max"), "");
}

#[test]
fn a_missing_controller_is_named() {
    let fake = Fake::v2("cpu");
    fake.seed(&[("pods/a/cpu.weight", "")]);
    let error = fake.cgroup().apply(&Resources { pids: Some(1), ..Resources::default() }).unwrap_err();
    assert!(error.to_string().contains("no pids controller"), "{error}");
    // The kubelet's zero limits for huge pages must not keep pods from running.
    let zero = HugepageLimit { page_size: "2MB".into(), limit: 0 };
    fake.cgroup().apply(&Resources { hugepages: vec![zero], ..Resources::default() }).unwrap();
    let some = HugepageLimit { page_size: "2MB".into(), limit: 1 };
    let error =
        fake.cgroup().apply(&Resources { hugepages: vec![some], ..Resources::default() }).unwrap_err();
    assert!(error.to_string().contains("no hugetlb controller"), "{error}");
}

#[test]
fn v2_counters_are_read() {
    let fake = Fake::v2("cpu memory pids io");
    fake.seed(&[
        ("pods/a/cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\nnr_throttled 1\nthrottled_usec 9\n"),
        ("pods/a/cpu.pressure", "some avg10=1.00 avg60=0.00 avg300=0.00 total=3\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
        ("pods/a/memory.current", "1000\n"),
        ("pods/a/memory.max", "4000\n"),
        ("pods/a/memory.stat", "anon 300\nfile 600\ninactive_file 1200\npgfault 7\npgmajfault 1\n"),
        ("pods/a/memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\n"),
        ("pods/a/memory.swap.current", "10\n"),
        ("pods/a/memory.swap.max", "max\n"),
        ("pods/a/pids.current", "3\n"),
        ("pods/a/pids.max", "max\n"),
        ("pods/a/io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
    ]);
    let cgroup = fake.cgroup();
    let stats = cgroup.stats().unwrap();
    let (cpu, memory) = (stats.cpu.unwrap(), stats.memory.unwrap());
    assert_eq!((cpu.usage_ns, cpu.throttled_ns, cpu.psi.unwrap().some.avg10), (5000, 9000, 100));
    assert_eq!((memory.usage, memory.working_set, memory.rss), (1000, 0, 300), "the working set never wraps");
    assert_eq!((memory.limit, memory.available, memory.limit_hits), (Some(4000), Some(4000), 4));
    assert_eq!(stats.swap, Some(SwapStats { usage: 10, limit: None }));
    assert_eq!(stats.pids, Some(PidsStats { current: 3, limit: None }));
    assert_eq!(stats.io.unwrap().devices[0].write_bytes, 2);
    assert_eq!(cgroup.oom_kills().unwrap(), 2);
}

#[test]
fn removing_is_idempotent_and_spares_the_parent() {
    let fake = Fake::v1(&["cpu", "memory"]);
    fake.seed(&[("cpu/pods/keep", "")]);
    for name in ["cpu/pods/a", "memory/pods/a"] {
        std::fs::create_dir_all(fake.file(name)).unwrap();
    }
    for _ in 0..2 {
        fake.cgroups.remove(&fake.path).unwrap();
        assert!(!exists(&fake.file("cpu/pods/a")) && exists(&fake.file("memory/pods")));
    }
    assert!(matches!(fake.cgroups.open(&fake.path), Err(CgroupError::NotFound { .. })));
}

#[test]
fn what_cannot_be_set_is_refused_before_anything_is_written() {
    let fake = Fake::v2("cpu memory pids");
    fake.seed(&[
        ("pods/a/memory.max", "max"),
        ("pods/a/cpu.weight", "100"),
        ("pods/a/cpu.max", "max 100000"),
    ]);
    let cpu = Cpu { shares: Some(2048), ..Cpu::default() };
    let memory = Memory { limit: Some(1 << 20), swappiness: Some(60), ..Memory::default() };
    let error = fake.cgroup().apply(&Resources { cpu, memory, ..Resources::default() }).unwrap_err();
    assert_eq!(error.to_string(), "memory swappiness: cgroup v2 has no such setting");
    let unified = BTreeMap::from([("../x".to_owned(), "1".to_owned())]);
    fake.cgroup().apply(&Resources { cpu, unified, ..Resources::default() }).unwrap_err();
    assert_eq!(
        (fake.read("pods/a/memory.max").as_str(), fake.read("pods/a/cpu.weight").as_str()),
        ("max", "100")
    );

    let fake = Fake::v1(&["memory", "cpu"]);
    fake.seed(&[("memory/pods/a/memory.limit_in_bytes", "9"), ("cpu/pods/a/cpu.shares", "1024")]);
    let memory = Memory { limit: Some(1 << 20), oom_group: Some(true), ..Memory::default() };
    fake.cgroup().apply(&Resources { cpu, memory, ..Resources::default() }).unwrap_err();
    let unified = BTreeMap::from([("memory.high".to_owned(), "1".to_owned())]);
    fake.cgroup().apply(&Resources { cpu, unified, ..Resources::default() }).unwrap_err();
    assert_eq!(fake.read("memory/pods/a/memory.limit_in_bytes"), "9");
    assert_eq!(fake.read("cpu/pods/a/cpu.shares"), "1024");
}

#[test]
fn a_v2_cgroup_with_controllers_below_accepts_no_processes() {
    let fake = Fake::v2("memory pids");
    fake.seed(&[("pods/a/cgroup.subtree_control", "")]);
    assert!(fake.cgroup().accepts_processes().unwrap());
    fake.seed(&[("pods/a/cgroup.subtree_control", "memory pids\n")]);
    assert!(!fake.cgroup().accepts_processes().unwrap());
    let v1 = Fake::v1(&["memory"]);
    v1.seed(&[("memory/pods/a/tasks", "")]);
    assert!(v1.cgroup().accepts_processes().unwrap());
}

/// A fake file moves no process, as the kernel moves none into a cgroup with controllers for its children.
#[test]
fn an_exec_cgroup_whose_processes_cannot_be_moved_is_not_used_again() {
    let fake = Fake::v2("memory");
    fake.seed(&[("pods/a/cgroup.procs", ""), ("pods/a/exec-0/cgroup.procs", "4711\n")]);
    assert!(matches!(fake.cgroup().reuse_exec_cgroup(0), Err(CgroupError::Remove { .. })));
}
