//! Firewalls of the host that block traffic of pods. Our rules cannot override them: a packet passes only if
//! all accept it. So the rule that drops is named, with the command that allows the packets.

use crate::network::NetlinkError;
use crate::network::netlink::Socket;
use crate::network::nft::{Chain, chains, table_names};

/// A rule that drops the pods' packets, and the command that allows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FirewallConflict {
    pub what: String,
    pub command: String,
}

/// The rules that drop forwarded packets of the bridge's pods.
pub(super) fn conflicts(socket: &mut Socket, bridge: &str) -> Result<Vec<FirewallConflict>, NetlinkError> {
    let all = chains(socket)?;
    let mut found = Vec::new();
    let is_firewalld = |chain: &&Chain| chain.table == "firewalld";
    for chain in all.iter().filter(|chain| chain.forwards && (chain.drops || is_firewalld(chain))) {
        if table_names(socket, chain, bridge)? {
            continue;
        }
        let conflict = of_chain(chain, &all, bridge);
        // firewalld has several chains.
        if !found.contains(&conflict) {
            found.push(conflict);
        }
    }
    Ok(found)
}

/// The conflict with a program of the old iptables, whose rules are not among the kernel's chains.
pub(super) fn of_legacy(program: &str, bridge: &str) -> FirewallConflict {
    let command = iptables(program, "FORWARD", bridge);
    FirewallConflict { what: format!("{program}'s chain FORWARD"), command }
}

fn of_chain(chain: &Chain, all: &[Chain], bridge: &str) -> FirewallConflict {
    let Chain { family, table, name, .. } = chain;
    if table == "firewalld" {
        let command = format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
        );
        return FirewallConflict { what: "firewalld".to_owned(), command };
    }
    let is_iptables = table == "filter" && name == "FORWARD" && *family != "inet";
    if is_iptables {
        // Docker leaves this chain to others; it always puts its own rules in FORWARD before others.
        let of_docker = |other: &Chain| (other.family, other.name.as_str()) == (*family, "DOCKER-USER");
        let place = if all.iter().any(of_docker) { "DOCKER-USER" } else { "FORWARD" };
        let program = if *family == "ip" { "iptables" } else { "ip6tables" };
        let what = format!("{program}'s chain FORWARD");
        return FirewallConflict { what, command: iptables(program, place, bridge) };
    }
    let insert = format!("nft insert rule {family} {table} {name}");
    FirewallConflict {
        what: format!("nftables chain {family} {table} {name}"),
        command: format!(
            "{insert} iifname {bridge} accept && {insert} oifname {bridge} ct state established,related accept && {insert} oifname {bridge} ct status dnat accept"
        ),
    }
}

fn iptables(program: &str, chain: &str, bridge: &str) -> String {
    format!(
        "{program} -I {chain} -i {bridge} -j ACCEPT && {program} -I {chain} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"
    )
}

impl std::fmt::Display for FirewallConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} drops forwarded packets that it does not know; run: {}", self.what, self.command)
    }
}
