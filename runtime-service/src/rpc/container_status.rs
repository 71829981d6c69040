//! ContainerStatus, from memory; `verbose` also reads the spec.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerStatusRequest, ContainerStatusResponse};
use serde_json::{Value, json};

use super::{Reply, ServiceState};
use crate::container::Container;
use crate::convert::response;

pub(super) async fn call(
    service: &ServiceState,
    request: ContainerStatusRequest,
) -> Reply<ContainerStatusResponse> {
    let container = service.container(&request.container_id)?;
    let info = if request.verbose { info(&container).await } else { BTreeMap::new() };
    Ok(ContainerStatusResponse { status: Some(response::container_status(&container)), info })
}

/// The details that crictl inspect shows, under the names that its users expect.
async fn info(container: &Arc<Container>) -> BTreeMap<String, String> {
    let owned = container.clone();
    let spec = tokio::task::spawn_blocking(move || std::fs::read(owned.folder.spec())).await;
    let spec: Value = match spec {
        Ok(Ok(text)) => serde_json::from_slice(&text).unwrap_or(Value::Null),
        Ok(Err(_)) | Err(_) => Value::Null,
    };
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
