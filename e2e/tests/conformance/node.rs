//! The parts that tests share: a runtime, a registry, a folder.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crisp_e2e::{Client, Error, Image, Machine, Registry, Result, Setup};
use k8s_cri::v1::{
    CgroupDriver, ImageFilter, ListImagesRequest, RemoveImageRequest, RemovePodSandboxRequest,
    RuntimeConfigRequest, StopPodSandboxRequest, VersionRequest,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Mutex;

/// The variable with the socket of another runtime.
const ENDPOINT: &str = "CRISP_CONFORMANCE_ENDPOINT";
/// The variable with the address of the registry for that runtime.
const REGISTRY: &str = "CRISP_CONFORMANCE_REGISTRY";

/// A runtime with its registry and its folders.
pub struct Node {
    target: Target,
    /// The name that the runtime reports.
    pub runtime: String,
    /// The reference of the busybox image, which is already pulled.
    pub image: String,
    driver: CgroupDriver,
    /// The parent cgroup of the pods' cgroups.
    cgroup: String,
}

enum Target {
    Crisp(Box<Machine>),
    Other { socket: PathBuf, folder: TempDir, registry: Registry },
}

static SHARED: Mutex<Weak<Node>> = Mutex::const_new(Weak::new());

/// Returns the node of the tests that run now, or makes a new one.
pub async fn shared() -> Result<Arc<Node>> {
    let mut shared = SHARED.lock().await;
    if let Some(node) = shared.upgrade() {
        return Ok(node);
    }
    let node = Arc::new(Node::start().await?);
    *shared = Arc::downgrade(&node);
    Ok(node)
}

/// Releases the node. The last test that releases it looks for leaks.
pub async fn release(node: Arc<Node>) -> Result<()> {
    // A new node starts only after this one has ended, because they may have the same address.
    let _shared = SHARED.lock().await;
    match Arc::into_inner(node) {
        Some(node) => node.close().await,
        None => Ok(()),
    }
}

impl Node {
    async fn start() -> Result<Self> {
        let target = match std::env::var(ENDPOINT) {
            Ok(endpoint) => Target::other(&endpoint)?,
            Err(_) => Target::Crisp(Box::new(Machine::start_with(Setup::default()).await?)),
        };
        let cgroup = crate::cri::unique("conformance").replace('-', "");
        let (runtime, image) = Default::default();
        let mut node = Self { target, runtime, image, driver: CgroupDriver::Cgroupfs, cgroup };
        let mut client = node.client().await?;
        let config = client.runtime.runtime_config(RuntimeConfigRequest {}).await?.into_inner();
        node.driver = config.linux.map_or(CgroupDriver::Cgroupfs, |linux| linux.cgroup_driver());
        node.runtime = client.runtime.version(VersionRequest::default()).await?.into_inner().runtime_name;
        // The pause program waits, and reaps the processes that a shared PID namespace leaves to it.
        let pause = json!(["/bin/sh", "-c", "sleep 100000000 & wait"]);
        let pause = Image::busybox().config("Entrypoint", pause).config("Cmd", json!([])).build();
        node.registry().push("pause", "1", &pause)?;
        node.image = node.registry().push("busybox", "1", &Image::busybox().build())?;
        client.pull(&node.image).await?;
        Ok(node)
    }

    pub fn registry(&self) -> &Registry {
        match &self.target {
            Target::Crisp(machine) => machine.registry(),
            Target::Other { registry, .. } => registry,
        }
    }

    pub fn socket(&self) -> PathBuf {
        match &self.target {
            Target::Crisp(machine) => machine.socket(),
            Target::Other { socket, .. } => socket.clone(),
        }
    }

    /// The folder for files of tests on the host.
    pub fn folder(&self) -> &Path {
        match &self.target {
            Target::Crisp(machine) => machine.folder(),
            Target::Other { folder, .. } => folder.path(),
        }
    }

    /// The parent cgroup of a pod, in the form of the runtime's driver; kubelet gives each pod one too.
    pub fn cgroup_parent(&self, pod: &str) -> String {
        match self.driver {
            CgroupDriver::Systemd => format!("{}-{}.slice", self.cgroup, pod.replace('-', "")),
            CgroupDriver::Cgroupfs => format!("/{}/{pod}", self.cgroup),
        }
    }

    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.socket()).await
    }

    /// Removes all pods, also after a failure.
    pub async fn remove(&self, pods: &std::sync::Mutex<Vec<String>>) -> Result<()> {
        let pods = std::mem::take(&mut *pods.lock().map_err(|_| "the list of pods is lost")?);
        let mut client = self.client().await?.runtime;
        let mut failures = Vec::new();
        for id in pods {
            let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            failures.extend(client.stop_pod_sandbox(stop).await.err().map(|e| e.to_string()));
            let remove = RemovePodSandboxRequest { pod_sandbox_id: id };
            failures.extend(client.remove_pod_sandbox(remove).await.err().map(|e| e.to_string()));
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::from(failures.join("\n"))) }
    }

    async fn close(self) -> Result<()> {
        let mut images = self.client().await?.images;
        remove_cgroups(&self.cgroup);
        match self.target {
            Target::Crisp(machine) => machine.close().await,
            Target::Other { registry, .. } => {
                let list = images.list_images(ListImagesRequest { filter: None::<ImageFilter> }).await?;
                for image in list.into_inner().images {
                    let is_ours = |name: &&String| name.starts_with(&registry.host);
                    for name in image.repo_tags.iter().chain(&image.repo_digests).filter(is_ours) {
                        let image = k8s_cri::v1::ImageSpec { image: name.clone(), ..Default::default() };
                        images.remove_image(RemoveImageRequest { image: Some(image) }).await?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Removes the empty cgroups whose first name has this prefix. systemd removes its own.
pub fn remove_cgroups(name: &str) {
    let path = format!("*/{name}*");
    let mut find = std::process::Command::new("find");
    find.args(["/sys/fs/cgroup", "-depth", "-type", "d", "-path", &path, "-delete"]);
    // It also fails on cgroups that systemd removes at the same time.
    let _ = find.output();
}

impl Target {
    fn other(endpoint: &str) -> Result<Self> {
        let socket = endpoint.strip_prefix("unix://").ok_or("the endpoint has to be unix:///...")?;
        let host = std::env::var(REGISTRY).map_err(|_| format!("{ENDPOINT} needs {REGISTRY} too"))?;
        let folder = tempfile::Builder::new().prefix("crisp-conformance-").tempdir()?;
        let registry = Registry::start_at(&host, &folder.path().join("registry"), &[])?;
        Ok(Self::Other { socket: socket.into(), folder, registry })
    }
}
