//! resolv.conf of a pod, see resolv.conf(5).

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use crate::config::Dns;
use crate::host_resolver::{HOST, host_dns, host_dns_of_pods};
use crate::namespace::NetworkMode;

/// How the pod's first network resolves names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDns {
    /// The gateway of a built-in network, which also knows the names of pods.
    pub resolver: Option<IpAddr>,
    /// The settings in the result of CNI plugins.
    pub given: Option<Dns>,
}

/// C libraries read only this many.
const MOST_SERVERS: usize = 3;

/// The requested settings; without any, those of the network. A request without servers, such as one of options
/// alone, gets the network's servers.
pub(super) fn resolv_conf(dns: &Dns, network: &NetworkMode, of_network: &NetworkDns) -> String {
    let is_host = *network == NetworkMode::Host;
    if is_host && *dns == Dns::default() {
        // A host without the file is not an error of the pod.
        return fs::read_to_string(HOST).unwrap_or_default();
    }
    let of_host = if is_host { host_dns } else { host_dns_of_pods };
    text(&with_servers(dns, of_network, of_host))
}

/// Whether a pod in its own network has no server: none was requested, its network has none, and it reaches none
/// of the host's.
pub(crate) fn is_without_server(dns: &Dns, of_network: &NetworkDns) -> bool {
    with_servers(dns, of_network, host_dns_of_pods).servers.is_empty()
}

fn with_servers(dns: &Dns, of_network: &NetworkDns, of_host: impl FnOnce() -> Dns) -> Dns {
    if !dns.servers.is_empty() {
        return dns.clone();
    }
    let all = network_dns(of_network, of_host);
    if *dns == Dns::default() { all } else { Dns { servers: all.servers, ..dns.clone() } }
}

/// The settings in the result of the CNI plugins; else those of the host, with the network's own resolver first.
/// While no server runs, the host's resolvers are used.
fn network_dns(of_network: &NetworkDns, of_host: impl FnOnce() -> Dns) -> Dns {
    if let Some(given) = of_network.given.as_ref().filter(|given| **given != Dns::default()) {
        return given.clone();
    }
    let mut dns = of_host();
    if let Some(resolver) = of_network.resolver {
        dns.servers.insert(0, resolver.to_string());
        dns.servers.truncate(MOST_SERVERS);
    }
    dns
}

fn text(dns: &Dns) -> String {
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
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> Dns {
        let [servers, searches, options] =
            [servers, searches, options].map(|all| all.iter().map(|one| (*one).to_owned()).collect());
        Dns { servers, searches, options }
    }

    #[test]
    fn the_parts_come_in_order() {
        let dns = dns(&["10.0.0.10", "1.1.1.1"], &["a.svc", "svc"], &["ndots:5"]);
        let expected = "search a.svc svc\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n";
        assert_eq!(text(&dns), expected);
        assert_eq!(resolv_conf(&dns, &NetworkMode::Pod, &NetworkDns::default()), expected);
    }

    #[test]
    fn the_networks_own_resolver_comes_before_those_of_the_host() {
        let host = || dns(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], &["lan"], &["edns0"]);
        let built_in = NetworkDns { resolver: "10.88.0.1".parse().ok(), given: None };
        let found = with_servers(&Dns::default(), &built_in, host);
        assert_eq!(found, dns(&["10.88.0.1", "192.0.2.1", "192.0.2.2"], &["lan"], &["edns0"]));
        assert_eq!(with_servers(&Dns::default(), &NetworkDns::default(), host), host());
    }

    #[test]
    fn a_request_without_servers_gets_those_of_its_network() {
        let host = || dns(&["192.0.2.1"], &["lan"], &["edns0"]);
        let built_in = NetworkDns { resolver: "10.88.0.1".parse().ok(), given: None };
        let options = dns(&[], &[], &["ndots:2"]);
        assert_eq!(
            with_servers(&options, &built_in, host),
            dns(&["10.88.0.1", "192.0.2.1"], &[], &["ndots:2"])
        );
        let given = NetworkDns { resolver: None, given: Some(dns(&["10.9.0.1"], &["cni"], &[])) };
        assert_eq!(with_servers(&options, &given, host), dns(&["10.9.0.1"], &[], &["ndots:2"]));
        let own = dns(&["10.0.0.10"], &[], &[]);
        assert_eq!(with_servers(&own, &built_in, host), own);
    }
}
