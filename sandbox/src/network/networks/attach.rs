use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::{Inner, Networks};
use crate::network::host_ports::{published, refused};
use crate::network::{AttachRequest, Attachment, NetworkError, PortMapping};

impl Networks {
    /// Gives the pod its networks; returns what it got of the first. A failure leaves nothing behind, or names
    /// what it left.
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

    /// A deadline for [`Self::attach`] of a pod with these annotations: above the sum of those of the plugins
    /// that it calls.
    #[must_use]
    pub fn time_of_attach(&self, annotations: &BTreeMap<String, String>) -> Duration {
        self.0.time_of_attach(annotations)
    }
}

impl Inner {
    async fn attach(self: &Arc<Self>, request: AttachRequest) -> Result<Attachment, NetworkError> {
        let pod = request.pod.clone();
        if self.knows(&pod) {
            return Err(NetworkError::AlreadyAttached { pod });
        }
        let ports = published(&request.port_mappings).map_err(|(port, why)| refused(port, why))?;
        self.ports.reserve(&pod, &format!("{}/{}", request.namespace, request.name), &ports)?;
        let attached = self.attach_to_all(request, ports).await;
        // What could not be undone keeps its ports: they may still lead to the pod.
        if attached.is_err() && !self.knows(&pod) {
            self.ports.release(&pod);
        }
        attached
    }

    async fn attach_to_all(
        self: &Arc<Self>,
        request: AttachRequest,
        ports: Vec<PortMapping>,
    ) -> Result<Attachment, NetworkError> {
        let plan = self.plan(&request.annotations)?;
        let mut attachments = Vec::new();
        if plan.built_in {
            let (inner, request, ports) = (Arc::clone(self), request.clone(), ports.clone());
            let attached = spawn_blocking(move || inner.builtin.attach(&request, &ports)).await;
            attachments.push(attached.unwrap_or(Err(NetworkError::Interrupted("attach")))?);
        }
        if !plan.cni.is_empty() {
            match self.cni.attach(&plan.cni, &request, &ports).await {
                Ok(attached) => attachments.extend(attached),
                Err(error) => return Err(self.take_back(&request, error).await),
            }
        }
        attachments.into_iter().next().ok_or(NetworkError::Interrupted("attach"))
    }

    /// The networks that were joined before the one that failed.
    async fn take_back(self: &Arc<Self>, request: &AttachRequest, error: NetworkError) -> NetworkError {
        if self.builtin.attachment(&request.pod).is_none() {
            return error;
        }
        match self.detach_built_in(&request.pod).await {
            Ok(()) => error,
            Err(undo) => NetworkError::Undo { error: Box::new(error), undo: Box::new(undo) },
        }
    }
}
