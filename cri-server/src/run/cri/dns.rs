//! Resolver settings of the host.

use std::net::IpAddr;
use std::path::Path;

use crisp_proto::runtime::v1::DnsConfig;

const HOST: &str = "/etc/resolv.conf";
/// systemd-resolved lists its upstream servers in this file: its own address cannot be reached from pods.
const SYSTEMD_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The host's resolver settings, for a pod on the host's network or on its own.
pub fn host_dns(is_host_network: bool) -> DnsConfig {
    let host = Path::new(HOST);
    if is_host_network { parse_file(host) } else { dns_of(host, Path::new(SYSTEMD_RESOLVED)) }
}

/// The settings in the host's file, or those of `behind_stub` if all servers of that are on the host's loopback.
fn dns_of(host: &Path, behind_stub: &Path) -> DnsConfig {
    let can_be_reached = |dns: &DnsConfig| !dns.servers.iter().all(|server| is_loopback(server));
    let own = parse_file(host);
    if own.servers.is_empty() || can_be_reached(&own) {
        return own;
    }
    Some(parse_file(behind_stub)).filter(can_be_reached).unwrap_or(own)
}

fn is_loopback(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or_default();
    address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn parse_file(path: &Path) -> DnsConfig {
    std::fs::read_to_string(path).map(|text| parse(&text)).unwrap_or_default()
}

/// Parses a resolv.conf(5): the last search line counts, options accumulate.
fn parse(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_the_hosts_loopback_are_replaced_where_others_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let (host, behind) = (folder.path().join("host"), folder.path().join("behind"));
        for stub in ["127.0.0.53", "127.0.0.54", "127.0.0.1", "::1"] {
            std::fs::write(&host, format!("nameserver {stub}\nsearch lan\n")).unwrap();
            std::fs::write(&behind, "nameserver fe80::1%eth0\nnameserver 192.0.2.1\nsearch lan\n").unwrap();
            assert_eq!(dns_of(&host, &behind).servers, ["fe80::1%eth0", "192.0.2.1"], "{stub}");
            std::fs::write(&behind, "nameserver 127.0.0.1\n").unwrap();
            assert_eq!(dns_of(&host, &behind).servers, [stub]);
            std::fs::remove_file(&behind).unwrap();
            assert_eq!(dns_of(&host, &behind).servers, [stub]);
        }
        std::fs::write(&behind, "nameserver 192.0.2.1\n").unwrap();
        for servers in [&["127.0.0.1", "192.0.2.7"][..], &[]] {
            std::fs::write(
                &host,
                servers.iter().map(|server| format!("nameserver {server}\n")).collect::<String>(),
            )
            .unwrap();
            assert_eq!(dns_of(&host, &behind).servers, servers);
        }
    }

    #[test]
    fn resolver_files_are_read() {
        let dns =
            parse("# x\nnameserver 10.0.0.1\nnameserver ::1\nsearch a\nsearch b c\noptions ndots:5 rotate\n");
        assert_eq!(dns.servers, ["10.0.0.1", "::1"]);
        assert_eq!(dns.searches, ["b", "c"]);
        assert_eq!(dns.options, ["ndots:5", "rotate"]);
    }
}
