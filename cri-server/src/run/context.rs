//! What the containers of one pod share while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crisp_proto::runtime::v1::PodSandboxConfig;

use super::manifest::Pod;
use super::stop_request::StopRequests;
use super::volumes::Volumes;
use super::wait::Waiter;
use crate::server::Server;

/// One running pod.
pub struct Context {
    pub server: Arc<Server>,
    pub pod: Pod,
    pub uid: String,
    pub id: String,
    pub sandbox: PodSandboxConfig,
    pub images: BTreeMap<String, String>,
    pub volumes: Volumes,
    pub hosts: Option<PathBuf>,
    pub waiter: Waiter,
    pub stop: StopRequests,
}
