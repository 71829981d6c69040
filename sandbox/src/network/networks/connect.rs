//! Joins a running pod to another network, and removes it from one.

use std::sync::Arc;

use crisp_executor::ids::PodId;
use crisp_operation::of_this_operation;
use tokio::task::spawn_blocking;

use super::attach::BuiltinWork;
use super::detach::leave;
use super::{Inner, ManageError, Networks};
use crate::network::builtin::Builtin;
use crate::network::selection::{Selection, check};
use crate::network::{AttachRequest, Attachment, INTERFACE, NetworkError};

/// A running pod's request for another network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// A built-in network.
    pub network: String,
    /// Interface name in the pod; empty for the first free one of net1, net2 and so on.
    pub interface: String,
    /// Requested addresses, at most one of each family.
    pub ips: Vec<String>,
    /// Hardware address of the interface.
    pub mac: Option<String>,
    /// Names under which others on the network find the pod.
    pub aliases: Vec<String>,
}

impl Networks {
    /// Joins a pod to another network, without ports and bandwidth limits.
    ///
    /// # Errors
    /// The request is not valid, or a step failed; then everything is undone.
    pub async fn connect(
        &self,
        request: AttachRequest,
        connection: Connection,
    ) -> Result<Attachment, ManageError> {
        let inner = Arc::clone(&self.0);
        // A separate task: a caller that leaves must not cause half an attachment.
        let task = tokio::spawn(of_this_operation(async move {
            let _lock = inner.locks.lock(request.pod.clone(), "connect").await;
            inner.connect(request, connection).await
        }));
        task.await.unwrap_or_else(|_| Err(NetworkError::Interrupted("connect").into()))
    }

    /// Removes a pod from a network other than its first.
    ///
    /// # Errors
    /// The pod is not in the network, or something could not be removed.
    pub async fn disconnect(&self, pod: &PodId, network: &str) -> Result<(), ManageError> {
        let (inner, pod, network) = (Arc::clone(&self.0), pod.clone(), network.to_owned());
        let task = tokio::spawn(of_this_operation(async move {
            let _lock = inner.locks.lock(pod.clone(), "disconnect").await;
            inner.disconnect(&pod, &network).await
        }));
        task.await.unwrap_or_else(|_| Err(NetworkError::Interrupted("disconnect").into()))
    }
}

impl Inner {
    async fn connect(
        &self,
        request: AttachRequest,
        connection: Connection,
    ) -> Result<Attachment, ManageError> {
        let pod = request.pod.clone();
        let network = self.connectable(&connection.network, &pod)?;
        let mut all = self.builtins.attachments(&pod);
        all.extend(self.cni.attachments(&pod));
        if all.is_empty() {
            return Err(not_connected(network.name(), &pod, "the pod has no network of its own"));
        }
        if network.attachment(&pod).is_some() {
            return Err(not_connected(network.name(), &pod, "the pod is in it already"));
        }
        let selection = selection(connection, &all)?;
        let joining = Arc::clone(&network);
        let attached = spawn_blocking(move || joining.attach(&request, &selection, &[])).await;
        let attached = attached.unwrap_or(Err(NetworkError::Interrupted("connect")))?;
        self.dns.ensure(&network).await;
        Ok(attached)
    }

    async fn disconnect(&self, pod: &PodId, name: &str) -> Result<(), ManageError> {
        let network = self.connectable(name, pod)?;
        match network.attachment(pod) {
            None => Err(not_connected(name, pod, "the pod is not in it")),
            Some(on) if on.interface == INTERFACE => {
                Err(not_connected(name, pod, "it is the pod's first network, which the pod keeps"))
            }
            Some(_) => Ok(leave(network, pod, BuiltinWork::OnOwnThread).await?),
        }
    }

    /// Only built-in networks: plugins are called only when a pod is made and when it ends.
    fn connectable(&self, name: &str, pod: &PodId) -> Result<Arc<Builtin>, ManageError> {
        if let Some(network) = self.builtins.get(name) {
            return Ok(network);
        }
        match self.cni.named(name)? {
            Some(_) => {
                let why = "pods join a CNI network when they are made, by the annotation crisp/networks";
                Err(not_connected(name, pod, why))
            }
            None => Err(ManageError::Unknown(name.to_owned())),
        }
    }
}

fn not_connected(network: &str, pod: &PodId, why: &'static str) -> ManageError {
    ManageError::NotConnected { network: network.to_owned(), pod: pod.short().to_owned(), why }
}

/// A selection with an interface that the pod does not have yet.
fn selection(connection: Connection, all: &[Attachment]) -> Result<Selection, ManageError> {
    let Connection { network, mut interface, ips, mac, aliases } = connection;
    let is_taken = |name: &String| all.iter().any(|on| on.interface == *name);
    if interface.is_empty() {
        interface =
            (1..).map(|number| format!("net{number}")).find(|name| !is_taken(name)).unwrap_or_default();
    }
    let invalid = |field, why| ManageError::Invalid { field, why };
    if is_taken(&interface) {
        return Err(invalid("interface", format!("the pod has {interface} already")));
    }
    let selection = Selection { ips, mac, aliases, ..Selection::named(&network, &interface) };
    check(&selection).map_err(|why| invalid("connection", why))?;
    Ok(selection)
}
