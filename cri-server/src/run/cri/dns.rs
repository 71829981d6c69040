//! Resolver settings of the host.

use std::path::Path;

use crisp_proto::runtime::v1::DnsConfig;

/// systemd-resolved lists its upstream servers in this file: its own address cannot be reached from pods.
const SYSTEMD_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The host's resolver settings.
pub fn host_dns() -> DnsConfig {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| parse(&text)).unwrap_or_default();
    let own = read("/etc/resolv.conf");
    let only_stub = !own.servers.is_empty() && own.servers.iter().all(|s| s == "127.0.0.53");
    if only_stub && Path::new(SYSTEMD_RESOLVED).exists() { read(SYSTEMD_RESOLVED) } else { own }
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
    fn resolver_files_are_read() {
        let dns =
            parse("# x\nnameserver 10.0.0.1\nnameserver ::1\nsearch a\nsearch b c\noptions ndots:5 rotate\n");
        assert_eq!(dns.servers, ["10.0.0.1", "::1"]);
        assert_eq!(dns.searches, ["b", "c"]);
        assert_eq!(dns.options, ["ndots:5", "rotate"]);
    }
}
