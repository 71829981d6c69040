//! Joins a running pod to another network.

use std::time::Duration;

use crisp_operation::Cancel;

use super::pod_run::attach_request;
use crate::link::LinkError;
use crate::namespace::NetworkMode;
use crate::network::{Attachment, Connection, ManageError};
use crate::pod::{NotReady, Pod};
use crate::service_state::ServiceState;

/// Time limit for the monitor.
const ANSWER: Duration = Duration::from_secs(10);

/// The reason why a pod does not join.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    NotReady(#[from] NotReady),
    #[error(transparent)]
    Monitor(#[from] LinkError),
    #[error(transparent)]
    Network(#[from] ManageError),
}

/// See [`Pods::connect`](crate::Pods::connect).
pub(crate) async fn connect(
    service: &ServiceState,
    pod: &Pod,
    connection: Connection,
) -> Result<Attachment, ConnectError> {
    let link = pod.ready_link()?;
    if pod.config.network != NetworkMode::Pod {
        let (network, pod) = (connection.network, pod.id.short().to_owned());
        return Err(
            ManageError::NotConnected { network, pod, why: "the pod has no network of its own" }.into()
        );
    }
    let network = link.within(ANSWER).network().await?;
    let request = attach_request(pod, network, Cancel::new());
    Ok(service.networks.connect(request, connection).await?)
}
