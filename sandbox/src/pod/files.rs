//! The three files in /etc of every container of a pod, unless it mounts its own: hosts, resolv.conf and
//! hostname.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crisp_executor::ids::PodId;
use crisp_operation::record::write_draft_file;

use super::resolv_conf::{NetworkDns, resolv_conf};
use crate::config::PodConfig;
use crate::layout::Layout;
use crate::namespace::NetworkMode;

/// The paths of the pod's own files, as sources of bind mounts.
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
    /// A file could not be written.
    pub fn write_names(&self, config: &PodConfig) -> io::Result<()> {
        write(&self.resolv_conf, &resolv_conf(&config.dns, &config.network, &NetworkDns::default()))?;
        let name =
            config.own_hostname().unwrap_or_else(|| read_host("/proc/sys/kernel/hostname").trim().to_owned());
        write(&self.hostname, &format!("{name}\n"))
    }

    /// Writes hosts with several names for the same addresses, each once.
    ///
    /// # Errors
    /// The file could not be written.
    pub(crate) fn write_hosts_of(&self, names: &[Option<String>], addresses: &[IpAddr]) -> io::Result<()> {
        let mut different: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
        different.dedup();
        write(&self.hosts, &hosts(&different, addresses))
    }

    /// Rewrites resolv.conf for a pod whose network resolves names.
    ///
    /// # Errors
    /// A file could not be written.
    pub fn write_resolv_conf(&self, config: &PodConfig, dns: &NetworkDns) -> io::Result<()> {
        write(&self.resolv_conf, &resolv_conf(&config.dns, &config.network, dns))
    }

    /// Writes hosts.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_hosts(&self, config: &PodConfig, addresses: &[IpAddr]) -> io::Result<()> {
        let text = match config.network {
            NetworkMode::Host => read_host("/etc/hosts"),
            NetworkMode::Pod | NetworkMode::Joined(_) => {
                hosts(config.own_hostname().as_deref().as_slice(), addresses)
            }
        };
        write(&self.hosts, &text)
    }
}

/// Containers of any user read these files. No container sees the files before the pod is ready.
fn write(path: &Path, text: &str) -> io::Result<()> {
    write_draft_file(path, text.as_bytes(), 0o644)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// A host without the file is not an error of the pod: the text is empty.
fn read_host(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn hosts(names: &[&str], addresses: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for name in names {
        // Resolvers look up names without the dot of a fully qualified one.
        let name = name.trim_end_matches('.');
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
    fn hosts_names_the_pod_on_each_address() {
        let addresses = ["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = hosts(&["web"], &addresses);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.88.0.2\tweb\nfd00::2\tweb\n"), "{text}");
        assert!(hosts(&["web.sub.ns.svc."], &addresses).ends_with("fd00::2\tweb.sub.ns.svc\n"));
    }
}
