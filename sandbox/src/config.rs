//! The configuration of a pod: [`PodConfig`], valid after [`PodConfig::validate`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crisp_executor::cgroup::{CgroupPath, InvalidCgroupPath};
use crisp_executor::ids::PodId;
use crisp_executor::user_namespace::{IdMappings, InvalidMappings};
use serde::{Deserialize, Serialize};

use crate::namespace::{NamespaceMode, NetworkMode, PidMode};
use crate::network::{self, published};
pub use crate::network::{DnsSettings as Dns, PortMapping, Protocol};
use crate::sysctl::{self, InvalidSysctl};

/// The fixed part of a pod, as it was requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodConfig {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub attempt: u32,
    /// Empty for the pod's name, or that of the pod whose network it joins. With the host's network the host's
    /// own name is kept.
    pub hostname: String,
    /// The folder of the containers' log files. None: the containers have no logs.
    pub log_directory: Option<PathBuf>,
    /// resolv.conf in parts. All empty: the host's file is copied.
    pub dns: Dns,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// The parent of the containers' cgroups; if it exists already, it is not removed.
    pub cgroup_parent: Option<CgroupPath>,
    pub network: NetworkMode,
    pub ipc: NamespaceMode,
    pub pid: PidMode,
    /// The pod's own user namespace. None for the host's.
    #[serde(default)]
    pub user: Option<IdMappings>,
    pub sysctls: BTreeMap<String, String>,
    pub privileged: bool,
    pub runtime_handler: String,
}

