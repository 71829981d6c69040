use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crisp_operation::of_this_operation;
use tokio::task::spawn_blocking;

use super::plan::Plan;
use super::{Inner, Networks};
use crate::network::builtin::DnsSocket;
use crate::network::host_ports::{published, refused};
use crate::network::selection::NONE;
use crate::network::{AttachRequest, Attachment, DnsSettings, NetworkError, PortMapping, Protocol};

impl Networks {
    /// Attaches the pod to its networks; returns the attachment to the first. After a failure everything is
    /// undone, or the error names what is left.
    ///
    /// # Errors
    /// Any [`NetworkError`].
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, NetworkError> {
        let inner = Arc::clone(&self.0);
        // A separate task: a caller that leaves must not cause half an attachment.
        let task = async move {
            let _lock = inner.locks.lock(request.pod.clone(), "attach").await;
            Inner::attach(&inner, request, BuiltinWork::OnOwnThread).await
        };
        let task = tokio::spawn(of_this_operation(task));
        task.await.unwrap_or(Err(NetworkError::Interrupted("attach")))
    }

    /// As [`Self::attach`], on this thread, which must be one of blocking work of the runtime. For a pod whose
    /// networks [are built in](Self::are_built_in): nothing here waits for another thread or process.
    ///
    /// # Errors
    /// Any [`NetworkError`].
    pub(crate) fn attach_here(&self, request: AttachRequest) -> Result<Attachment, NetworkError> {
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|_| NetworkError::Interrupted("attach"))?;
        runtime.block_on(async {
            let _lock = self.0.locks.lock(request.pod.clone(), "attach").await;
            Inner::attach(&self.0, request, BuiltinWork::Here).await
        })
    }

    /// Whether all networks of a pod with these annotations are built in, so that no plugin is run.
    pub(crate) fn are_built_in(&self, annotations: &BTreeMap<String, String>) -> bool {
        self.0.plan(annotations).is_ok_and(|plan| plan.cni.is_empty())
    }

    /// Time limit for [`Self::attach`] of a pod with these annotations: larger than the sum of the limits of
    /// its plugins.
    #[must_use]
    pub fn time_of_attach(&self, annotations: &BTreeMap<String, String>) -> Duration {
        self.0.time_of_attach(annotations)
    }
}

/// Where the blocking work of built-in networks is done.
#[derive(Debug, Clone, Copy)]
pub(super) enum BuiltinWork {
    /// On the thread that polls. Nothing may wait for another thread of the pool then: at the pool's limit all of
    /// them could wait so, for ever.
    Here,
    OnOwnThread,
}

impl BuiltinWork {
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        match self {
            Self::Here => work(),
            Self::OnOwnThread => {
                spawn_blocking(work).await.unwrap_or(Err(NetworkError::Interrupted("attach")))
            }
        }
    }
}

impl Inner {
    async fn attach(
        self: &Arc<Self>,
        request: AttachRequest,
        builtin: BuiltinWork,
    ) -> Result<Attachment, NetworkError> {
        let pod = request.pod.clone();
        if self.knows(&pod) {
            return Err(NetworkError::AlreadyAttached { pod });
        }
        let ports = published(&request.port_mappings).map_err(|(port, why)| refused(port, why))?;
        if let Some(port) = ports.iter().find(|port| self.is_dns(port)) {
            return Err(refused(port, "names of pods are resolved there"));
        }
        self.reserve(&pod, &format!("{}/{}", request.namespace, request.name), &ports)?;
        let attached = self.attach_to_all(request, ports, builtin).await;
        // If something could not be undone, its ports stay reserved: they may still be forwarded to the pod.
        if attached.is_err() && !self.knows(&pod) {
            self.ports.release(&pod);
        }
        attached
    }

    /// Whether it is the DNS port on the gateway of a built-in network.
    fn is_dns(&self, port: &PortMapping) -> bool {
        let of_gateway = |ip| self.builtins.all().iter().any(|network| network.gateways().contains(&ip));
        port.host_port == DnsSocket::PORT
            && port.protocol != Protocol::Sctp
            && port.host_ip.is_some_and(of_gateway)
    }

    async fn attach_to_all(
        self: &Arc<Self>,
        request: AttachRequest,
        ports: Vec<PortMapping>,
        builtin: BuiltinWork,
    ) -> Result<Attachment, NetworkError> {
        let plan = self.plan(&request.annotations)?;
        if plan.is_none() {
            return without_network(&request, &ports);
        }
        let attached = self.join_all(&plan, &request, &ports, builtin).await;
        match attached {
            Ok(attachments) => {
                // Names of pods are resolved there from now on.
                for (network, _) in &plan.built_in {
                    match builtin {
                        BuiltinWork::Here => self.dns.ensure_here(network),
                        BuiltinWork::OnOwnThread => self.dns.ensure(network).await,
                    }
                }
                attachments.into_iter().next().ok_or(NetworkError::Interrupted("attach"))
            }
            Err(error) => Err(self.take_back(&request, error, builtin).await),
        }
    }

    /// Attaches the pod's first network before the others.
    async fn join_all(
        self: &Arc<Self>,
        plan: &Plan,
        request: &AttachRequest,
        ports: &[PortMapping],
        builtin: BuiltinWork,
    ) -> Result<Vec<Attachment>, NetworkError> {
        let mut attachments = Vec::new();
        if plan.cni_is_first {
            attachments.extend(self.cni.attach(&plan.cni, request, ports).await?);
        }
        for (network, selection) in &plan.built_in {
            let (network, selection) = (Arc::clone(network), selection.clone());
            let (request, ports) = (request.clone(), ports.to_vec());
            let attach = move || network.attach(&request, &selection, &ports);
            attachments.push(builtin.run(attach).await?);
        }
        if !plan.cni_is_first && !plan.cni.is_empty() {
            attachments.extend(self.cni.attach(&plan.cni, request, ports).await?);
        }
        Ok(attachments)
    }

    /// Detaches the networks that were joined before the one that failed.
    async fn take_back(
        self: &Arc<Self>,
        request: &AttachRequest,
        error: NetworkError,
        builtin: BuiltinWork,
    ) -> NetworkError {
        let joined = !self.builtins.of_pod(&request.pod).is_empty() || self.cni.attached(&request.pod);
        if !joined {
            return error;
        }
        match self.leave_all(&request.pod, true, builtin).await {
            Ok(_) => error,
            Err(undo) => NetworkError::Undo { error: Box::new(error), undo: Box::new(undo) },
        }
    }
}

/// Only the loopback interface, which needs no record: it ends with the pod's namespace.
fn without_network(request: &AttachRequest, ports: &[PortMapping]) -> Result<Attachment, NetworkError> {
    if let Some(port) = ports.first() {
        return Err(refused(port, "the pod has no network"));
    }
    let failed =
        |source| NetworkError::Netlink { step: format!("prepare pod {}", request.pod.short()), source };
    request.netlink.loopback_up().map_err(failed)?;
    Ok(Attachment {
        ips: Vec::new(),
        interface: "lo".to_owned(),
        mac: None,
        network: NONE.to_owned(),
        dns: DnsSettings::default(),
    })
}
