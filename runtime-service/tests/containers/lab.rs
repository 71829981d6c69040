//! A laboratory: one server's worth of services on temporary folders, with one image.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crisp_executor::cgroup::{CgroupPath, Cgroups};
use crisp_image_service::store::{Document, NewImage};
use crisp_image_service::{DiffId, Digest, ImageConfig, ImageService, Reference};
use crisp_metrics::Metrics;
use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_runtime_service::{LiveConfig, RuntimeConfig, RuntimeService};
use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks};
use crisp_sandbox::spawn::MonitorBinary;
use crisp_sandbox::systemd::Systemd;
use crisp_sandbox::{Pods, SandboxConfig};
use crisp_skip::Cleanup;
use crisp_streaming::{StreamConfig, StreamServer};
use tonic::{Request, Status};

pub const IMAGE: &str = "registry.test/lab:1";

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Lab {
    /// Before the folder, whose files the processes have.
    cleanup: Cleanup,
    pub dir: tempfile::TempDir,
    pub service: RuntimeService,
    pub metrics: Metrics,
    pub images: ImageService,
    number: u32,
}

/// Whether these tests are to use the systemd cgroup driver; `e2e/vm.sh` says so.
fn uses_systemd() -> bool {
    std::env::var("CRISP_TEST_CGROUP_DRIVER").is_ok_and(|driver| driver == "systemd")
}

fn monitor() -> Option<Vec<u8>> {
    let exe = std::env::current_exe().ok()?;
    std::fs::read(exe.parent()?.parent()?.join("crisp-pod")).ok()
}

/// The folders of a server that is no more.
pub struct Left {
    cleanup: Cleanup,
    dir: tempfile::TempDir,
    number: u32,
}

impl Left {
    pub async fn open(self) -> Lab {
        let (service, metrics, images) = open(self.dir.path(), self.number, false).await;
        Lab { cleanup: self.cleanup, dir: self.dir, service, metrics, images, number: self.number }
    }
}

macro_rules! lab {
    () => {{
        crisp_skip::needs!("/bin/busybox");
        crate::lab::Lab::new().await
    }};
}
pub(crate) use lab;

