use std::path::PathBuf;
use std::sync::Arc;

use crisp_executor::id::PodId;
use crisp_operation::KeyedLocks;
use tokio::task::{JoinSet, spawn_blocking};

use super::builtin::{Builtin, LostPod};
use super::cni::{Cni, NetworkList};
use super::host_ports::{HeldPorts, HostPorts, published, refused};
use super::{AttachRequest, Attachment, NetworkConfig, NetworkError, NetworkKind, PortMapping};

/// Whether pods can get a network, as the CRI NetworkReady condition has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Ready.
    pub ready: bool,
    /// One CamelCase word; empty when ready.
    pub reason: String,
    /// For people: which network is in force, or what is wrong with which file or setting.
    pub message: String,
}

/// The network of all pods of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Networks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: NetworkKind,
    /// For people.
    cni_conf_dir: PathBuf,
    builtin: Builtin,
    cni: Arc<Cni>,
    ports: HostPorts,
    locks: KeyedLocks<PodId>,
}

impl Networks {
    /// Reads the records of attached pods. Makes nothing: the bridge comes with the first pod.
    ///
    /// # Errors
    /// When the settings can't work or the record folders can't be made.
    pub fn open(config: &NetworkConfig) -> Result<Self, NetworkError> {
        let builtin = Builtin::open(config)?;
        let cni = Arc::new(Cni::open(config)?);
        let ports = HostPorts::default();
        for held in builtin.ports().into_iter().chain(cni.ports()) {
            ports.restore(held);
        }
        let (kind, cni_conf_dir) = (config.kind, config.cni_conf_dir.clone());
        Ok(Self(Arc::new(Inner { kind, cni_conf_dir, builtin, cni, ports, locks: KeyedLocks::default() })))
    }

    /// Gives the pod its network. A failure leaves nothing behind, or names what it left.
    ///
    /// # Errors
    /// Any [`NetworkError`].
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, NetworkError> {
        let inner = Arc::clone(&self.0);
        // A task of its own: a caller who goes away must not leave half an attachment.
        let task = tokio::spawn(async move {
            let _lock = inner.locks.lock(request.pod.clone(), "attach").await;
            Inner::attach(&inner, request).await
        });
        task.await.unwrap_or(Err(NetworkError::Interrupted("attach")))
    }

    /// Takes the host ports of a pod that is about to be made, so that one that is in use is refused before
    /// anything else is done. [`Self::detach`] gives them back.
    ///
    /// # Errors
    /// The port that another pod or a program has, with its holder.
    pub(crate) fn reserve_ports(
        &self,
        pod: &PodId,
        name: &str,
        mappings: &[PortMapping],
    ) -> Result<(), NetworkError> {
        let ports = published(mappings).map_err(|(port, why)| refused(port, why))?;
        self.0.ports.reserve(pod, name, &ports)
    }

