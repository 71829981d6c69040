//! Restarts of pods, of Crisp and of a node, and the end.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use super::{Cluster, MINUTE, traffic, up};
use crate::Result;
use crate::nodes::leftovers;
use crate::nodes::objects::{self, Pod};
use crate::nodes::report::until;

/// All pods of a Deployment are replaced, and the old ones leave nothing.
pub(super) fn rolling_restart(cluster: &mut Cluster) -> Result<()> {
    let names = |cluster: &Cluster| -> Result<BTreeSet<String>> {
        Ok(objects::pods(&cluster.kubectl, Some("app=web"))?.into_iter().map(|pod| pod.name).collect())
    };
    let before = names(cluster)?;
    cluster.kubectl.run(&["rollout", "restart", "deployment/web"])?;
    up::rollout(cluster, "default", "deployment/web")?;
    until("the old pods are gone", MINUTE, || {
        let after = names(cluster)?;
        let is_new = after.is_disjoint(&before) && after.len() == 2;
        if is_new { Ok(()) } else { Err(format!("{before:?}, {after:?}").into()) }
    })?;
    cluster.report.line("a rolling restart replaces both pods");
    traffic::all(cluster)?;
    cluster.report.line("the new ones are reached as the old ones were");
    cluster.no_leaks()?;
    cluster.report.line("nothing is left of the old ones");
    Ok(())
}

/// Crisp ends without warning, then as for an upgrade; pods do not notice.
pub(super) fn crisp_restarts(cluster: &mut Cluster) -> Result<()> {
    for (signal, text) in [(Signal::KILL, "SIGKILL to"), (Signal::TERM, "SIGTERM, as for an upgrade, to")] {
        let (processes, pods) = (cluster.nodes[0].pod_processes()?, cluster.settled()?);
        cluster.nodes[0].end_crisp(signal)?;
        // Pods answer while there is no server.
        let web = cluster.pod_on("node1", "app=web")?;
        let line = format!("wget -q -O - http://{}:8080/", web.ip);
        let other = cluster.pod_on("node2", "app=web")?;
        cluster.kubectl.run(&["exec", &other.name, "--", "sh", "-c", &line])?;
        cluster.nodes[0].start_crisp()?;
        until("exec works again", MINUTE, || traffic::expect(&cluster.sh("echo here")?, "here\n"))?;
        // Several relists of the kubelet, which must not find anything to restart.
        std::thread::sleep(Duration::from_secs(5));
        let lost: Vec<_> = processes.difference(&cluster.nodes[0].pod_processes()?).cloned().collect();
        if !lost.is_empty() || processes.is_empty() {
            return Err(format!("of {} processes are gone: {lost:?}", processes.len()).into());
        }
        unchanged(&pods, &cluster.settled()?)?;
        traffic::all(cluster)?;
        cluster.no_leaks()?;
        let count = processes.len();
        cluster.report.line(&format!(
            "{text} Crisp of node1: {count} processes of pods run on, same addresses; exec works again"
        ));
    }
    Ok(())
}

fn unchanged(before: &[Pod], after: &[Pod]) -> Result<()> {
    let facts = |pods: &[Pod]| -> BTreeSet<String> {
        let fact = |pod: &Pod| format!("{} {} {} {:?}", pod.name, pod.ip, pod.restarts, pod.containers);
        pods.iter().map(fact).collect()
    };
    let (before, after) = (facts(before), facts(after));
    if before == after { Ok(()) } else { Err(format!("before: {before:#?}\nafter: {after:#?}").into()) }
}

/// A node loses all its processes and namespaces, and comes back with its disk.
pub(super) fn node_reboots(cluster: &mut Cluster) -> Result<()> {
    let before = cluster.settled()?;
    cluster.nodes[1].reboot()?;
    cluster.report.line("node2 lost power: its processes and namespaces are gone; it starts again");
    until("node2's pods run again", 2 * MINUTE, || {
        let after = objects::pods(&cluster.kubectl, None)?;
        for pod in before.iter().filter(|pod| pod.node == "node2") {
            let now = after.iter().find(|now| (&now.namespace, &now.name) == (&pod.namespace, &pod.name));
            let now = now.ok_or_else(|| format!("{} is gone", pod.name))?;
            if !now.ready || now.restarts <= pod.restarts || now.containers == pod.containers {
                return Err(format!("{now:?}").into());
            }
        }
        let (status, message) = objects::condition(&cluster.kubectl, "node2", "Ready")?;
        if status == "True" { Ok(()) } else { Err(message.into()) }
    })?;
    cluster.report.line("node2 is Ready, all its pods run again");
    let (on_one, node1) = (
        |pods: &[Pod]| pods.iter().filter(|p| p.node == "node1").cloned().collect::<Vec<_>>(),
        cluster.settled()?,
    );
    unchanged(&on_one(&before), &on_one(&node1))?;
    traffic::all(cluster)?;
    cluster.no_leaks()?;
    cluster.report.line(
        "pods are reached as before; no address, interface, namespace or cgroup is left of the old ones",
    );
    Ok(())
}

/// The workload goes, then DNS and network, then the nodes.
pub(super) fn everything_goes(cluster: &mut Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run(&["delete", "--timeout=50s", "deployment/web", "service/web", "pod/client"])?;
    until("the web pods are gone", MINUTE, || gone(&objects::pods(kubectl, Some("app=web"))?))?;
    cluster.no_leaks()?;
    cluster.report.line("the workload is deleted, and nothing is left of it");
    let kubectl = &cluster.kubectl;
    kubectl.run(&["-n", "kube-system", "delete", "--timeout=50s", "deployment/coredns"])?;
    until("CoreDNS is gone", MINUTE, || gone(&objects::pods(kubectl, Some("app=coredns"))?))?;
    kubectl.run(&[
        "-n",
        "kube-system",
        "delete",
        "--timeout=50s",
        "daemonset/flannel",
        "daemonset/kube-proxy",
    ])?;
    until("all pods are gone", MINUTE, || gone(&objects::pods(kubectl, None)?))?;
    cluster.no_leaks()?;
    cluster.report.line("network and DNS are deleted");
    cluster.nodes.iter().try_for_each(leftovers::check_files)?;
    for node in &mut cluster.nodes {
        node.stop_programs()?;
        let left = node.processes()?;
        if !left.is_empty() {
            return Err(format!("{} still has {left:?}", node.name).into());
        }
        node.power_off()?;
    }
    cluster
        .report
        .line("no pod has files left; with kubelet and Crisp the nodes' last processes and namespaces end");
    Ok(())
}

fn gone(pods: &[Pod]) -> Result<()> {
    if pods.is_empty() { Ok(()) } else { Err(format!("{pods:?}").into()) }
}
