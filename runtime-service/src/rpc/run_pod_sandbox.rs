//! RunPodSandbox.

use crisp_proto::runtime::v1::{RunPodSandboxRequest, RunPodSandboxResponse};

use super::{Core, Reply};
use crate::convert;
use crate::events::Kind;

pub(super) async fn call(core: &Core, request: RunPodSandboxRequest) -> Reply<RunPodSandboxResponse> {
    let config = convert::pod::request(request, core.config.cgroup_driver)?;
    let id = core.pods.run(config).await?;
    core.events.tell(Kind::Created, id.as_str(), &id);
    core.events.tell(Kind::Started, id.as_str(), &id);
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}