    /// What a new pod's namespace needs to be set to before it is attached.
    pub(crate) fn pod_sysctls(&self) -> &'static [(&'static str, &'static str)] {
        // A pod that cannot be attached needs none.
        if matches!(self.0.in_force(), Ok(None)) { self.0.builtin.pod_sysctls() } else { &[] }
    }

    /// Takes the pod's network away, from the record alone; a pod without one is fine.
    ///
    /// On the built-in network the pod is cut off and its ports are free when this returns; its interface
    /// is deleted within some tenths of a second, together with those of others, and only then is its
    /// address given back. [`Self::close_if_unused`] waits for that.
    ///
    /// # Errors
    /// What could not be taken away; calling again tries again.
    pub async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let (inner, pod) = (Arc::clone(&self.0), pod.clone());
        let task = tokio::spawn(async move {
            let _lock = inner.locks.lock(pod.clone(), "detach").await;
            Inner::detach(&inner, pod).await
        });
        task.await.unwrap_or(Err(NetworkError::Interrupted("detach")))
    }

    /// Makes the record of a pod on the built-in network anew where it was lost and the pod's interface is
    /// still there.
    pub(crate) fn adopt(&self, lost: LostPod) {
        let Ok(ports) = published(&lost.ports) else { return };
        let lost = LostPod { ports, ..lost };
        if self.0.builtin.adopt(&lost) {
            self.0.ports.restore(HeldPorts::new(&lost.pod, &lost.namespace, &lost.name, &lost.ports));
        }
    }

    /// What the pod was given, from memory.
    #[must_use]
    pub fn attachment(&self, pod: &PodId) -> Option<Attachment> {
        self.0.builtin.attachment(pod).or_else(|| self.0.cni.attachment(pod))
    }

    /// Whether a new pod would get a network. Never waits for a plugin.
    #[must_use]
    pub fn status(&self) -> NetworkStatus {
        let status = self.0.in_force().and_then(|network| match network {
            None => self.0.builtin.status(),
            Some(network) => self.0.cni.status(&network),
        });
        match status {
            Ok(message) => NetworkStatus { ready: true, reason: String::new(), message },
            Err(error) => {
                NetworkStatus { ready: false, reason: error.reason().to_owned(), message: error.to_string() }
            }
        }
    }

    /// Detaches every recorded pod that is not in `live`; returns those that were.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn gc(&self, live: &[PodId]) -> Result<Vec<PodId>, NetworkError> {
        let known = self.0.builtin.pods().into_iter().chain(self.0.cni.pods());
        let stale: Vec<PodId> = known.chain(self.0.cni.lost()).filter(|pod| !live.contains(pod)).collect();
        let (mut gone, mut failure) = (Vec::new(), None);
        // All at once: one that hangs costs its own deadline, not that of the others.
        let mut tasks = JoinSet::new();
        for pod in stale {
            let networks = self.clone();
            tasks.spawn(async move { networks.detach(&pod).await.map(|()| pod) });
        }
        while let Some(detached) = tasks.join_next().await {
            match detached.unwrap_or(Err(NetworkError::Interrupted("detach"))) {
                Ok(pod) => gone.push(pod),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // Left over by a server that was killed just after a detach.
        let inner = Arc::clone(&self.0);
        spawn_blocking(move || inner.builtin.reap_all());
        if let Err(error) = self.0.cni.collect().await {
            failure = failure.or(Some(error));
        }
        failure.map_or(Ok(gone), Err)
    }

    /// Removes the bridge and the packet rules if no pod uses them. For a server that ends without pods.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn close_if_unused(&self) -> Result<(), NetworkError> {
        let inner = Arc::clone(&self.0);
        let closed = spawn_blocking(move || inner.builtin.close_if_unused().map(|_| ()));
        closed.await.unwrap_or(Err(NetworkError::Interrupted("close")))
    }
}

impl Inner {
    async fn attach(self: &Arc<Self>, request: AttachRequest) -> Result<Attachment, NetworkError> {
        let pod = request.pod.clone();
        if self.knows(&pod) {
            return Err(NetworkError::AlreadyAttached { pod });
        }
        let network = self.in_force()?;
        let ports = published(&request.port_mappings).map_err(|(port, why)| refused(port, why))?;
        self.ports.reserve(&pod, &format!("{}/{}", request.namespace, request.name), &ports)?;
        let attached = self.attach_to(network, request, ports).await;
        // What could not be undone keeps its ports: they may still lead to the pod.
        if attached.is_err() && !self.knows(&pod) {
            self.ports.release(&pod);
        }
        attached
    }

    async fn attach_to(
        self: &Arc<Self>,
        network: Option<Arc<NetworkList>>,
        request: AttachRequest,
        ports: Vec<PortMapping>,
    ) -> Result<Attachment, NetworkError> {
        if let Some(network) = network {
            return self.cni.attach(network, &request, &ports).await;
        }
        let inner = Arc::clone(self);
        let attached = spawn_blocking(move || inner.builtin.attach(&request, &ports)).await;
        attached.unwrap_or(Err(NetworkError::Interrupted("attach")))
    }

    /// The CNI network that a new pod gets; `None` when it gets the built-in one.
    fn in_force(&self) -> Result<Option<Arc<NetworkList>>, NetworkError> {
        match self.kind {
            NetworkKind::BuiltIn => Ok(None),
            NetworkKind::CniOrBuiltIn => self.cni.current(),
            NetworkKind::Cni => {
                let missing = || NetworkError::NoCniConfig { dir: self.cni_conf_dir.clone() };
                self.cni.current()?.ok_or_else(missing).map(Some)
            }
        }
    }

    fn knows(&self, pod: &PodId) -> bool {
        self.builtin.attachment(pod).is_some() || self.cni.knows(pod)
    }

    async fn detach(self: &Arc<Self>, pod: PodId) -> Result<(), NetworkError> {
        self.cni.detach(&pod).await?;
        if self.builtin.attachment(&pod).is_some() {
            let (inner, gone) = (Arc::clone(self), pod.clone());
            let left = spawn_blocking(move || inner.builtin.detach(&gone)).await;
            left.unwrap_or(Err(NetworkError::Interrupted("detach")))?;
            let inner = Arc::clone(self);
            // In the background: the pod is off the network already.
            spawn_blocking(move || inner.builtin.reap_all());
        }
        self.ports.release(&pod);
        Ok(())
    }
}