impl Lab {
    pub async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("crisp-lab").tempdir().unwrap();
        // Programs of any user go through here on their way to the layers.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let cleanup = Cleanup::new(cgroup(number), Some(bridge(number)));
        let (service, metrics, images) = open(dir.path(), number, true).await;
        Self { cleanup, dir, service, metrics, images, number }
    }

    /// The state that the next server finds. This one must be gone with its whole runtime, as after SIGKILL.
    pub fn leave(self) -> Left {
        Left { cleanup: self.cleanup, dir: self.dir, number: self.number }
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    pub fn pod_config(&self, name: &str) -> proto::PodSandboxConfig {
        let metadata = proto::PodSandboxMetadata {
            name: name.into(),
            uid: format!("{name}-uid"),
            namespace: "lab".into(),
            attempt: 0,
        };
        let options = proto::NamespaceOption { network: 2, pid: 1, ..Default::default() };
        let context =
            proto::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        proto::PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: self.logs().to_string_lossy().into_owned(),
            linux: Some(proto::LinuxPodSandboxConfig {
                security_context: Some(context),
                cgroup_parent: self.cgroup_parent(name),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn run_pod(&self, config: proto::PodSandboxConfig) -> Result<String, Status> {
        let request = proto::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(self.service.run_pod_sandbox(Request::new(request)).await?.into_inner().pod_sandbox_id)
    }

    pub async fn pod(&self, name: &str) -> String {
        self.run_pod(self.pod_config(name)).await.unwrap()
    }

    pub async fn create(&self, pod: &str, config: proto::ContainerConfig) -> Result<String, Status> {
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self.service.create_container(Request::new(request)).await?.into_inner().container_id)
    }

    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = proto::StartContainerRequest { container_id: id.into() };
        self.service.start_container(Request::new(request)).await.map(drop)
    }

    /// Created and started.
    pub async fn run(&self, pod: &str, config: proto::ContainerConfig) -> String {
        let id = self.create(pod, config).await.unwrap();
        self.start(&id).await.unwrap();
        id
    }

    pub async fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = proto::StopContainerRequest { container_id: id.into(), timeout };
        self.service.stop_container(Request::new(request)).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = proto::RemoveContainerRequest { container_id: id.into() };
        self.service.remove_container(Request::new(request)).await.map(drop)
    }

    /// Also the cgroup that the pod was told to live below, as its owner would.
    pub async fn remove_pod(&self, id: &str) {
        let request = proto::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.service.remove_pod_sandbox(Request::new(request)).await.unwrap();
        self.remove_cgroups();
    }

    pub fn remove_cgroups(&self) {
        let name = cgroup(self.number);
        if uses_systemd() {
            // The scopes went with their processes; slices stay until they are stopped.
            let slice = format!("{name}.slice");
            std::process::Command::new("systemctl").args(["stop", &slice]).status().unwrap();
            return;
        }
        let parent = CgroupPath::parse(&format!("/{name}")).unwrap();
        Cgroups::detect().unwrap().remove(&parent).ok();
    }

    fn cgroup_parent(&self, pod: &str) -> String {
        let name = cgroup(self.number);
        if uses_systemd() { format!("{name}-{pod}.slice") } else { format!("/{name}/{pod}") }
    }

    pub async fn status(&self, id: &str) -> Result<proto::ContainerStatus, Status> {
        let request = proto::ContainerStatusRequest { container_id: id.into(), verbose: false };
        Ok(self.service.container_status(Request::new(request)).await?.into_inner().status.unwrap())
    }

    /// The details that `crictl inspect` shows.
    pub async fn info(&self, id: &str) -> serde_json::Value {
        let request = proto::ContainerStatusRequest { container_id: id.into(), verbose: true };
        let info = self.service.container_status(Request::new(request)).await.unwrap().into_inner().info;
        serde_json::from_str(&info["info"]).unwrap()
    }

    pub async fn pod_status(&self, pod: &str) -> proto::PodSandboxStatus {
        let request = proto::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
        self.service.pod_sandbox_status(Request::new(request)).await.unwrap().into_inner().status.unwrap()
    }

    /// Waits until the log has `text`.
    pub async fn until_log(&self, name: &str, text: &str) {
        let begun = Instant::now();
        while !self.log(name).contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{text} in {}", self.log(name));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the record says that the container runs: it follows the response to the start. A record that
    /// says "starting" leaves open to the next server whether the container runs.
    pub async fn recorded_as_running(&self, id: &str) {
        let record = self.dir.path().join("root/containers").join(id).join("status.json");
        while !std::fs::read_to_string(&record).unwrap().contains("running") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn monitor_pid(&self, pod: &str) -> rustix::process::Pid {
        let request = proto::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: true };
        let info = self.service.pod_sandbox_status(Request::new(request)).await.unwrap().into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        rustix::process::Pid::from_raw(i32::try_from(info["pid"].as_i64().unwrap()).unwrap()).unwrap()
    }

    pub async fn exec(
        &self,
        id: &str,
        words: &[&str],
        timeout: i64,
    ) -> Result<proto::ExecSyncResponse, Status> {
        let cmd = words.iter().map(|w| (*w).to_owned()).collect();
        let request = proto::ExecSyncRequest { container_id: id.into(), cmd, timeout };
        Ok(self.service.exec_sync(Request::new(request)).await?.into_inner())
    }

    /// The output of a shell line in the container.
    pub async fn sh(&self, id: &str, line: &str) -> String {
        let answer = self.exec(id, &["sh", "-c", line], 20).await.unwrap();
        assert_eq!(answer.exit_code, 0, "{line}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap()
    }

    pub async fn exited(&self, id: &str) -> proto::ContainerStatus {
        let begun = Instant::now();
        loop {
            let status = self.status(id).await.unwrap();
            if status.state == proto::ContainerState::ContainerExited as i32 {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs().join(format!("{name}.log"))).unwrap_or_default()
    }
}

/// The cgroup that has those of all pods.
fn cgroup(number: u32) -> String {
    format!("crisp-lab-{}-{number}", std::process::id())
}

fn bridge(number: u32) -> String {
    format!("lb{}n{number}", std::process::id())
}

/// `sh -c line`, logging to `name`.log.
pub fn shell(name: &str, line: &str) -> proto::ContainerConfig {
    proto::ContainerConfig {
        metadata: Some(proto::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(proto::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["/bin/sh".into(), "-c".into(), line.into()],
        log_path: format!("{name}.log"),
        linux: Some(proto::LinuxContainerConfig {
            security_context: Some(proto::LinuxContainerSecurityContext {
                namespace_options: Some(proto::NamespaceOption { network: 2, pid: 1, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn security(config: &mut proto::ContainerConfig) -> &mut proto::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

pub fn resources(config: &mut proto::ContainerConfig) -> &mut proto::LinuxContainerResources {
    config.linux.as_mut().unwrap().resources.get_or_insert_default()
}

async fn open(dir: &Path, number: u32, fresh: bool) -> (RuntimeService, Metrics, ImageService) {
    let root = dir.join("root");
    let metrics = Metrics::new("lab").unwrap();
    let images = open_images(&root, &metrics).await;
    if fresh {
        add_image(&images);
    }
    let networks = Networks::open(&NetworkConfig {
        kind: NetworkKind::BuiltIn,
        cni_conf_dir: "/nonexistent".into(),
        cni_bin_dirs: vec![],
        bridge_name: bridge(number),
        state_dir: dir.join("run/network"),
        root_dir: root.join("network"),
        ..Default::default()
    })
    .unwrap();
    let cgroups = Cgroups::detect().unwrap();
    let systemd = if uses_systemd() { Some(Systemd::detect(&cgroups).await.unwrap()) } else { None };
    let sandboxes = SandboxConfig {
        root: root.clone(),
        state: dir.join("run"),
        monitor: MonitorBinary::new(&monitor().unwrap()).unwrap(),
        cgroups,
        systemd,
        networks,
    };
    let pods = Pods::open(sandboxes, &metrics).await.unwrap();
    let streams = StreamServer::open(&StreamConfig::default()).await.unwrap();
    let cdi_spec_dirs = vec![dir.join("cdi")];
    let config = RuntimeConfig {
        root,
        cdi_spec_dirs,
        live: LiveConfig { exec_grace: Duration::from_secs(1), log_limits: None },
    };
    let service = RuntimeService::new(config, pods, images.clone(), streams, &metrics).await.unwrap();
    (service, metrics, images)
}

/// The thread of the store before that makes images durable holds it until the file system has synced.
async fn open_images(root: &Path, metrics: &Metrics) -> ImageService {
    let begun = Instant::now();
    loop {
        let config = ImageConfig { root: root.to_owned(), ..Default::default() };
        match ImageService::open(config, metrics).await {
            Ok(images) => return images,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn add_image(images: &ImageService) {
    let config = r#""Env":["PATH=/bin","FROM=image"],"Cmd":["/bin/sh","-c","echo from the image"],
        "WorkingDir":"/home","Volumes":{"/data":{}},"StopSignal":"SIGTERM""#;
    add_image_of(images, IMAGE, &[layer()], config);
}

/// An image of these archives of layers, bottom first, with what is inside of `config` in its configuration.
pub fn add_image_of(images: &ImageService, reference: &str, layers: &[Vec<u8>], config: &str) -> Vec<DiffId> {
    let ingest = |layer: &Vec<u8>| {
        let diff = DiffId::parse(Digest::sha256(layer).as_str()).unwrap();
        images.store().ingest_layer(&diff, &layer[..]).unwrap();
        diff
    };
    let diffs: Vec<DiffId> = layers.iter().map(ingest).collect();
    let list = serde_json::to_string(&diffs).unwrap();
    let document =
        |text: String| Document { digest: Digest::sha256(text.as_bytes()), bytes: text.into_bytes() };
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":{list}}},"config":{{{config}}}}}"#
    );
    let manifest = document("{}".to_owned());
    let new = NewImage {
        reference: Reference::parse(reference).unwrap(),
        resolved: manifest.digest.clone(),
        manifest,
        config: document(config),
    };
    images.store().commit_image(new).unwrap();
    diffs
}

pub fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, data: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_link_name(link).unwrap();
        tar.append_data(&mut header, path, data).unwrap();
    };
    let file = tar::EntryType::Regular;
    for folder in ["bin/", "etc/", "home/", "data/", "tmp/"] {
        add(folder, tar::EntryType::Directory, 0o755, b"", "x");
    }
    add("bin/busybox", file, 0o755, &std::fs::read("/bin/busybox").unwrap(), "x");
    for name in [
        "sh", "cat", "echo", "sleep", "id", "true", "false", "yes", "head", "mount", "ls", "hostname",
        "kill", "wget", "env", "dd", "touch", "grep", "setsid", "unshare", "ps", "stty", "stat", "chown",
        "mknod", "readlink",
    ] {
        add(&format!("bin/{name}"), tar::EntryType::Symlink, 0o777, b"", "busybox");
    }
    add("etc/passwd", file, 0o644, b"root:x:0:0::/:/bin/sh\nann:x:1000:1000::/home:/bin/sh\n", "x");
    add("etc/group", file, 0o644, b"root:x:0:\nann:x:1000:\nstaff:x:50:ann\n", "x");
    add("data/given", file, 0o644, b"by the image", "x");
    tar.into_inner().unwrap()
}
