//! The three files that every container of a pod sees in /etc unless it mounts its own: hosts,
//! resolv.conf and hostname.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::{fs, io};

use crisp_executor::id::PodId;

use crate::config::{Dns, NamespaceMode, PodConfig};
use crate::layout::Layout;
use crate::record::write_whole;

/// Where the pod's own files are, as sources of bind mounts.
#[derive(Debug, Clone)]
pub struct PodFiles {
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
    pub hostname: PathBuf,
}

impl PodFiles {
    /// The paths, whether or not the files exist.
    #[must_use]
    pub fn of(layout: &Layout, pod: &PodId) -> Self {
        Self {
            hosts: layout.hosts(pod),
            resolv_conf: layout.resolv_conf(pod),
            hostname: layout.hostname(pod),
        }
    }

    /// Writes resolv.conf and hostname; hosts waits for the pod's addresses.
    ///
    /// # Errors
    /// The file that could not be written.
    pub fn write_names(&self, config: &PodConfig) -> io::Result<()> {
        let resolv = resolv_conf(&config.dns).unwrap_or_else(|| read_host("/etc/resolv.conf"));
        write_whole(&self.resolv_conf, resolv.as_bytes(), 0o644)?;
        let name =
            config.own_hostname().unwrap_or_else(|| read_host("/proc/sys/kernel/hostname").trim().to_owned());
        write_whole(&self.hostname, format!("{name}\n").as_bytes(), 0o644)
    }

    /// Writes hosts.
    ///
    /// # Errors
    /// The file that could not be written.
    pub fn write_hosts(&self, config: &PodConfig, addresses: &[IpAddr]) -> io::Result<()> {
        let text = match config.network {
            NamespaceMode::Host => read_host("/etc/hosts"),
            NamespaceMode::Pod => hosts(config.own_hostname().as_deref(), addresses),
        };
        write_whole(&self.hosts, text.as_bytes(), 0o644)
    }
}

/// A host without the file is a host without names: that is its own choice, not an error of the pod.
fn read_host(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// None where nothing was asked for.
fn resolv_conf(dns: &Dns) -> Option<String> {
    if *dns == Dns::default() {
        return None;
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    Some(text)
}

fn hosts(name: Option<&str>, addresses: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if let Some(name) = name {
        for address in addresses {
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_what_was_asked_in_order() {
        let dns = Dns {
            servers: vec!["10.0.0.10".into(), "1.1.1.1".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns).unwrap(),
            "search a.svc svc\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&Dns::default()), None);
    }

    #[test]
    fn hosts_names_the_pod_on_each_address() {
        let text = hosts(Some("web"), &["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.88.0.2\tweb\nfd00::2\tweb\n"), "{text}");
    }
}
