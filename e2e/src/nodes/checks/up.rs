//! The cluster comes up: nodes, then their network, then DNS and pods.

use std::path::Path;
use std::time::Duration;

use super::{Cluster, MINUTE, WEB};
use crate::Result;
use crate::nodes::control_plane::{ADDRESS, API_SERVER, ControlPlane};
use crate::nodes::node::Node;
use crate::nodes::objects;
use crate::nodes::report::{Report, until};

const FLANNEL: &str = include_str!("../../../cluster/flannel.yaml");
const PROXY: &str = include_str!("../../../cluster/kube-proxy.yaml");
const COREDNS: &str = include_str!("../../../cluster/coredns.yaml");

/// Starts the control plane and two nodes.
pub(super) fn start(folder: &Path) -> Result<Cluster> {
    let mut report = Report::start();
    let control_plane = ControlPlane::start(folder)?;
    report.line("the API server answers; the registry has the images");
    let kubeconfig = control_plane.kubeconfig();
    let nodes = (1..=2).map(|number| Node::start(folder, number, kubeconfig.clone()));
    let nodes = nodes.collect::<Result<Vec<_>>>()?;
    Ok(Cluster { nodes, kubectl: control_plane.kubectl(), report, _control_plane: control_plane })
}

/// Without a CNI configuration nodes are not ready, and a pod that is bound to one does not start: not on the
/// built-in network either.
pub(super) fn pods_wait_for_a_network(cluster: &mut Cluster) -> Result<()> {
    for node in &cluster.nodes {
        until(&format!("{} waits for a network", node.name), MINUTE, || {
            let (status, message) = objects::condition(&cluster.kubectl, &node.name, "Ready")?;
            let waits = status == "False" && message.contains("NetworkReady=false");
            if waits { Ok(()) } else { Err(format!("Ready is {status}: {message}").into()) }
        })?;
    }
    cluster.report.line("both nodes have registered, with NetworkReady=false");
    until("the namespace has its service account", MINUTE, || {
        cluster.kubectl.run(&["get", "serviceaccount", "default"])
    })?;
    cluster.kubectl.run_with(&["create", "-f", "-"], WEB.as_bytes())?;
    until("the kubelet says that the client waits", MINUTE, || {
        let events = cluster.kubectl.run(&["get", "events", "-o", "jsonpath={.items[*].message}"])?;
        if events.contains("network is not ready") { Ok(()) } else { Err(events.into()) }
    })?;
    // Several syncs of the kubelet.
    std::thread::sleep(Duration::from_secs(3));
    let client = objects::pods(&cluster.kubectl, None)?.into_iter().find(|pod| pod.name == "client");
    let client = client.ok_or("the client is not there")?;
    let node = &cluster.nodes[0];
    let has_bridge = node.run(&["ip", "-o", "link"])?.contains("crisp0");
    let pods = std::fs::read_dir(node.file("/run/crisp/pods")).map_or(0, Iterator::count);
    if !client.ip.is_empty() || has_bridge || pods > 0 {
        return Err(format!("it started: {client:?}, bridge crisp0 {has_bridge}, {pods} pods").into());
    }
    cluster.report.line("a pod bound to node1 waits, and does not start on the built-in network");
    Ok(())
}

/// kube-proxy and flannel come, and with their configuration the nodes are ready.
pub(super) fn network_comes(cluster: &mut Cluster) -> Result<()> {
    for manifest in [PROXY, FLANNEL] {
        let manifest = manifest.replace("API_SERVER", API_SERVER).replace("API_HOST", ADDRESS);
        cluster.kubectl.run_with(&["create", "-f", "-"], manifest.as_bytes())?;
    }
    for node in &cluster.nodes {
        until(&format!("{} is ready", node.name), 2 * MINUTE, || {
            let (status, message) = objects::condition(&cluster.kubectl, &node.name, "Ready")?;
            if status == "True" { Ok(()) } else { Err(message.into()) }
        })
        .map_err(|error| format!("{error}\n{}", describe(cluster)))?;
    }
    cluster.report.line("both nodes are Ready: kube-proxy and flannel run as DaemonSets");
    for node in &cluster.nodes {
        let link = node.run(&["ip", "-d", "-o", "link", "show", "flannel.1"])?;
        let written = std::fs::metadata(node.disk().join("etc/cni/net.d/10-flannel.conflist"))?.modified()?;
        if !link.contains("vxlan id 1") || !link.contains(",UP") || written <= node.kubelet_start {
            return Err(format!("{}: {link}, network written at {written:?}", node.name).into());
        }
    }
    cluster.report.line("flannel.1 is a vxlan device on both; the conflist came after the kubelet's start");
    Ok(())
}

/// CoreDNS, then the workload.
pub(super) fn dns_and_workload_come(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl.run_with(&["create", "-f", "-"], COREDNS.as_bytes())?;
    rollout(cluster, "kube-system", "deployment/coredns")?;
    cluster.report.line("CoreDNS is ready");
    rollout(cluster, "default", "deployment/web")?;
    let pods = cluster.settled()?;
    for node in ["node1", "node2"] {
        let (web, subnet) = (cluster.pod_on(node, "app=web")?, subnet(cluster, node)?);
        if !web.ip.starts_with(&subnet) {
            return Err(format!("{web:?} is not in {node}'s {subnet}").into());
        }
    }
    cluster.no_leaks()?;
    cluster.report.line(&format!("a Deployment has a pod on each node, {} pods are ready", pods.len()));
    Ok(())
}

/// The first three numbers of the node's pod network.
fn subnet(cluster: &Cluster, node: &str) -> Result<String> {
    let cidr = cluster.kubectl.run(&["get", "node", node, "-o", "jsonpath={.spec.podCIDR}"])?;
    Ok(cidr.strip_suffix("0/24").ok_or_else(|| format!("{node} has the network {cidr:?}"))?.to_owned())
}

/// Waits for a rollout.
pub(super) fn rollout(cluster: &Cluster, namespace: &str, object: &str) -> Result<()> {
    until(&format!("{object} is rolled out"), 2 * MINUTE, || {
        cluster.kubectl.run(&["-n", namespace, "rollout", "status", object, "--timeout=1s"])
    })
    .map_err(|error| format!("{error}\n{}", describe(cluster)))?;
    Ok(())
}

fn describe(cluster: &Cluster) -> String {
    let listed = |words: &[&str]| cluster.kubectl.run(words).unwrap_or_else(|error| error.to_string());
    listed(&["get", "pods", "-A", "-o", "wide"]) + &listed(&["get", "events", "-A"])
}
