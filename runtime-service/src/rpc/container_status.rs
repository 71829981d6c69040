//! ContainerStatus, from memory; `verbose` also builds the spec.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerStatusRequest, ContainerStatusResponse};
use serde_json::json;

use super::{Reply, ServiceState};
use crate::container::Container;
use crate::convert::response;
use crate::ops::container_spec;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: ContainerStatusRequest,
) -> Reply<ContainerStatusResponse> {
    let container = service.container(&request.container_id)?;
    let info = if request.verbose { info(service, &container).await } else { BTreeMap::new() };
    Ok(ContainerStatusResponse {
        status: Some(response::container_status(&container, &container.status())),
        info,
    })
}

/// The details that crictl inspect shows, under the names that its users expect.
async fn info(service: &Arc<ServiceState>, container: &Arc<Container>) -> BTreeMap<String, String> {
    let (owned, of) = (service.clone(), container.clone());
    let spec = tokio::task::spawn_blocking(move || {
        let pod = owned.pod_of(&of)?;
        let spec = container_spec::build(&owned, &of.metadata, &of.status().resources, &pod).ok()?;
        serde_json::to_value(spec).ok()
    });
    // Null when the pod, or a container whose PID namespace it joins, is gone.
    let spec = spec.await.ok().flatten();
    let info = json!({
        "sandboxID": container.metadata.pod,
        "pid": container.status().state.pid().unwrap_or_default(),
        "bundle": container.folder.bundle(),
        "upper": container.folder.upper(),
        "layers": container.metadata.image.diff_ids,
        "config": container.metadata.config,
        "runtimeSpec": spec,
    });
    [("info".to_owned(), info.to_string())].into()
}
