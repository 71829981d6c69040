//! The Pod itself.

use super::dns_name::is_dns_name;
use super::object::Object;
use super::{Container, Map, PodSecurity, Volume, container, security, volume};

/// A pod that can be run here.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub uid: Option<String>,
    pub labels: Map,
    pub annotations: Map,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    pub restart_policy: RestartPolicy,
    /// Seconds between the stop signal and the kill.
    pub grace: u32,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    pub hostname: Option<String>,
    pub dns_policy: DnsPolicy,
    pub dns: Dns,
    pub host_aliases: Vec<HostAlias>,
    pub security: PodSecurity,
}

/// What happens when a container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Where the pod's resolver settings are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The host's. Policies that want the cluster's are the same here, since there is no cluster.
    Host,
    /// Only what `dnsConfig` says.
    None,
}

/// Additions to the resolver settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A line of the hosts file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    pub ip: String,
    pub names: Vec<String>,
}

/// Reads the whole manifest.
pub fn pod(root: &Object<'_>) -> Option<Pod> {
    for (name, wanted) in [("apiVersion", "v1"), ("kind", "Pod")] {
        if let Some(found) = root.required(name).filter(|found| found != wanted) {
            root.refuse(name, format_args!("{found:?}: crisp run knows only {wanted}"));
        }
    }
    let metadata = root.object("metadata");
    if metadata.is_none() {
        root.refuse("metadata", "is required");
    }
    let spec = root.object("spec");
    if spec.is_none() {
        root.refuse("spec", "is required");
    }
    root.finish();
    let (metadata, spec) = (metadata?, spec?);
    let name = metadata.required("name");
    if let Some(name) = name.as_ref().filter(|name| !is_dns_name(name)) {
        metadata
            .refuse("name", format_args!("{name:?} is not a name: lower-case letters, digits, '-' and '.'"));
    }
    let mut pod = read_spec(&spec);
    pod.name = name?;
    pod.namespace = object_name(&metadata, "namespace").unwrap_or_else(|| "default".to_owned());
    pod.uid = object_name(&metadata, "uid");
    pod.labels = metadata.string_map("labels");
    pod.annotations = metadata.string_map("annotations");
    metadata.finish();
    Some(pod)
}

/// A part of the pod's identity. Folders are named after it, so it can be no path.
fn object_name(metadata: &Object<'_>, field: &str) -> Option<String> {
    let text = metadata.string(field).filter(|text| !text.is_empty())?;
    if !is_dns_name(&text.to_ascii_lowercase()) {
        metadata.refuse(field, format_args!("{text:?} is not a name: letters, digits, '-' and '.'"));
    }
    Some(text)
}

fn read_spec(spec: &Object<'_>) -> Pod {
    let flag = |name| spec.bool(name).unwrap_or(false);
    let restart = [
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ];
    let dns_policy = [
        ("ClusterFirst", DnsPolicy::Host),
        ("ClusterFirstWithHostNet", DnsPolicy::Host),
        ("Default", DnsPolicy::Host),
        ("None", DnsPolicy::None),
    ];
    let pod = Pod {
        name: String::new(),
        namespace: String::new(),
        uid: None,
        labels: Map::new(),
        annotations: Map::new(),
        init_containers: container::read_all(spec, "initContainers", true),
        containers: container::read_all(spec, "containers", false),
        volumes: volume::read_all(spec),
        restart_policy: spec.word("restartPolicy", &restart).unwrap_or(RestartPolicy::Always),
        grace: spec.number("terminationGracePeriodSeconds").unwrap_or(30),
        host_network: flag("hostNetwork"),
        host_pid: flag("hostPID"),
        host_ipc: flag("hostIPC"),
        share_process_namespace: flag("shareProcessNamespace"),
        hostname: spec.string("hostname"),
        dns_policy: spec.word("dnsPolicy", &dns_policy).unwrap_or(DnsPolicy::Host),
        dns: read_dns(spec),
        host_aliases: read_host_aliases(spec),
        security: security::read_pod(spec),
    };
    check(spec, &pod);
    spec.finish();
    pod
}

fn read_dns(spec: &Object<'_>) -> Dns {
    let Some(object) = spec.object("dnsConfig") else { return Dns::default() };
    let option = |option: Object<'_>| {
        let (name, value) = (option.required("name"), option.string("value"));
        option.finish();
        let name = name?;
        Some(value.map_or(name.clone(), |value| format!("{name}:{value}")))
    };
    let dns = Dns {
        servers: object.strings("nameservers").unwrap_or_default(),
        searches: object.strings("searches").unwrap_or_default(),
        options: object.objects("options").into_iter().filter_map(option).collect(),
    };
    object.finish();
    for server in &dns.servers {
        if server.parse::<std::net::IpAddr>().is_err() {
            object.refuse("nameservers", format_args!("{server:?} is not an IP address"));
        }
    }
    dns
}

fn read_host_aliases(spec: &Object<'_>) -> Vec<HostAlias> {
    let alias = |alias: Object<'_>| {
        let (ip, names) = (alias.required("ip"), alias.strings("hostnames").unwrap_or_default());
        alias.finish();
        let ip = ip?;
        if ip.parse::<std::net::IpAddr>().is_err() {
            alias.refuse("ip", format_args!("{ip:?} is not an IP address"));
        }
        Some(HostAlias { ip, names })
    };
    spec.objects("hostAliases").into_iter().filter_map(alias).collect()
}

/// Rules about several fields.
fn check(spec: &Object<'_>, pod: &Pod) {
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
    let mut seen = std::collections::BTreeSet::new();
    for (list, index, container) in
        [("initContainers", &pod.init_containers), ("containers", &pod.containers)]
            .into_iter()
            .flat_map(|(list, all)| all.iter().enumerate().map(move |(index, c)| (list, index, c)))
    {
        if !seen.insert(&container.name) {
            spec.refuse(
                &format!("{list}[{index}].name"),
                format_args!("{:?} is there twice", container.name),
            );
        }
        for (m, mount) in container.mounts.iter().enumerate() {
            if !pod.volumes.iter().any(|v| v.name == mount.volume) {
                let place = format!("{list}[{index}].volumeMounts[{m}].name");
                spec.refuse(&place, format_args!("there is no volume {:?}", mount.volume));
            }
        }
        if container.ports.iter().any(|p| pod.host_network && p.host.is_some_and(|h| h != p.container)) {
            let place = format!("{list}[{index}].ports");
            spec.refuse(&place, "hostPort must equal containerPort on the host's network");
        }
    }
}