/// Identifies equal requests: a retry joins the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub attempt: u32,
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} (uid {:?}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

/// The reason why a configuration is refused. Each message names the field.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPod {
    #[error("metadata.{field}: empty")]
    Empty { field: &'static str },
    #[error(
        "metadata.{field}: {value:?} holds a character that a name cannot have (a slash, a control character)"
    )]
    BadName { field: &'static str, value: String },
    #[error(
        "hostname: {value:?} is not a host name: at most 64 letters, digits, '-' and '.', each part starting and ending with a letter or digit"
    )]
    Hostname { value: String },
    #[error("log_directory: {} is not an absolute path", path.display())]
    LogDirectory { path: PathBuf },
    #[error("dns_config.{field}: {value:?} holds a space or a control character")]
    Dns { field: &'static str, value: String },
    #[error("dns_config.servers: {value:?} is not an IP address")]
    DnsServer { value: String },
    #[error("port_mappings: host port {port}/{protocol}: {why}")]
    HostPort { port: u16, protocol: &'static str, why: &'static str },
    #[error("linux.cgroup_parent: there is no room for the pod's cgroups below it: {0}")]
    CgroupParent(#[from] InvalidCgroupPath),
    #[error("linux.sysctls: {0}")]
    Sysctl(#[from] InvalidSysctl),
    #[error("linux.security_context.namespace_options.userns_options.{0}")]
    Mappings(#[from] InvalidMappings),
    #[error(
        "linux.security_context.namespace_options.userns_options.{list}: the container's root, id 0, is not mapped"
    )]
    NoRoot { list: &'static str },
    #[error(
        "linux.security_context.namespace_options.{namespace}: NODE cannot be used with a user namespace"
    )]
    HostNamespace { namespace: &'static str },
    #[error("{field}: the pod joins the network of another pod, which has its own")]
    JoinedNetwork { field: &'static str },
}

impl PodConfig {
    /// A substitute for the configuration of a pod whose record cannot be read.
    pub(crate) fn unknown(id: &PodId) -> Self {
        Self {
            name: id.short().to_string(),
            namespace: "unknown".to_owned(),
            uid: String::new(),
            attempt: 0,
            hostname: String::new(),
            log_directory: None,
            dns: Dns::default(),
            port_mappings: vec![],
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            cgroup_parent: None,
            network: NetworkMode::Pod,
            ipc: NamespaceMode::Pod,
            pid: PidMode::Container,
            user: None,
            sysctls: BTreeMap::new(),
            privileged: false,
            runtime_handler: String::new(),
        }
    }

    /// The key by which a retry is recognised.
    #[must_use]
    pub fn key(&self) -> PodKey {
        PodKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            attempt: self.attempt,
        }
    }

    /// The pod's own host name, or None if it keeps the host's.
    #[must_use]
    pub fn own_hostname(&self) -> Option<String> {
        if self.network == NetworkMode::Host {
            return None;
        }
        if !self.hostname.is_empty() {
            return Some(self.hostname.clone());
        }
        // The kernel counts bytes.
        let end =
            (0..=self.name.len().min(63)).rev().find(|end| self.name.is_char_boundary(*end)).unwrap_or(0);
        let name = self.name[..end].trim_end_matches(['-', '.']);
        Some(if name.is_empty() { "pod" } else { name }.to_owned())
    }

    /// Checks every field once, before anything is made.
    ///
    /// # Errors
    /// The first field that is not valid.
    pub fn validate(&self) -> Result<(), InvalidPod> {
        self.validate_names()?;
        if !self.hostname.is_empty() && !is_hostname(&self.hostname) {
            return Err(InvalidPod::Hostname { value: self.hostname.clone() });
        }
        if let Some(path) = self.log_directory.as_ref().filter(|p| !p.is_absolute()) {
            return Err(InvalidPod::LogDirectory { path: path.clone() });
        }
        validate_dns(&self.dns)?;
        self.validate_ports()?;
        sysctl::validate(&self.sysctls, &self.network, self.ipc)?;
        self.validate_joined()?;
        self.validate_user_namespace()
    }

    fn validate_joined(&self) -> Result<(), InvalidPod> {
        if !matches!(self.network, NetworkMode::Joined(_)) {
            return Ok(());
        }
        let refused = [
            ("port_mappings", self.port_mappings.iter().any(|port| port.host_port != 0)),
            ("linux.security_context.namespace_options.userns_options", self.user.is_some()),
            ("annotations", self.annotations.keys().any(|key| network::is_setting(key))),
        ];
        match refused.iter().find(|(_, is_there)| *is_there) {
            Some((field, _)) => Err(InvalidPod::JoinedNetwork { field }),
            None => Ok(()),
        }
    }

    fn validate_user_namespace(&self) -> Result<(), InvalidPod> {
        let Some(mappings) = &self.user else { return Ok(()) };
        mappings.check()?;
        for (list, root) in [("uids", mappings.host_uid(0)), ("gids", mappings.host_gid(0))] {
            if root.is_none() {
                return Err(InvalidPod::NoRoot { list });
            }
        }
        // Only root in the host's user namespace can mount their file systems.
        if self.ipc == NamespaceMode::Host {
            return Err(InvalidPod::HostNamespace { namespace: "ipc" });
        }
        if self.pid == PidMode::Host {
            return Err(InvalidPod::HostNamespace { namespace: "pid" });
        }
        Ok(())
    }

    fn validate_names(&self) -> Result<(), InvalidPod> {
        for (field, value) in [("name", &self.name), ("namespace", &self.namespace)] {
            if value.is_empty() {
                return Err(InvalidPod::Empty { field });
            }
        }
        for (field, value) in [("name", &self.name), ("namespace", &self.namespace), ("uid", &self.uid)] {
            if value.chars().any(|c| c == '/' || c.is_control()) {
                return Err(InvalidPod::BadName { field, value: value.clone() });
            }
        }
        Ok(())
    }

    fn validate_ports(&self) -> Result<(), InvalidPod> {
        let refused = |(port, why): (&PortMapping, _)| InvalidPod::HostPort {
            port: port.host_port,
            protocol: port.protocol.as_str(),
            why,
        };
        published(&self.port_mappings).map(|_| ()).map_err(refused)
    }
}

fn validate_dns(dns: &Dns) -> Result<(), InvalidPod> {
    for server in &dns.servers {
        // A zone (`fe80::1%eth0`) is legal in resolv.conf.
        let address = server.split('%').next().unwrap_or(server);
        if address.parse::<IpAddr>().is_err() {
            return Err(InvalidPod::DnsServer { value: server.clone() });
        }
    }
    let bad = |v: &&String| v.is_empty() || v.chars().any(|c| c.is_whitespace() || c.is_control());
    for (field, values) in [("searches", &dns.searches), ("options", &dns.options)] {
        if let Some(value) = values.iter().find(bad) {
            return Err(InvalidPod::Dns { field, value: value.clone() });
        }
    }
    Ok(())
}

/// RFC 1123 with the kernel's limit of 64 bytes. A final dot, which kubelet writes for `setHostnameAsFQDN` in
/// a cluster without a domain, is accepted, as in containerd and CRI-O.
fn is_hostname(text: &str) -> bool {
    let part = |p: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && edge(p.bytes().next())
            && edge(p.bytes().last())
    };
    text.len() <= 64 && text.strip_suffix('.').unwrap_or(text).split('.').all(part)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pod(name: &str) -> PodConfig {
        let config = PodConfig::unknown(&PodId::random());
        PodConfig { name: name.into(), namespace: "default".into(), uid: "u1".into(), ..config }
    }

    #[test]
    fn hostnames() {
        for good in ["a", "web-0", "a.b.c", "A1", "web.sub.ns.svc.", &"x".repeat(64)] {
            assert!(is_hostname(good), "{good}");
        }
        for bad in ["-a", "a-", "a..b", "a_b", "a b", "ü", &"x".repeat(65), ".", "", "a.."] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        let mut config = pod("web");
        config.hostname = "a b".into();
        assert!(config.validate().unwrap_err().to_string().starts_with("hostname: \"a b\""));
        let mut config = pod("web");
        config.dns.servers = vec!["example.com".into()];
        assert!(config.validate().unwrap_err().to_string().contains("dns_config.servers"));
        assert!(pod("").validate().unwrap_err().to_string().contains("metadata.name"));
        assert!(pod("a/b").validate().unwrap_err().to_string().contains("metadata.name"));
    }

    fn port(host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    #[test]
    fn one_host_port_twice_is_refused_but_not_on_two_addresses() {
        let mut config = pod("web");
        config.port_mappings = vec![port(Some("127.0.0.1")), port(Some("127.0.0.2"))];
        assert!(config.validate().is_ok());
        config.port_mappings.push(port(Some("127.0.0.1")));
        assert!(config.validate().is_ok(), "the same again");
        config.port_mappings.push(PortMapping { container_port: 81, ..port(Some("127.0.0.1")) });
        let refused = config.validate().unwrap_err().to_string();
        assert_eq!(refused, "port_mappings: host port 8080/tcp: the pod publishes it twice");
    }

    #[test]
    fn a_pod_that_joins_a_network_sets_nothing_of_it() {
        let joining = PodConfig { network: NetworkMode::Joined(PodId::random()), ..pod("web") };
        assert!(joining.validate().is_ok());
        let published = PodConfig { port_mappings: vec![port(None)], ..joining.clone() };
        let refused = published.validate().unwrap_err().to_string();
        assert!(refused.starts_with("port_mappings: the pod joins"), "{refused}");
        let sysctls = BTreeMap::from([("net.core.somaxconn".to_owned(), "1".to_owned())]);
        let refused = PodConfig { sysctls, ..joining }.validate().unwrap_err().to_string();
        assert!(refused.contains("no network namespace of its own"), "{refused}");
    }

    #[test]
    fn a_long_pod_name_becomes_a_legal_hostname() {
        let mut config = pod(&format!("{}-{}", "x".repeat(62), "tail"));
        assert_eq!(config.own_hostname().unwrap(), "x".repeat(62));
        config.name = "\u{8c46}".repeat(30);
        assert_eq!(config.own_hostname().unwrap(), "\u{8c46}".repeat(21));
        config.name = "---".to_owned();
        assert_eq!(config.own_hostname().unwrap(), "pod");
        config.network = NetworkMode::Host;
        assert_eq!(config.own_hostname(), None);
    }
}
