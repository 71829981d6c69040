//! The pod sandbox.

use std::fmt::Write as _;
use std::path::Path;

use crisp_proto::runtime::v1::{
    DnsConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig, PodSandboxMetadata,
    PortMapping, Protocol as WireProtocol, SecurityProfile, security_profile::ProfileType,
};

use super::super::manifest::{Container, Dns, DnsPolicy, Map, Pod, Port, Protocol};
use super::security::{groups, groups_policy, namespaces};
use super::{host_dns, security};

/// Values that are not in the manifest.
pub struct PodIdentity<'a> {
    pub uid: &'a str,
    /// The number of earlier starts.
    pub attempt: u32,
    pub log_directory: &'a Path,
}

/// The request for the pod itself.
pub fn pod_config(pod: &Pod, identity: &PodIdentity<'_>) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name.clone(),
            uid: identity.uid.to_owned(),
            namespace: pod.namespace.clone(),
            attempt: identity.attempt,
        }),
        hostname: hostname(pod),
        log_directory: identity.log_directory.display().to_string(),
        dns_config: Some(dns(pod)),
        port_mappings: ports(pod),
        labels: labels(pod, identity.uid),
        annotations: pod.annotations.clone(),
        linux: Some(LinuxPodSandboxConfig {
            // Empty: the runtime chooses the parent cgroup for pods without a kubelet.
            cgroup_parent: String::new(),
            security_context: Some(sandbox_security(pod)),
            sysctls: pod.security.sysctls.clone(),
            overhead: None,
            resources: None,
        }),
        windows: None,
    }
}

