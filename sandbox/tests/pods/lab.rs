//! A set of pods in folders of their own, as one server has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_executor::cgroup::{CgroupPath, Cgroups};
use crisp_executor::ids::PodId;
use crisp_metrics::Metrics;
use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks};
use crisp_sandbox::spawn::MonitorBinary;
use crisp_sandbox::systemd::{Systemd, slice_path};
use crisp_sandbox::{
    Dns, NamespaceMode, NetworkMode, PidMode, Pod, PodConfig, PodState, Pods, SandboxConfig,
};
use crisp_skip::Cleanup;
use rustix::process::{Pid, Signal, kill_process};

/// The folder of a set of pods, over the lives of its servers. Their cgroup has its name.
pub struct Folder {
    _cleanup: Cleanup,
    dir: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Arc<Self> {
        let dir = tempfile::Builder::new().prefix("crisp-pods").tempdir().unwrap();
        Arc::new(Self { _cleanup: Cleanup::new(cgroup_name(dir.path()), None), dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

pub struct Lab {
    pub folder: Arc<Folder>,
    pub pods: Pods,
}

/// The program of the monitor, which `cargo test` builds beside the tests.
pub fn monitor() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("crisp-pod")
}

impl Lab {
    pub async fn new() -> Self {
        Self::open(Folder::new()).await
    }

    pub async fn open(folder: Arc<Folder>) -> Self {
        let pods = open(folder.path()).await;
        Self { folder, pods }
    }

    pub fn root(&self, pod: &PodId) -> PathBuf {
        self.folder.path().join("root/pods").join(pod.as_str())
    }

    pub fn state(&self, pod: &PodId) -> PathBuf {
        self.folder.path().join("run/pods").join(pod.as_str())
    }

    pub async fn pod(&self, config: PodConfig) -> Arc<Pod> {
        let id = self.pods.run(config).await.unwrap();
        self.pods.get(&id).unwrap()
    }

    /// That no file, cgroup or process of any pod is left here.
    pub fn assert_empty(&self) {
        assert_empty(self.folder.path());
    }

    /// Removes every pod that is listed, which leaves nothing.
    pub async fn clear(&self) {
        for pod in self.pods.list() {
            self.pods.remove(&pod.id).await.unwrap();
        }
        self.assert_empty();
    }
}

/// The built-in network, which pods of the host's do not use.
pub fn network(folder: &Path) -> NetworkConfig {
    NetworkConfig {
        kind: NetworkKind::BuiltIn,
        cni_conf_dir: "/nonexistent".into(),
        cni_bin_dirs: vec![],
        bridge_name: "crisp-none".into(),
        state_dir: folder.join("run/network"),
        root_dir: folder.join("root/network"),
        ..Default::default()
    }
}

pub async fn open(folder: &Path) -> Pods {
    open_with(folder, &network(folder)).await
}

pub async fn open_with(folder: &Path, network: &NetworkConfig) -> Pods {
    let (root, state) = (folder.join("root"), folder.join("run"));
    let networks = Networks::open(network).unwrap();
    let cgroups = Cgroups::detect().unwrap();
    let systemd = if uses_systemd() { Some(Systemd::detect(&cgroups).await.unwrap()) } else { None };
    let program = std::fs::read(monitor()).expect("crisp-pod is built: cargo build -p crisp-monitor");
    let config = SandboxConfig {
        root,
        state,
        monitor: MonitorBinary::new(&program).unwrap(),
        cgroups,
        systemd,
        networks,
    };
    Pods::open(config, &Metrics::new("test").unwrap()).await.unwrap()
}

/// Whether these tests are to use the systemd cgroup driver; `e2e/vm.sh` says so.
pub fn uses_systemd() -> bool {
    std::env::var("CRISP_TEST_CGROUP_DRIVER").is_ok_and(|driver| driver == "systemd")
}

fn cgroup_name(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

/// Every pod of one folder lives below one cgroup.
pub fn cgroup(folder: &Path) -> CgroupPath {
    let name = cgroup_name(folder);
    if uses_systemd() {
        return slice_path(&format!("{name}.slice")).unwrap();
    }
    CgroupPath::parse(&format!("/{name}")).unwrap()
}

/// Removes what a server cannot know of: the cgroups of pods whose records are lost. systemd knows them.
pub fn remove_cgroups(folder: &Path) {
    if !uses_systemd() {
        Cgroups::detect().unwrap().remove(&cgroup(folder)).unwrap();
    }
}

pub fn assert_empty(folder: &Path) {
    for part in ["root/pods", "run/pods"] {
        let left: Vec<_> = std::fs::read_dir(folder.join(part)).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_no_cgroup(folder);
    let left = monitors(folder);
    assert!(left.is_empty(), "monitors of these pods run: {left:?}");
}

pub fn assert_no_cgroup(folder: &Path) {
    let (cgroups, path) = (Cgroups::detect().unwrap(), cgroup(folder));
    if uses_systemd() {
        return assert_no_scope(&path);
    }
    assert!(cgroups.remove_if_empty(&path).unwrap(), "a cgroup of a pod is left below {path:?}");
}

/// The slice is systemd's, and stays until it is stopped.
fn assert_no_scope(slice: &CgroupPath) {
    let folder = Path::new("/sys/fs/cgroup").join(slice.relative());
    let begun = Instant::now();
    loop {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let scopes: Vec<_> = entries.map(|e| e.path()).filter(|path| path.is_dir()).collect();
        let units = systemctl(&["list-units", "--all", "--plain", "--no-legend", "crisp-*.scope"]);
        // Those of tests beside this one are in other slices.
        let ours = |line: &&str| {
            let unit = line.split_whitespace().next().unwrap_or_default();
            systemctl(&["show", "--property=Slice", "--value", unit]).trim() == slice.name()
        };
        let units: Vec<_> = units.lines().filter(ours).collect();
        if scopes.is_empty() && units.is_empty() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "left in {slice}: {scopes:?} {units:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    systemctl(&["stop", slice.name()]);
}

/// The output of systemctl. A systemd that re-executes itself, as some tests request, closes the connections
/// of the others: they retry.
pub fn systemctl(args: &[&str]) -> String {
    let begun = Instant::now();
    loop {
        let output = std::process::Command::new("systemctl").args(args).output().unwrap();
        // A unit that is to be stopped may be gone by itself.
        let is_done = output.status.success() || args[0] == "stop" && output.status.code() == Some(5);
        if is_done {
            return String::from_utf8_lossy(&output.stdout).into_owned();
        }
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(begun.elapsed() < Duration::from_secs(30), "systemctl {args:?}: {why}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The processes that have a file of this folder open: the monitors write their logs to it.
pub fn monitors(folder: &Path) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let log = std::fs::read_link(format!("/proc/{pid}/fd/2"));
        log.is_ok_and(|path| path.starts_with(folder))
    })
    .collect()
}

/// A pod on the host's network, which needs no bridge.
pub fn config(folder: &Path, name: &str) -> PodConfig {
    PodConfig {
        name: name.into(),
        namespace: "test".into(),
        uid: format!("{name}-uid"),
        attempt: 0,
        hostname: String::new(),
        log_directory: None,
        dns: Dns::default(),
        port_mappings: vec![],
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: Default::default(),
        cgroup_parent: Some(cgroup(folder)),
        network: NetworkMode::Host,
        ipc: NamespaceMode::Pod,
        pid: PidMode::Container,
        user: None,
        sysctls: Default::default(),
        privileged: false,
        runtime_handler: String::new(),
    }
}

/// Waits until the pod's state is as `wanted` says.
pub async fn until(pod: &Pod, wanted: impl Fn(&PodState) -> bool) -> PodState {
    let begun = Instant::now();
    loop {
        let state = pod.status().state.clone();
        if wanted(&state) {
            return state;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "pod is {state:?} for 30 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn monitor_pid(pod: &Pod) -> i32 {
    pod.status().monitor_pid.unwrap()
}

pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Waits until the process is a zombie or gone.
pub async fn ended(pid: i32) {
    let begun = Instant::now();
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if status.is_empty() || status.contains(") Z ") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs `work` in a server of its own, which then ends as by SIGKILL: its tasks just stop.
pub fn as_server<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let value = runtime.block_on(work);
    runtime.shutdown_background();
    value
}
