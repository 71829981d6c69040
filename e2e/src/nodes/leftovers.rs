//! Compares what a node has with the pods that it has it for: anything more was left behind.

use std::path::Path;
use std::time::Duration;

use super::node::Node;
use super::objects::Pod;
use super::report::until;
use crate::Result;

/// Waits until a node has exactly what these pods, which are ready, need.
pub(super) fn check(node: &Node, pods: &[Pod]) -> Result<()> {
    let here = || pods.iter().filter(|pod| pod.node == node.name);
    let with_network = here().filter(|pod| !pod.host_network).count();
    let expected = Had {
        interfaces: with_network,
        namespaces: with_network,
        addresses: with_network,
        host_ports: here().filter(|pod| pod.host_port).count(),
        pod_cgroups: here().count(),
        container_cgroups: here().flat_map(|pod| &pod.containers).count(),
    };
    until(&format!("{} has nothing but its pods", node.name), Duration::from_secs(40), || {
        let (had, orphans, strays) = (Had::of(node, here())?, node.orphans()?, node.stray_cgroups()?);
        if had == expected && orphans.is_empty() && strays.is_empty() {
            return Ok(());
        }
        Err(format!("it has {had:?}, its pods {expected:?}; {orphans:?} {strays:?}").into())
    })
}

/// Waits until a node without pods has no files of pods either. The kubelet removes them each minute.
pub(super) fn check_files(node: &Node) -> Result<()> {
    let folders = ["/run/crisp/pods", "/var/lib/crisp/pods", "/var/lib/crisp/containers"];
    until(&format!("{} has no files of pods", node.name), Duration::from_secs(90), || {
        let left = folders.map(|folder| (folder, entries(&node.file(folder), |_| true)));
        if left.iter().all(|(_, count)| *count == 0) { Ok(()) } else { Err(format!("{left:?}").into()) }
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Had {
    interfaces: usize,
    /// Mounted below /run/netns.
    namespaces: usize,
    /// Taken from the node's network, as host-local wrote.
    addresses: usize,
    /// Chains of the plugin portmap.
    host_ports: usize,
    pod_cgroups: usize,
    /// Of the pods' containers that run.
    container_cgroups: usize,
}

impl Had {
    fn of<'a>(node: &Node, pods: impl Iterator<Item = &'a Pod>) -> Result<Self> {
        let interfaces = node.run(&["ip", "-o", "link", "show", "type", "veth"])?;
        let rules = node.run(&["nft", "list", "ruleset"])?;
        let cgroups = node.pod_cgroups()?;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ids: Vec<&String> = pods.flat_map(|pod| &pod.containers).collect();
        Ok(Self {
            // eth0 is the node's own.
            interfaces: interfaces.lines().count().saturating_sub(1),
            namespaces: entries(&node.file("/run/netns"), |_| true),
            addresses: entries(&node.disk().join("var/lib/cni/networks/cbr0"), |name| {
                name.parse::<std::net::Ipv4Addr>().is_ok()
            }),
            host_ports: rules.lines().filter(|line| line.contains("chain CNI-DN-")).count(),
            pod_cgroups: cgroups.iter().filter(|path| name(path).starts_with("pod")).count(),
            container_cgroups: cgroups
                .iter()
                .filter(|path| ids.iter().any(|id| !id.is_empty() && name(path).contains(id.as_str())))
                .count(),
        })
    }
}

fn entries(folder: &Path, is_counted: impl Fn(&str) -> bool) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| is_counted(&entry.file_name().to_string_lossy())).count()
}
