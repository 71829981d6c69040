//! The sysctls that a pod may set: those that the kernel keeps per namespace, and only in the pod's own
//! namespaces. Others would change the host.

use std::collections::BTreeMap;

use crisp_executor::user_namespace::IdMappings;

use crate::namespace::{NamespaceMode, NetworkMode};

/// The reason why a sysctl is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidSysctl {
    #[error("{name:?} is not a sysctl name: letters, digits, '_', '-' and '.' (or '/') only, no empty parts")]
    Name { name: String },
    #[error("{name}: its value holds a line break or a NUL")]
    Value { name: String },
    #[error(
        "{name} belongs to the host, not to a pod: only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* can be set"
    )]
    NotNamespaced { name: String },
    #[error("{name} cannot be set: the pod has no {namespace} namespace of its own")]
    NoNamespace { name: String, namespace: &'static str },
}

/// Default sysctls of a pod with its own network: low ports and ICMP sockets need no capability inside the
/// pod, as in other runtimes. `user`: the mappings of the pod's user namespace, in which only existing groups
/// can be named.
pub fn network_defaults(user: Option<&IdMappings>) -> [(&'static str, String); 2] {
    /// The kernel accepts no higher group here.
    const LAST: u32 = 2_147_483_647;
    let last = match user {
        None => LAST,
        Some(user) => {
            let first = user.gids.iter().find(|range| range.container == 0);
            first.map_or(0, |range| range.length.saturating_sub(1)).min(LAST)
        }
    };
    [
        ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
        ("net.ipv4.ping_group_range", format!("0 {last}")),
    ]
}

/// Checks names, values and namespaces.
///
/// # Errors
/// The first sysctl that is refused.
pub fn validate(
    sysctls: &BTreeMap<String, String>,
    network: &NetworkMode,
    ipc: NamespaceMode,
) -> Result<(), InvalidSysctl> {
    for (name, value) in sysctls {
        if !is_name(name) {
            return Err(InvalidSysctl::Name { name: name.clone() });
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(InvalidSysctl::Value { name: name.clone() });
        }
        let (is_own, namespace) = match namespace_of(name) {
            Some("network") => (*network == NetworkMode::Pod, "network"),
            Some(namespace) => (ipc == NamespaceMode::Pod, namespace),
            None => return Err(InvalidSysctl::NotNamespaced { name: name.clone() }),
        };
        if !is_own {
            return Err(InvalidSysctl::NoNamespace { name: name.clone(), namespace });
        }
    }
    Ok(())
}

/// The path below /proc/sys. If the name contains a slash, slashes separate and dots are literal.
#[must_use]
pub fn path(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { name.replace('.', "/") }
}

fn is_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    name.bytes().all(legal)
        && path(name).split('/').all(|part| !part.is_empty() && part != ".." && part != ".")
}

fn namespace_of(name: &str) -> Option<&'static str> {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    let path = path(name);
    if path.starts_with("net/") {
        Some("network")
    } else if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
        Some("IPC")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, network: &NetworkMode) -> Result<(), InvalidSysctl> {
        validate(&BTreeMap::from([(name.to_owned(), value.to_owned())]), network, NamespaceMode::Pod)
    }

    #[test]
    fn the_hosts_own_sysctls_are_refused() {
        for name in
            ["kernel.core_pattern", "vm.swappiness", "kernel.hostname", "fs.file-max", "kernel.shm_next_id"]
        {
            assert!(
                matches!(check(name, "1", &NetworkMode::Pod), Err(InvalidSysctl::NotNamespaced { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn the_default_range_of_groups_is_one_that_the_kernel_takes() {
        use crisp_executor::user_namespace::IdRange;
        let last = |length| {
            let gids = vec![IdRange { container: 0, host: 0, length }];
            let [_, (_, range)] = network_defaults(Some(&IdMappings { uids: gids.clone(), gids }));
            range
        };
        assert_eq!(last(65_536), "0 65535");
        assert_eq!(last(u32::MAX - 1), "0 2147483647");
        assert_eq!(network_defaults(None)[1].1, "0 2147483647");
    }

    #[test]
    fn smuggling_is_refused() {
        for name in ["net..x", "net/../kernel/core_pattern", "net.ipv4+kernel.core_pattern", ""] {
            assert!(matches!(check(name, "1", &NetworkMode::Pod), Err(InvalidSysctl::Name { .. })), "{name}");
        }
        assert!(matches!(
            check("net.core.somaxconn", "1\nkernel.core_pattern=x", &NetworkMode::Pod),
            Err(InvalidSysctl::Value { .. })
        ));
    }

    #[test]
    fn a_namespaced_one_needs_the_namespace() {
        assert!(check("net.core.somaxconn", "1024", &NetworkMode::Pod).is_ok());
        assert!(check("net.core.somaxconn", "1024", &NetworkMode::Host).is_err());
        assert_eq!(path("net/ipv4/conf/eth0.100/forwarding"), "net/ipv4/conf/eth0.100/forwarding");
    }
}
