//! A cluster of one node.

use std::time::Duration;

use super::api_server::ApiServer;
use super::kubectl::{Kubectl, Transport};
use super::kubelet::Kubelet;
use crate::programs::{API_SERVER, KUBECTL, KUBELET, Program, build};
use crate::{Machine, Result};

/// The node's name, from which the kubelet takes its address.
const NODE: &str = "127.0.0.1";

/// One node on a machine's socket. There is no scheduler: pods name their node.
pub struct Cluster {
    // Dropped before the API server: a kubelet that has lost its API server waits.
    kubelet: Kubelet,
    api_server: ApiServer,
}

impl Cluster {
    /// The programs of a cluster, in addition to etcd.
    pub const PROGRAMS: [Program; 3] = [KUBELET, KUBECTL, API_SERVER];

    /// Starts the cluster, and waits until the node is ready.
    ///
    /// # Errors
    /// The part that does not start, with the end of its log.
    pub fn start(machine: &Machine) -> Result<Self> {
        build(&Self::PROGRAMS)?;
        let api_server = ApiServer::start(&machine.folder().join("api-server"))?;
        let kubelet = Kubelet::join(machine, NODE, &api_server.kubeconfig())?;
        let this = Self { kubelet, api_server };
        let kubectl = this.kubectl(Transport::WebSocket);
        this.kubelet.until("the node is ready", Duration::from_secs(60), |_| {
            kubectl.run(&["wait", "--for=condition=Ready", "--timeout=1s", "node", NODE]).is_ok()
        })?;
        Ok(this)
    }

    /// Returns kubectl with this transport for streams.
    #[must_use]
    pub fn kubectl(&self, transport: Transport) -> Kubectl {
        Kubectl::new(self.api_server.kubeconfig(), transport)
    }

    /// Creates the objects of a manifest, and waits until the pod is ready. Pods get the node's name.
    ///
    /// # Errors
    /// When they are refused, or the pod is not ready within a minute.
    pub fn run(&self, pod: &str, manifest: &str) -> Result<()> {
        let kubectl = self.kubectl(Transport::WebSocket);
        let manifest = manifest.replacen("spec:\n", &format!("spec:\n  nodeName: {NODE}\n"), 1);
        kubectl.run_with(&["create", "-f", "-"], manifest.as_bytes())?;
        self.kubelet.until(&format!("the pod {pod} is ready"), Duration::from_secs(60), |_| {
            kubectl.run(&["wait", "--for=condition=Ready", "--timeout=1s", "pod", pod]).is_ok()
        })
    }
}
