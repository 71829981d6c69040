//! The runtime for one test: requests with unique names, and short forms of frequent requests.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crisp_e2e::image::Built;
use crisp_e2e::scenario::parse_log;
use crisp_e2e::{Client, Result, request};
use k8s_cri::v1::{
    ContainerConfig, ContainerState, ContainerStatus, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatus, PodSandboxStatusRequest,
    RemoveContainerRequest, RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};
use tonic::Status;

use crate::node::Node;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that is unique among all tests and runs.
pub fn unique(kind: &str) -> String {
    format!("{kind}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A running pod.
pub struct Pod {
    pub id: String,
    pub config: PodSandboxConfig,
}

/// A test's own connection to the shared runtime.
pub struct Cri {
    pub client: Client,
    /// The busybox image.
    pub image: String,
    node: Arc<Node>,
    pods: Arc<Mutex<Vec<String>>>,
}

impl Deref for Cri {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Cri {
    pub async fn connect(node: Arc<Node>) -> Result<Self> {
        Ok(Self { client: node.client().await?, image: node.image.clone(), node, pods: Arc::default() })
    }

    /// The pods of this test so far.
    pub fn pods(&self) -> Arc<Mutex<Vec<String>>> {
        self.pods.clone()
    }

    /// A new folder on the host.
    pub fn new_folder(&self) -> Result<PathBuf> {
        let folder = self.folder().join(unique("host"));
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// A pod with a network of its own and a PID namespace per container, as kubelet asks for them.
    pub fn sandbox(&self) -> PodSandboxConfig {
        let name = unique("pod");
        let options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
        let cgroup_parent = self.cgroup_parent(&name);
        PodSandboxConfig {
            log_directory: self.folder().join(&name).display().to_string(),
            hostname: name.clone(),
            metadata: Some(PodSandboxMetadata {
                uid: format!("uid-{name}"),
                name,
                namespace: "conformance".into(),
                attempt: 0,
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent,
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// A pod like [`sandbox`](Self::sandbox), with other namespace options.
    pub fn sandbox_with(&self, options: NamespaceOption) -> PodSandboxConfig {
        let mut config = self.sandbox();
        sandbox_security(&mut config).namespace_options = Some(options);
        config
    }

    pub async fn run(&mut self, config: &PodSandboxConfig) -> Result<Pod, Status> {
        let id = self.client.run_pod(config).await?;
        if let Ok(mut pods) = self.pods.lock() {
            pods.push(id.clone());
        }
        Ok(Pod { id, config: config.clone() })
    }

    pub async fn pod(&mut self) -> Result<Pod> {
        let config = self.sandbox();
        Ok(self.run(&config).await?)
    }

    /// A container for a shell line, with a name of its own.
    pub fn shell(&self, line: &str) -> ContainerConfig {
        secured(request::shell(&unique("c"), &self.image, line), LinuxContainerSecurityContext::default())
    }

    pub async fn create(&mut self, pod: &Pod, config: &ContainerConfig) -> Result<String, Status> {
        self.client.create(&pod.id, config, &pod.config).await
    }

    pub async fn launch(&mut self, pod: &Pod, config: &ContainerConfig) -> Result<String, Status> {
        self.client.launch(&pod.id, config, &pod.config).await
    }

    /// A new pod with a container that sleeps.
    pub async fn running(&mut self) -> Result<(Pod, String)> {
        let config = self.shell("exec sleep 1000");
        self.running_as(&config).await
    }

    /// A new pod with this container in it.
    pub async fn running_as(&mut self, config: &ContainerConfig) -> Result<(Pod, String)> {
        let pod = self.pod().await?;
        let id = self.launch(&pod, config).await?;
        Ok((pod, id))
    }

    /// Runs a container to its end.
    pub async fn end(&mut self, pod: &Pod, config: &ContainerConfig) -> Result<ContainerStatus> {
        let id = self.launch(pod, config).await?;
        self.client.wait(&id).await
    }

    /// The output of a container in a new pod. It must succeed.
    pub async fn output(&mut self, config: &ContainerConfig) -> Result<String> {
        let pod = self.pod().await?;
        self.output_in(&pod, config).await
    }

    /// The output of a container. It must succeed.
    pub async fn output_in(&mut self, pod: &Pod, config: &ContainerConfig) -> Result<String> {
        let status = self.end(pod, config).await?;
        let log = parse_log(&log(pod, config)?)?;
        if status.exit_code != 0 {
            return Err(format!("exit code {}: {log}", status.exit_code).into());
        }
        Ok(log)
    }

    /// See [`crisp_e2e::Client::sh`].
    pub async fn sh(&mut self, container: &str, line: &str) -> Result<String> {
        self.client.sh(container, line).await
    }

    /// See [`crisp_e2e::Client::until`].
    pub async fn until(&mut self, container: &str, line: &str) -> Result<String> {
        self.client.until(container, line).await
    }

    pub async fn state(&mut self, container: &str) -> Result<ContainerState> {
        Ok(self.client.status(container).await?.state())
    }

    pub async fn stop(&mut self, container: &str, timeout: i64) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: container.into(), timeout };
        self.client.runtime.stop_container(request).await.map(drop)
    }

    pub async fn remove_container(&mut self, container: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest { container_id: container.into() };
        self.client.runtime.remove_container(request).await.map(drop)
    }

    pub async fn stop_pod(&mut self, pod: &str) -> Result<(), Status> {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.into() };
        self.client.runtime.stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove_pod(&mut self, pod: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.into() };
        self.client.runtime.remove_pod_sandbox(request).await.map(drop)
    }

    pub async fn pod_status(&mut self, pod: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
        let answer = self.client.runtime.pod_sandbox_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("no status in the answer"))
    }

    /// Pushes an image and pulls it.
    pub async fn image(&mut self, image: &Built) -> Result<String> {
        let reference = self.registry().push(&unique("image"), "1", image)?;
        self.client.pull(&reference).await?;
        Ok(reference)
    }
}

/// Reads the log file of a container.
pub fn log(pod: &Pod, config: &ContainerConfig) -> Result<String> {
    let path = PathBuf::from(&pod.config.log_directory).join(&config.log_path);
    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// A random id, which no runtime has.
pub fn unknown() -> String {
    "0123456789abcdef".repeat(4)
}

pub fn sandbox_security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A container with this security context. If the context has no namespace options it gets the usual ones.
pub fn secured(mut config: ContainerConfig, mut context: LinuxContainerSecurityContext) -> ContainerConfig {
    let usual = || request::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    context.namespace_options.get_or_insert_with(usual);
    config.linux.get_or_insert_default().security_context = Some(context);
    config
}

/// A container with these limits.
pub fn limited(mut config: ContainerConfig, resources: LinuxContainerResources) -> ContainerConfig {
    let linux: &mut LinuxContainerConfig = config.linux.get_or_insert_default();
    linux.resources = Some(resources);
    config
}