/// On the host's network the pod has the host's name: an empty text requests that.
fn hostname(pod: &Pod) -> String {
    if pod.host_network {
        return String::new();
    }
    let name = pod.hostname.as_ref().unwrap_or(&pod.name);
    // A Pod's name may be longer than a host name.
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Without settings the runtime uses the resolver of the network, which knows the names of pods.
fn dns(pod: &Pod) -> DnsConfig {
    let mut dns = match pod.dns_policy {
        DnsPolicy::Cluster if pod.dns == Dns::default() => return DnsConfig::default(),
        DnsPolicy::Cluster | DnsPolicy::Host => host_dns(pod.host_network),
        DnsPolicy::None => DnsConfig::default(),
    };
    let add = |list: &mut Vec<String>, more: &[String]| {
        for item in more {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    };
    // Without servers of its own the pod gets those of its network, which know the names of pods.
    if pod.dns_policy == DnsPolicy::Cluster && pod.dns.servers.is_empty() && !pod.host_network {
        dns.servers.clear();
    }
    add(&mut dns.servers, &pod.dns.servers);
    add(&mut dns.searches, &pod.dns.searches);
    add(&mut dns.options, &pod.dns.options);
    dns
}

fn ports(pod: &Pod) -> Vec<PortMapping> {
    if pod.host_network {
        return Vec::new();
    }
    let all = pod.containers.iter().flat_map(|c: &Container| &c.ports);
    all.filter_map(|port: &Port| {
        Some(PortMapping {
            protocol: match port.protocol {
                Protocol::Tcp => WireProtocol::Tcp,
                Protocol::Udp => WireProtocol::Udp,
                Protocol::Sctp => WireProtocol::Sctp,
            }
            .into(),
            container_port: port.container.into(),
            host_port: port.host?.into(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
    })
    .collect()
}

/// Labels by which tools find pods as with kubelet.
fn labels(pod: &Pod, uid: &str) -> Map {
    let mut labels = pod.labels.clone();
    labels.insert("io.kubernetes.pod.name".to_owned(), pod.name.clone());
    labels.insert("io.kubernetes.pod.namespace".to_owned(), pod.namespace.clone());
    labels.insert("io.kubernetes.pod.uid".to_owned(), uid.to_owned());
    labels
}

fn sandbox_security(pod: &Pod) -> LinuxSandboxSecurityContext {
    let security = &pod.security;
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: security.selinux.as_ref().map(security::selinux),
        run_as_user: security.run_as_user.map(security::number),
        run_as_group: security.run_as_group.map(security::number),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod).into(),
        privileged: pod.init_containers.iter().chain(&pod.containers).any(|c| c.security.privileged),
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            localhost_ref: String::new(),
        }),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// The hosts file of a pod with `hostAliases`: they follow the runtime's own lines.
pub fn hosts_file(pod: &Pod, own: &str) -> String {
    let mut text = own.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for alias in &pod.host_aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.names.join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::manifest::parse;
    use super::*;

    fn pod(spec: &str) -> Pod {
        let spec = format!(
            "containers: [{{name: a, image: b, ports: [{{containerPort: 80, hostPort: 80}}, {{containerPort: 81}}]}}]\n{spec}"
        );
        let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
        parse("p", &format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n{spec}"))
            .unwrap()
            .pods
            .remove(0)
            .pod
    }

    fn config(spec: &str) -> PodSandboxConfig {
        pod_config(&pod(spec), &PodIdentity { uid: "u", attempt: 0, log_directory: Path::new("/logs") })
    }

    #[test]
    fn only_published_ports_are_mapped_and_none_on_the_hosts_network() {
        let mapped = config("").port_mappings;
        assert_eq!(mapped.iter().map(|p| (p.host_port, p.container_port)).collect::<Vec<_>>(), [(80, 80)]);
        let host = config("hostNetwork: true");
        assert!(host.port_mappings.is_empty() && host.hostname.is_empty());
    }

    #[test]
    fn namespaces_follow_the_flags() {
        use crisp_proto::runtime::v1::NamespaceMode::{Container, Node, Pod};
        for (spec, network, pid, ipc) in [
            ("", Pod, Container, Pod),
            ("hostNetwork: true\nhostPID: true\nhostIPC: true", Node, Node, Node),
            ("shareProcessNamespace: true", Pod, Pod, Pod),
        ] {
            let found = namespaces(&pod(spec));
            assert_eq!((found.network(), found.pid(), found.ipc()), (network, pid, ipc), "{spec}");
        }
    }

    #[test]
    fn dns_of_policy_none_is_only_the_manifests() {
        let config = config(
            "dnsPolicy: None\ndnsConfig: {nameservers: [10.9.9.9], options: [{name: ndots, value: '1'}]}",
        );
        let dns = config.dns_config.unwrap();
        assert_eq!(
            (dns.servers, dns.searches, dns.options),
            (vec!["10.9.9.9".into()], vec![], vec!["ndots:1".into()])
        );
    }

    #[test]
    fn options_alone_leave_the_servers_to_the_network() {
        let dns = |spec| config(spec).dns_config.unwrap();
        let options = "dnsConfig: {options: [{name: no-such-option}]}";
        let of_network = dns(options);
        assert_eq!(of_network.servers, Vec::<String>::new());
        assert_eq!(of_network.options.last().unwrap(), "no-such-option");
        let more = dns("dnsConfig: {nameservers: [192.0.2.9], options: [{name: no-such-option}]}");
        assert_eq!(more.servers, [host_dns(false).servers, vec!["192.0.2.9".to_owned()]].concat());
        let on_host = dns(&format!("hostNetwork: true\n{options}"));
        assert_eq!(on_host.servers, host_dns(true).servers);
    }

    #[test]
    fn aliases_are_in_the_hosts_file() {
        let pod = pod("hostAliases: [{ip: 10.0.0.1, hostnames: [db, db.local]}]");
        let text = hosts_file(&pod, "127.0.0.1\tlocalhost\n10.88.0.2\tp");
        assert_eq!(text, "127.0.0.1\tlocalhost\n10.88.0.2\tp\n10.0.0.1\tdb\tdb.local\n");
    }
}
