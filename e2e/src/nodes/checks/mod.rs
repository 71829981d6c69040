//! The tests of the cluster, in their order. This process is the hub.

mod lifecycle;
mod traffic;
mod up;

use std::path::Path;
use std::time::Duration;

use super::control_plane::ControlPlane;
use super::leftovers;
use super::node::Node;
use super::objects::{self, Pod};
use super::report::{Report, until};
use crate::Result;
use crate::kubernetes::Kubectl;

const MINUTE: Duration = Duration::from_secs(60);

/// The pods that the checks use; their image is busybox.
const WEB: &str = include_str!("../../../cluster/web.yaml");

/// Dropped in this order: nodes that have lost their API server take longer to end.
struct Cluster {
    nodes: Vec<Node>,
    kubectl: Kubectl,
    report: Report,
    _control_plane: ControlPlane,
}

/// Makes the cluster with its files in this folder, tests it, and removes it.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn run(folder: &Path) -> Result<()> {
    let mut cluster = up::start(folder)?;
    up::pods_wait_for_a_network(&mut cluster)?;
    up::network_comes(&mut cluster)?;
    up::dns_and_workload_come(&mut cluster)?;
    traffic::between_nodes(&mut cluster)?;
    traffic::streams(&mut cluster)?;
    lifecycle::rolling_restart(&mut cluster)?;
    lifecycle::crisp_restarts(&mut cluster)?;
    lifecycle::node_reboots(&mut cluster)?;
    lifecycle::everything_goes(&mut cluster)
}

impl Cluster {
    /// The ready pod of this label on a node.
    fn pod_on(&self, node: &str, label: &str) -> Result<Pod> {
        let pods = objects::pods(&self.kubectl, Some(label))?;
        let found = pods.into_iter().find(|pod| pod.node == node && pod.ready);
        found.ok_or_else(|| format!("no ready pod {label} on {node}").into())
    }

    /// Runs a shell line in the client, a pod on node1.
    fn sh(&self, line: &str) -> Result<String> {
        self.kubectl.run(&["exec", "client", "--", "sh", "-c", line])
    }

    /// Waits until all pods are ready, and returns them.
    fn settled(&self) -> Result<Vec<Pod>> {
        until("all pods are ready", 2 * MINUTE, || {
            let pods = objects::pods(&self.kubectl, None)?;
            let waiting: Vec<_> = pods.iter().filter(|pod| !pod.ready).collect();
            if waiting.is_empty() { Ok(pods) } else { Err(format!("{waiting:?}").into()) }
        })
    }

    /// Checks that no node has more than its pods need.
    fn no_leaks(&self) -> Result<()> {
        let pods = self.settled()?;
        self.nodes.iter().try_for_each(|node| leftovers::check(node, &pods))
    }
}
