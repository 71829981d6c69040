//! A pod in a temporary folder, with an image of busybox.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crisp_executor::cgroup::JoinFds;
use crisp_executor::ids::{ContainerId, PodId};
use crisp_executor::plan::Plan;
use crisp_monitor::wire::request::Shutdown;
use crisp_monitor::wire::{Header, Op, packet};
use crisp_sandbox::link::{Event, Exit, LinkError, MonitorLink, OpenPod, PodOpened, StartRequest, Started};
use crisp_sandbox::spawn::{MonitorBinary, begin};
use rustix::fd::OwnedFd;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::sync::broadcast;

use crate::plans::sh;

/// Against hanging, on a machine with much other work.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Why nothing can be tested here, printed; false when all is there.
pub fn missing() -> bool {
    crisp_skip::lacks(&["/bin/busybox"])
}

/// The program of the monitor, which `cargo test` builds beside the tests.
pub fn monitor() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("crisp-pod")
}

pub struct Pod {
    pub folder: tempfile::TempDir,
    pub pid: i32,
    pub link: MonitorLink,
    /// From before the spawn.
    pub greeted_after: Duration,
}

pub fn request(folder: &Path) -> OpenPod {
    OpenPod {
        hostname: Some("web-0".into()),
        network: true,
        joined_network: None,
        ipc: true,
        shared_pid: false,
        sysctls: vec![],
        shm_bytes: 1 << 20,
        exits: std::fs::File::open(folder).unwrap().into(),
        cgroup_v2: None,
        cgroup_v1_tasks: vec![],
        user: None,
        host_ports: vec![],
    }
}

impl Pod {
    /// A monitor that is not a pod yet.
    pub async fn fresh() -> Self {
        // That of an earlier release, to see what this server can still do with it.
        let other = std::env::var_os("CRISP_TEST_MONITOR");
        let path = other.unwrap_or_else(|| monitor().into());
        let binary = std::fs::read(path).unwrap();
        Self::fresh_of(&MonitorBinary::new(&binary).unwrap()).await
    }

    pub async fn fresh_of(binary: &MonitorBinary) -> Self {
        Self::fresh_in(binary, &mut JoinFds::default()).await
    }

    pub async fn fresh_in(binary: &MonitorBinary, cgroup: &mut JoinFds) -> Self {
        Self::fresh_with(binary, cgroup, true).await
    }

    /// `network`: it will have a network of its own.
    pub async fn fresh_with(binary: &MonitorBinary, cgroup: &mut JoinFds, network: bool) -> Self {
        let (folder, began) = (tempfile::tempdir().unwrap(), Instant::now());
        let id = PodId::random();
        let spawning = begin(binary, &id, folder.path(), cgroup, network).unwrap();
        let (pid, _reaper) = spawning.finish(cgroup).unwrap();
        let link = MonitorLink::connect(&folder.path().join("monitor.sock"), DEADLINE).await.unwrap();
        assert_eq!((link.greeting().pid, &link.greeting().pod), (pid, &id));
        let pod = Self { folder, pid, link, greeted_after: began.elapsed() };
        pod.make_image();
        pod
    }

    pub async fn open_with(change: impl FnOnce(&mut OpenPod)) -> (Self, PodOpened) {
        let pod = Self::fresh().await;
        let mut request = request(pod.folder.path());
        change(&mut request);
        let opened = pod.link.open_pod(request).await.unwrap();
        (pod, opened)
    }

    pub async fn open() -> Self {
        Self::open_with(|_| {}).await.0
    }

    /// A further connection, as of a restarted server.
    pub async fn connect(&self) -> MonitorLink {
        MonitorLink::connect(&self.folder.path().join("monitor.sock"), DEADLINE).await.unwrap()
    }

    fn make_image(&self) {
        let bin = self.image().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", bin.join("sh")).unwrap();
        for folder in ["proc", "tmp", "dev"] {
            std::fs::create_dir(self.image().join(folder)).unwrap();
        }
    }

    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// A detached mount of the image: what the server passes.
    pub fn root(&self) -> OwnedFd {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(rustix::fs::CWD, self.image(), flags).unwrap()
    }

    pub fn log_path(&self, container: &ContainerId) -> PathBuf {
        self.folder.path().join(format!("{}.log", container.short()))
    }

