//! Connections between pods, from outside, and through kubectl.

use std::time::Duration;

use super::{Cluster, MINUTE};
use crate::nodes::report::until;
use crate::{Result, http};

/// Pod to pod, to a service by name, and from outside by ports of the nodes.
pub(super) fn between_nodes(cluster: &mut Cluster) -> Result<()> {
    by_address(cluster)?;
    cluster.report.line("a pod on node1 reaches the pod on node2 by its address");
    by_name(cluster)?;
    cluster.report.line("and both pods by the service's name, through CoreDNS and kube-proxy");
    by_ports(cluster)?;
    cluster.report.line("host port and node port lead to pods from outside, on both nodes");
    Ok(())
}

pub(super) fn by_address(cluster: &Cluster) -> Result<()> {
    let remote = cluster.pod_on("node2", "app=web")?;
    let page = until("the pod on node2 answers", Duration::from_secs(20), || {
        cluster.sh(&format!("wget -q -O - http://{}:8080/", remote.ip))
    })?;
    expect(&page, &format!("{} on node2\n", remote.name))
}

/// kube-proxy takes one of the pods at random for each connection: 30 times the same one of two is a chance of
/// one to 500 million.
pub(super) fn by_name(cluster: &Cluster) -> Result<()> {
    until("the service's name is known", Duration::from_secs(20), || cluster.sh("wget -q -O - http://web/"))?;
    let line = "for i in $(seq 30); do wget -q -O - http://web.default.svc.cluster.local/ || exit 1; done";
    let pages = cluster.sh(line)?;
    for node in ["node1", "node2"] {
        let page = format!("{} on {node}\n", cluster.pod_on(node, "app=web")?.name);
        if !pages.contains(&page) {
            return Err(format!("no answer from {node}: {pages}").into());
        }
    }
    Ok(())
}

pub(super) fn by_ports(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let web = cluster.pod_on(&node.name, "app=web")?;
        let page = until("the host port answers", Duration::from_secs(20), || get(&node.address, 8088))?;
        expect(&page, &format!("{} on {}\n", web.name, node.name))?;
        let page = until("the node port answers", Duration::from_secs(20), || get(&node.address, 30080))?;
        if !page.starts_with("web-") {
            return Err(format!("the node port of {} answers {page:?}", node.name).into());
        }
    }
    Ok(())
}

/// exec, logs and port-forward, to the node behind the API server.
pub(super) fn streams(cluster: &mut Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    let web = cluster.pod_on("node2", "app=web")?;
    let count = kubectl.run_with(&["exec", "-i", &web.name, "--", "wc", "-c"], &[b'x'; 1_000_000])?;
    expect(count.trim(), "1000000")?;
    let (code, ..) = kubectl.outcome(&["exec", &web.name, "--", "sh", "-c", "exit 7"], b"")?;
    expect(&format!("{code:?}"), "Some(7)")?;
    expect(&kubectl.run(&["logs", &web.name])?, &format!("serving as {}\n", web.name))?;
    let mut forward = kubectl.start(&["port-forward", &format!("pod/{}", web.name), ":8080"])?;
    let text = forward.until("Forwarding from 127.0.0.1:")?.to_owned();
    let port = text.split("Forwarding from 127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let port: u16 = port.ok_or("no port")?.parse()?;
    expect(&get("127.0.0.1", port)?, &format!("{} on node2\n", web.name))?;
    drop(forward);
    cluster.report.line("kubectl exec, logs and port-forward reach a pod on node2");
    Ok(())
}

/// A page from the hub, which is outside of the cluster's network.
fn get(address: &str, port: u16) -> Result<String> {
    let answer = http::send(&format!("{address}:{port}"), "GET", "/", &[], &[])?;
    if answer.status != 200 {
        return Err(format!("{address}:{port} answers {}", answer.status).into());
    }
    Ok(String::from_utf8(answer.body)?)
}

pub(super) fn expect(seen: &str, expected: &str) -> Result<()> {
    if seen == expected { Ok(()) } else { Err(format!("{seen:?} instead of {expected:?}").into()) }
}

/// Waits until everything is reached as before.
pub(super) fn all(cluster: &Cluster) -> Result<()> {
    let check = || by_address(cluster).and_then(|()| by_name(cluster)).and_then(|()| by_ports(cluster));
    until("pods are reached as before", MINUTE, check)
}
