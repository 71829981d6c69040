//! resolv.conf of a pod, see resolv.conf(5).

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::config::Dns;
use crate::namespace::NetworkMode;

const HOST: &str = "/etc/resolv.conf";
/// The upstream servers of the stub of systemd-resolved(8) at 127.0.0.53.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// How the pod's first network resolves names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDns {
    /// The gateway of a built-in network, which also knows the names of pods.
    pub resolver: Option<IpAddr>,
    /// The settings in the result of CNI plugins.
    pub given: Option<Dns>,
}

/// The requested settings; without any, those in the result of the CNI plugins; else those of the host, with
/// the network's own resolver first.
pub(super) fn resolv_conf(dns: &Dns, network: &NetworkMode, of_network: &NetworkDns) -> String {
    let of_host = || of_host(network, Path::new(HOST), Path::new(BEHIND_STUB));
    let given = || of_network.given.as_ref().and_then(from_parts);
    from_parts(dns).or_else(given).unwrap_or_else(|| with_resolver(&of_host(), of_network.resolver))
}

/// The server resolves names of pods. While no server runs, the host's own resolvers are used, if the pod can
/// reach them.
fn with_resolver(text: &str, resolver: Option<IpAddr>) -> String {
    let Some(resolver) = resolver else { return text.to_owned() };
    let (servers, others): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| server(line).is_some());
    let reached = servers.into_iter().filter(|line| server(line).is_some_and(|server| !server.is_loopback()));
    let own = format!("nameserver {resolver}");
    let servers = std::iter::once(own).chain(reached.map(str::to_owned)).take(MOST_SERVERS);
    let lines = servers.chain(others.into_iter().map(str::to_owned));
    lines.fold(String::new(), |text, line| text + &line + "\n")
}

/// C libraries read only this many.
const MOST_SERVERS: usize = 3;

/// None when no setting is requested.
fn from_parts(dns: &Dns) -> Option<String> {
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

/// The host's file. A pod in its own network cannot reach a server on the host's loopback: as with Docker and
/// kubeadm's kubelet, it gets the file with the upstream servers, if there is one.
fn of_host(network: &NetworkMode, host: &Path, behind_stub: &Path) -> String {
    // A host without the file is not an error of the pod.
    let text = fs::read_to_string(host).unwrap_or_default();
    if *network == NetworkMode::Host || !names_only_loopback(&text) {
        return text;
    }
    match fs::read_to_string(behind_stub) {
        Ok(behind) if behind.lines().any(|line| server(line).is_some()) && !names_only_loopback(&behind) => {
            behind
        }
        _ => text,
    }
}

fn names_only_loopback(text: &str) -> bool {
    let mut servers = text.lines().filter_map(server).peekable();
    servers.peek().is_some() && servers.all(|server| server.is_loopback())
}

fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
    address.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_come_in_order() {
        let dns = Dns {
            servers: vec!["10.0.0.10".into(), "1.1.1.1".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "search a.svc svc\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n";
        assert_eq!(from_parts(&dns).unwrap(), expected);
        assert_eq!(from_parts(&Dns::default()), None);
    }

    #[test]
    fn the_networks_own_resolver_comes_before_those_of_the_host() {
        let host = "# host\nnameserver 127.0.0.1\nnameserver 192.0.2.1\nsearch lan\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let expected =
            "nameserver 10.88.0.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n# host\nsearch lan\n";
        assert_eq!(with_resolver(host, "10.88.0.1".parse().ok()), expected);
        assert_eq!(with_resolver(host, None), host);
    }

    #[test]
    fn a_stub_on_the_hosts_loopback_is_replaced_by_the_servers_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let (host, behind) = (folder.path().join("host"), folder.path().join("behind"));
        let stub = "# stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let real = "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch lan\n";
        let of = |network| of_host(network, &host, &behind);
        fs::write(&host, stub).unwrap();
        assert_eq!(of(&NetworkMode::Pod), stub, "without another file there is nothing better");
        fs::write(&behind, real).unwrap();
        assert_eq!(of(&NetworkMode::Pod), real);
        assert_eq!(of(&NetworkMode::Host), stub, "the host's network reaches the stub");
        fs::write(&behind, stub).unwrap();
        assert_eq!(of(&NetworkMode::Pod), stub);
        let mixed = "nameserver ::1\nnameserver 192.0.2.7\n";
        fs::write(&behind, real).unwrap();
        fs::write(&host, mixed).unwrap();
        assert_eq!(of(&NetworkMode::Pod), mixed, "one server that can be reached is enough");
        fs::write(&host, "search lan\n").unwrap();
        assert_eq!(of(&NetworkMode::Pod), "search lan\n", "no server is the host's own choice");
    }
}