    pub fn log_file(&self, container: &ContainerId) -> OwnedFd {
        let path = self.log_path(container);
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().into()
    }

    pub fn log(&self, container: &ContainerId) -> String {
        std::fs::read_to_string(self.log_path(container)).unwrap()
    }

    /// The text of a stream, records joined as kubelet does.
    pub fn output(&self, container: &ContainerId, stream: &str) -> String {
        joined(&self.log(container), stream)
    }

    pub async fn start(&self, plan: &Plan) -> Result<(ContainerId, Started), LinkError> {
        self.start_with(plan, vec![self.root()], |_| {}).await
    }

    pub async fn start_with(
        &self,
        plan: &Plan,
        fds: Vec<OwnedFd>,
        change: impl FnOnce(&mut StartRequest),
    ) -> Result<(ContainerId, Started), LinkError> {
        let container = ContainerId::random();
        let log = Some(self.log_file(&container));
        let mut request = StartRequest {
            container: container.clone(),
            plan: plan.clone(),
            fds,
            log,
            stdin: false,
            stdin_once: false,
            size: None,
        };
        change(&mut request);
        let started = self.link.start(request).await?;
        Ok((container, started))
    }

    /// Runs a script to its end.
    pub async fn run(&self, script: &str) -> (ContainerId, Exit) {
        self.run_plan(&sh(script)).await
    }

    pub async fn run_plan(&self, plan: &Plan) -> (ContainerId, Exit) {
        let mut events = self.link.events();
        let (container, _) = self.start(plan).await.unwrap();
        let exit = exit_of(&mut events, &container).await;
        (container, exit)
    }

    /// Takes it down and checks that nothing is left of it.
    pub async fn shutdown(self) {
        self.link.shutdown(true).await.unwrap();
        gone(self.pid).await;
    }
}

/// Also a test that failed leaves nothing running.
impl Drop for Pod {
    fn drop(&mut self) {
        let Ok(address) = SocketAddrUnix::new(self.folder.path().join("monitor.sock")) else { return };
        let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        else {
            return;
        };
        if rustix::net::connect(&socket, &address).is_ok() {
            let body = postcard::to_allocvec(&Shutdown { force: true }).unwrap_or_default();
            let _ = packet::send(&socket, Header::request(Op::Shutdown, 1), &body, &[]);
            // Until it has answered or closed.
            let _ = rustix::net::recv(&socket, &mut [0; 64], RecvFlags::empty());
        }
    }
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen before the deadline");
}

pub async fn gone(pid: i32) {
    let path = format!("/proc/{pid}");
    until(&format!("the end of process {pid}"), || !Path::new(&path).exists()).await;
}

pub async fn exit_of(events: &mut broadcast::Receiver<Event>, wanted: &ContainerId) -> Exit {
    let wait = async {
        loop {
            if let Event::Exited { container, exit, .. } = events.recv().await.unwrap()
                && container == *wanted
            {
                return exit;
            }
        }
    };
    tokio::time::timeout(DEADLINE * 3, wait).await.expect("the container to end")
}

/// The text that kubelet makes of a stream's records; asserts that times never fall.
pub fn joined(log: &str, stream: &str) -> String {
    let (mut whole, mut last) = (String::new(), "");
    for line in log.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [time, of, tag, text] = words[..] else { panic!("not a record: {line:?}") };
        assert!(time >= last, "{time} after {last}");
        last = time;
        if of == stream {
            whole += text;
            if tag == "F" {
                whole += "\n";
            }
        }
    }
    whole
}

/// The monitor as `crisp` embeds it: static, not relocated, for size. Built once. None: there is no compiler,
/// as in the virtual machine.
pub fn shipped() -> Option<MonitorBinary> {
    static BUILT: OnceLock<MonitorBinary> = OnceLock::new();
    Path::new(env!("CARGO")).exists().then(|| BUILT.get_or_init(build).clone())
}

fn build() -> MonitorBinary {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("shipped");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "crisp-monitor", "--bin", "crisp-pod"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static -C panic=abort")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success());
    let program = std::fs::read(target.join("x86_64-unknown-linux-gnu/release/crisp-pod")).unwrap();
    MonitorBinary::new(&program).unwrap()
}
