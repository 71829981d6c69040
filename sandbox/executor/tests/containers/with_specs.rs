//! The whole way: an OCI spec, as a server builds it, to a process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use crisp_executor::cgroup::{CgroupPath, Cgroups, Resources};
use crisp_executor::compile::{self, Compiled, Inputs};
use crisp_executor::plan::FdIndex;
use crisp_executor::plan::PidNamespace;
use crisp_executor::{rootfs, seccomp};
use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, Mode, OFlags, open, unlinkat};

use crate::lab::{Files, Pod};

pub const TESTS: &[crate::Test] = &[
    ("a_spec_becomes_a_process", a_spec_becomes_a_process),
    ("a_privileged_spec", a_privileged_spec),
    ("time_of_a_whole_start", time_of_a_whole_start),
];

/// As runtimes write it for a CRI container.
const SPEC: &str = r#"{
  "ociVersion": "1.2.0",
  "root": { "path": "rootfs", "readonly": true },
  "process": {
    "user": { "uid": 1000, "gid": 1000, "additionalGids": [1000, 20] },
    "args": ["sh", "-c", "SCRIPT"],
    "env": ["PATH=/usr/bin:/bin", "HOME=/"],
    "cwd": "/srv/app",
    "capabilities": {
      "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"],
      "permitted": ["CAP_CHOWN", "CAP_KILL"], "inheritable": []
    },
    "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 500, "hard": 600 }],
    "noNewPrivileges": true,
    "oomScoreAdj": 100
  },
  "mounts": [
    { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
    { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
      "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
    { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
      "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
    { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
      "options": ["nosuid", "noexec", "nodev"] },
    { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev"] },
    { "destination": "/sys", "type": "sysfs", "source": "sysfs",
      "options": ["nosuid", "noexec", "nodev", "ro"] },
    { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
      "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
    { "destination": "/data", "type": "bind", "source": "VOLUME", "options": ["rbind", "rprivate", "rw"] },
    { "destination": "/etc/hosts", "type": "bind", "source": "VOLUME/hosts",
      "options": ["rbind", "rprivate", "ro"] }
  ],
  "linux": {
    "namespaces": [
      { "type": "pid" }, { "type": "mount" }, { "type": "cgroup" },
      { "type": "network", "path": "/proc/1/ns/net" }, { "type": "ipc", "path": "/proc/1/ns/ipc" },
      { "type": "uts", "path": "/proc/1/ns/uts" }
    ],
    "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/scsi"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
  }
}"#;

/// The cgroup's folders in all hierarchies, to be removed when their paths are out of reach.
struct Folders(Vec<(OwnedFd, String)>);

impl Folders {
    fn of(name: &str) -> Self {
        let base = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(base).unwrap().map(|entry| entry.unwrap().path());
        let holding = hierarchies.chain([base.to_owned()]).filter(|path| path.join(name).is_dir());
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self(holding.map(|path| (open(path, flags, Mode::empty()).unwrap(), name.to_owned())).collect())
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        for (parent, name) in &self.0 {
            let _ = unlinkat(parent, &**name, AtFlags::REMOVEDIR);
        }
    }
}

/// Compiles `spec` and answers a pod that can start it once.
fn pod(files: &Files, spec: &Spec) -> (Pod, Folders) {
    pod_for(files, spec, 1)
}

/// Compiles `spec` and answers a pod that can start it `starts` times.
fn pod_for(files: &Files, spec: &Spec, starts: usize) -> (Pod, Folders) {
    let cgroups = Cgroups::detect().unwrap();
    let name = format!("crisp-executor-spec-{}", std::process::id());
    let cgroup = cgroups.create(&CgroupPath::parse(&format!("/{name}")).unwrap()).unwrap();
    let folders = Folders::of(&name);
    cgroup.apply(&Resources { pids: Some(30), ..Resources::default() }).unwrap();
    let compiled: Vec<Compiled> = (0..starts)
        .map(|number| {
            let (upper, work) =
                (files.volume(&format!("upper-{number}")), files.volume(&format!("work-{number}")));
            let inputs = Inputs {
                root: rootfs::assemble(&[files.path("")], &upper, &work, None).unwrap(),
                cgroups: cgroups.clone(),
                cgroup: cgroup.join().unwrap(),
                pid: PidNamespace::Own,
                user: None,
                mounts: Vec::new(),
                pod_shm: true,
                standalone: false,
                hooks: None,
                source_deadline: Duration::from_secs(5),
            };
            compile::compile(spec, inputs).unwrap()
        })
        .collect();
    let plan = compiled[0].plan.clone();
    let sets = std::cell::RefCell::new(compiled);
    let mut pod = Pod::enter_for(starts, || sets.borrow_mut().pop().unwrap().fds);
    // As it travels: bytes.
    pod.plan = postcard::from_bytes(&postcard::to_allocvec(&plan).unwrap()).unwrap();
    (pod, folders)
}

fn spec(volume: &Path, script: &str) -> Spec {
    let text = SPEC.replace("VOLUME", volume.to_str().unwrap()).replace("SCRIPT", script);
    let mut spec: Spec = serde_json::from_str(&text).unwrap();
    let capabilities = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap();
    let profile = seccomp::runtime_default(capabilities.bounding().as_ref().unwrap());
    spec.linux_mut().as_mut().unwrap().set_seccomp(Some(profile));
    spec
}

fn volume(files: &Files) -> std::path::PathBuf {
    let volume = files.volume("volume");
    std::fs::write(volume.join("hosts"), "127.0.0.1 localhost").unwrap();
    std::fs::write(volume.join("word"), "word").unwrap();
    volume
}

fn a_spec_becomes_a_process() {
    let files = Files::busybox();
    let volume = volume(&files);
    let script = "id -u; id -g; id -G; pwd; ulimit -n; cat /data/word; echo; cat /etc/hosts; echo; \
        cat /proc/self/oom_score_adj; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; \
        touch /x 2>&1; ls /sys/fs/cgroup | grep -c . ; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max";
    let (pod, _folders) = pod(&files, &spec(&volume, script));
    let outcome = pod.run_as_planned();
    let text = &outcome.out;
    let head = "1000\n1000\n1000 20\n/srv/app\n500\nword\n127.0.0.1 localhost\n100\n";
    assert!(text.starts_with(head), "{outcome:#?}");
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000021",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "touch: /x: Read-only file system",
        "\n30\n",
    ] {
        assert!(text.contains(line), "{line}: {outcome:#?}");
    }
}

fn a_privileged_spec() {
    let files = Files::busybox();
    let volume = volume(&files);
    let mut spec = spec(&volume, "mount -t tmpfs none /data && touch /data/x && id -u && ls /dev/made");
    let mut process = spec.process().clone().unwrap();
    let all: std::collections::HashSet<_> = ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_DAC_OVERRIDE"]
        .map(|name| serde_json::from_str(&format!("{name:?}")).unwrap())
        .into();
    let mut capabilities = process.capabilities().clone().unwrap();
    capabilities.set_bounding(Some(all.clone())).set_effective(Some(all.clone())).set_permitted(Some(all));
    process
        .set_capabilities(Some(capabilities))
        .set_no_new_privileges(Some(false))
        .set_user(Default::default());
    spec.set_process(Some(process));
    let linux = spec.linux_mut().as_mut().unwrap();
    linux.set_seccomp(None).set_masked_paths(None).set_readonly_paths(None);
    let device = r#"[{ "path": "/dev/made", "type": "c", "major": 1, "minor": 3, "fileMode": 438 }]"#;
    linux.set_devices(serde_json::from_str(device).unwrap());
    let (pod, _folders) = pod(&files, &spec);
    assert_eq!(pod.plan.root.mount, FdIndex(0));
    assert_eq!(pod.run_as_planned().good(), "0\n/dev/made");
}

/// With everything that a usual pod's container has: cgroups, overlay, volumes, seccomp.
fn time_of_a_whole_start() {
    let files = Files::busybox();
    let volume = volume(&files);
    let (pod, _folders) = pod_for(&files, &spec(&volume, "exit 0"), crate::timing::ROUNDS);
    crate::timing::measure(&pod.plan, (0..crate::timing::ROUNDS).map(|_| pod.fds()).collect());
}
