//! Rules that concern several fields of a Pod.

use std::collections::BTreeSet;

use super::metadata::is_dns_name;
use super::strict_object::Object;
use super::{Container, DnsPolicy, NETWORK_OF, Pod, VolumeSource};

/// Refuses fields that contradict each other.
pub fn check(spec: &Object<'_>, pod: &Pod) {
    if pod.containers.is_empty() {
        spec.refuse("containers", "at least one is required");
    }
    if pod.host_pid && pod.share_process_namespace {
        spec.refuse("shareProcessNamespace", "cannot be together with hostPID");
    }
    if pod.dns_policy == DnsPolicy::None && pod.dns.servers.is_empty() {
        spec.refuse("dnsConfig", "dnsPolicy None needs nameservers here");
    }
    if let Some(hostname) =
        pod.hostname.as_ref().filter(|h| h.len() > 63 || !is_dns_name(h) || h.contains('.'))
    {
        spec.refuse("hostname", format_args!("{hostname:?} is not a host name"));
    }
    let mut seen = BTreeSet::new();
    let lists = [("initContainers", &pod.init_containers), ("containers", &pod.containers)];
    let all =
        lists.into_iter().flat_map(|(list, all)| all.iter().enumerate().map(move |(i, c)| (list, i, c)));
    for (list, index, container) in all {
        let place = format!("{list}[{index}]");
        if !seen.insert(&container.name) {
            spec.refuse(&format!("{place}.name"), format_args!("{:?} is there twice", container.name));
        }
        check_mounts(spec, pod, container, &place);
        if container.ports.iter().any(|p| pod.host_network && p.host.is_some_and(|h| h != p.container)) {
            spec.refuse(&format!("{place}.ports"), "hostPort must equal containerPort on the host's network");
        }
    }
}

/// Refuses what a pod in the network of another one cannot have.
pub fn check_joined(spec: &Object<'_>, pod: &Pod) {
    if !pod.annotations.contains_key(NETWORK_OF) {
        return;
    }
    let why = format!("cannot be together with the annotation {NETWORK_OF}");
    if pod.host_network {
        spec.refuse("hostNetwork", &why);
    }
    if pod.annotations.contains_key("crisp/networks") {
        spec.refuse("", format_args!("the annotation crisp/networks {why}"));
    }
    for (index, container) in pod.containers.iter().enumerate() {
        if container.ports.iter().any(|port| port.host.is_some()) {
            spec.refuse(&format!("containers[{index}].ports"), format_args!("hostPort {why}"));
        }
    }
}

fn check_mounts(spec: &Object<'_>, pod: &Pod, container: &Container, place: &str) {
    let mut paths = BTreeSet::new();
    for (m, mount) in container.mounts.iter().enumerate() {
        let place = format!("{place}.volumeMounts[{m}]");
        match pod.volumes.iter().find(|volume| volume.name == mount.volume) {
            None => {
                spec.refuse(&format!("{place}.name"), format_args!("there is no volume {:?}", mount.volume))
            }
            Some(volume) if matches!(volume.source, VolumeSource::Image { .. }) => {
                if mount.sub_path_is_expression {
                    spec.refuse(&format!("{place}.subPathExpr"), "cannot be in an image: use subPath");
                }
            }
            Some(_) => {}
        }
        if !paths.insert(&mount.path) {
            spec.refuse(&format!("{place}.mountPath"), format_args!("{:?} is there twice", mount.path));
        }
    }
}
