//! Firewalls of the host that block traffic of pods. Our rules cannot override them: a packet passes only if
//! all accept it. So the chain that drops is named, with the command that allows the packets.

use super::state::DnsSocket;
use crate::network::netlink::{NetlinkError, Socket};
use crate::network::nft::{Chain, Hook, chains, drops_unknown, names_interface};

/// A chain that drops the pods' packets, and the command that allows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FirewallConflict {
    what: String,
    hook: Hook,
    command: String,
}

/// The traffic that a network's pods need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodTraffic {
    pub bridge: String,
    pub has_ipv6: bool,
    /// Whether packets are forwarded for the pods. DNS queries come to the host in any case.
    pub is_forwarded: bool,
}

impl PodTraffic {
    pub(super) fn passes(&self, hook: Hook) -> bool {
        hook == Hook::Input || self.is_forwarded
    }
}

/// The chains that drop the pods' packets.
pub(super) fn conflicts(
    socket: &mut Socket,
    traffic: &PodTraffic,
) -> Result<Vec<FirewallConflict>, NetlinkError> {
    let all = chains(socket)?;
    let mut found = Vec::new();
    for chain in all.iter().filter(|chain| chain.family != "ip6" || traffic.has_ipv6) {
        let Some(hook) = chain.hook.filter(|hook| traffic.passes(*hook)) else { continue };
        let drops = match chain.table.as_str() {
            // It sorts packets into zones, and accepts redirected ones to the host.
            "firewalld" => hook == Hook::Forward,
            _ => drops_unknown(socket, chain)?,
        };
        if !drops || names_interface(socket, chain, &all, &traffic.bridge)? {
            continue;
        }
        let conflict = of_chain(chain, hook, &all, &traffic.bridge);
        // firewalld has several chains.
        if !found.contains(&conflict) {
            found.push(conflict);
        }
    }
    Ok(found)
}

/// The conflict with a program of the old iptables, whose rules are not among the kernel's chains.
pub(super) fn of_legacy(program: &str, hook: Hook, bridge: &str) -> FirewallConflict {
    of_iptables(program, hook, iptables_chain(hook), bridge)
}

/// The chain of iptables for the packets of a hook.
pub(super) fn iptables_chain(hook: Hook) -> &'static str {
    match hook {
        Hook::Input => "INPUT",
        Hook::Forward => "FORWARD",
    }
}

fn of_chain(chain: &Chain, hook: Hook, all: &[Chain], bridge: &str) -> FirewallConflict {
    let Chain { family, table, name, .. } = chain;
    if table == "firewalld" {
        let command = format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
        );
        return FirewallConflict { what: "firewalld".to_owned(), hook: Hook::Forward, command };
    }
    let is_iptables = table == "filter" && name == iptables_chain(hook) && *family != "inet";
    if is_iptables {
        // Docker leaves this chain to others; it always puts its own rules in FORWARD before others.
        let of_docker = |other: &Chain| (other.family, other.name.as_str()) == (*family, "DOCKER-USER");
        let is_docker = hook == Hook::Forward && all.iter().any(of_docker);
        let program = if *family == "ip" { "iptables" } else { "ip6tables" };
        return of_iptables(program, hook, if is_docker { "DOCKER-USER" } else { name }, bridge);
    }
    let insert = format!("nft insert rule {family} {table} {name}");
    let command = match hook {
        Hook::Input => {
            let query = format!("ct original proto-dst {} accept", DnsSocket::PORT);
            let redirected = format!("{insert} iifname {bridge} ct status dnat meta l4proto");
            // nft knows the type of the port only with one protocol.
            format!("{redirected} udp {query} && {redirected} tcp {query}")
        }
        Hook::Forward => format!(
            "{insert} iifname {bridge} accept && {insert} oifname {bridge} ct state established,related accept && {insert} oifname {bridge} ct status dnat accept"
        ),
    };
    FirewallConflict { what: format!("nftables chain {family} {table} {name}"), hook, command }
}

/// `place` is the chain for the new rules.
fn of_iptables(program: &str, hook: Hook, place: &str, bridge: &str) -> FirewallConflict {
    let insert = format!("{program} -I {place}");
    let command = match hook {
        // The port of the responder changes: a query is known by the port before its redirection.
        Hook::Input => format!(
            "{insert} -i {bridge} -m conntrack --ctstate DNAT --ctorigdstport {} -j ACCEPT",
            DnsSocket::PORT
        ),
        Hook::Forward => format!(
            "{insert} -i {bridge} -j ACCEPT && {insert} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"
        ),
    };
    FirewallConflict { what: format!("{program}'s chain {}", iptables_chain(hook)), hook, command }
}

impl std::fmt::Display for FirewallConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dropped = match self.hook {
            Hook::Input => "the pods' DNS queries",
            Hook::Forward => "forwarded packets",
        };
        write!(f, "{} drops {dropped} that it does not know; run: {}", self.what, self.command)
    }
}
