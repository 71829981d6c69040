//! Beside firewalls of the host: the rule that drops packets is named, and the suggested command allows them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks, PodCidrsV6, Protocol};

use crate::dns::{A, ask_for, query_tcp};
use crate::support::{
    Namespace, SECOND, ask_from, block_on, config, on_private_host, outside, port, sh,
    tell_callers_who_they_are, tell_callers_who_they_are_on_host,
};

/// Far longer than anything takes here: the machine may stall.
const PATIENCE: Duration = Duration::from_secs(60);

/// The addresses of the two ends of the link to the outside, as [`outside`] sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    host: &'static str,
    outside: &'static str,
    /// The pods' resolver.
    gateway: &'static str,
}

pub const V4: Family = Family { host: "192.0.2.1", outside: "192.0.2.2", gateway: "10.88.0.1" };
pub const V6: Family = Family { host: "2001:db8::1", outside: "2001:db8::2", gateway: "fd88::1" };
const BOTH: [Family; 2] = [V4, V6];

/// A firewall that drops the pods' packets.
#[derive(Default)]
pub struct Case<'a> {
    /// The command that sets it up.
    pub firewall: &'a str,
    /// Its name in the status.
    pub who: &'a str,
    pub stops: &'a [Family],
    /// Whether it accepts packets to host ports all the same.
    pub lets_in: bool,
    /// The families over which it drops the pods' DNS queries.
    pub stops_names: &'a [Family],
}

impl Case<'_> {
    fn conflict(&self) -> String {
        let dropped = if self.stops.is_empty() { "the pods' DNS queries" } else { "forwarded packets" };
        format!("; {} drops {dropped} that it does not know", self.who)
    }
}

/// A host with one pod, whose port 80 is the host's port 8080, and a machine outside.
struct Host {
    networks: Networks,
    pod: Namespace,
    outside: Namespace,
}

impl Host {
    fn outwards(&self, family: Family) -> Result<String, String> {
        ask_from(&self.pod, &at(family.outside, 80))
    }

    fn inwards(&self, family: Family) -> Result<String, String> {
        ask_from(&self.outside, &at(family.host, 8080))
    }

    /// Whether the pod's own name is found.
    fn resolves(&self, family: Family) -> Result<String, String> {
        let (_, found) = ask_for(SECOND, &self.pod, family.gateway, "web.default", A)?;
        found.into_iter().next().ok_or_else(|| "no address".to_owned())
    }

    /// Asserts that names are found, by both protocols.
    fn names(&self, family: Family) {
        let ip = self.networks.attachment(&self.pod.id).unwrap().ips[0].to_string();
        assert_eq!(answer(|| self.resolves(family)), ip);
        assert_eq!(query_tcp(&self.pod, family.gateway, "web.default").1, [ip]);
    }

    /// Whether a program that listens on the host answers the pod.
    fn reaches_host(&self, family: Family) -> Result<String, String> {
        ask_from(&self.pod, &at(family.gateway, 81))
    }

    /// Asserts that packets pass in both directions, behind the host's address.
    fn passes(&self, family: Family) {
        assert_eq!(answer(|| self.outwards(family)), family.host);
        assert_eq!(answer(|| self.inwards(family)), family.outside);
    }

    /// Polls: the rules of the old iptables are read every ten seconds.
    fn status(&self, has_command: bool) -> String {
        let begun = Instant::now();
        loop {
            let message = self.networks.status().message;
            if message.contains("run:") == has_command {
                return message;
            }
            assert!(begun.elapsed() < PATIENCE, "a command is {has_command}: {message}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn is_open(&self) {
        for family in BOTH {
            self.passes(family);
            self.names(family);
        }
    }

    fn is_mended(&self, case: &Case<'_>) {
        self.status(false);
        sh(case.firewall);
        for family in BOTH {
            match case.stops_names.contains(&family) {
                true => assert!(self.resolves(family).is_err(), "{}: names", case.firewall),
                false => self.names(family),
            }
            if case.stops.contains(&family) {
                assert!(self.outwards(family).is_err(), "{}: not in the way", case.firewall);
                assert_eq!(self.inwards(family).is_ok(), case.lets_in, "{}: inwards", case.firewall);
            } else {
                self.passes(family);
            }
        }
        let message = self.status(true);
        let (before, command) = message.split_once("; run: ").unwrap_or_else(|| panic!("{message}"));
        assert!(before.ends_with(&case.conflict()) && !command.contains("run:"), "{message}");
        println!("{command}");
        sh(command);
        self.is_open();
        for family in case.stops_names {
            assert!(self.reaches_host(*family).is_err(), "{command}: allows more than names");
        }
        self.status(false);
    }
}

fn at(ip: &str, port: u16) -> String {
    SocketAddr::new(ip.parse().unwrap(), port).to_string()
}

/// Asks until there is an answer: on a stalled machine one may come too late.
fn answer(ask: impl Fn() -> Result<String, String>) -> String {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sets up the firewalls, each beside the mended ones before it. Then the pod reaches nothing, or finds no names, over
/// the families that the firewall stops, the status names the firewall, and the command that it gives mends that.
pub fn mends(cases: &[Case<'_>]) {
    with_pod(|host| cases.iter().for_each(|case| host.is_mended(case)));
}

/// Firewalls that drop nothing of the pod's are not named.
fn are_no_conflict(firewalls: &[&str]) {
    with_pod(|host| {
        for firewall in firewalls {
            sh(firewall);
            host.is_open();
            let message = host.networks.status().message;
            assert!(!message.contains("run:"), "{firewall}: {message}");
        }
    });
}

fn with_pod(test: impl FnOnce(&Host)) {
    let dir = tempfile::tempdir().unwrap();
    let outside = outside();
    tell_callers_who_they_are(&outside, 80);
    let networks =
        Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
    let host = Host { networks, pod: Namespace::new(), outside };
    block_on(async {
        host.pod.attach(&host.networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
        tell_callers_who_they_are(&host.pod, 80);
        tell_callers_who_they_are_on_host(81);
        for family in BOTH {
            answer(|| host.reaches_host(family));
        }
        host.is_open();
        test(&host);
    });
}

#[test]
fn iptables_that_drops_forwarded_packets() {
    crisp_skip::needs!("iptables", "ip6tables");
    on_private_host(module_path!(), "iptables_that_drops_forwarded_packets", || {
        mends(&[
            Case {
                firewall: "iptables -P FORWARD DROP",
                who: "iptables's chain FORWARD",
                stops: &[V4],
                ..Case::default()
            },
            Case {
                firewall: "ip6tables -P FORWARD DROP",
                who: "ip6tables's chain FORWARD",
                stops: &[V6],
                ..Case::default()
            },
        ]);
    });
}

#[test]
fn docker_that_drops_forwarded_packets() {
    crisp_skip::needs!("iptables", "ip6tables");
    on_private_host(module_path!(), "docker_that_drops_forwarded_packets", || {
        let docker = |program: &str| {
            format!(
                "{program} -P FORWARD DROP; {program} -N DOCKER-USER; {program} -A DOCKER-USER -j RETURN; {program} -I FORWARD -j DOCKER-USER"
            )
        };
        mends(&[
            Case {
                firewall: &docker("iptables"),
                who: "iptables's chain FORWARD",
                stops: &[V4],
                ..Case::default()
            },
            Case {
                firewall: &docker("ip6tables"),
                who: "ip6tables's chain FORWARD",
                stops: &[V6],
                ..Case::default()
            },
        ]);
        for program in ["iptables", "ip6tables"] {
            let rules = sh(&format!("{program} -S DOCKER-USER"));
            assert!(rules.contains("-i crisp0 -j ACCEPT"), "{program}: {rules}");
        }
    });
}

/// The rules of iptables-services: what no rule accepts is rejected by the last one, not by the policy.
#[test]
fn iptables_whose_last_rule_rejects() {
    crisp_skip::needs!("iptables", "ip6tables");
    on_private_host(module_path!(), "iptables_whose_last_rule_rejects", || {
        mends(&[
            Case {
                firewall: "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT &&
                    iptables -A FORWARD -j REJECT --reject-with icmp-host-prohibited",
                who: "iptables's chain FORWARD",
                stops: &[V4],
                ..Case::default()
            },
            Case {
                firewall: "ip6tables -N REST && ip6tables -A REST -m comment --comment all -j DROP &&
                    ip6tables -A FORWARD -j REST",
                who: "ip6tables's chain FORWARD",
                stops: &[V6],
                ..Case::default()
            },
            Case {
                firewall: &input(
                    "iptables",
                    "iptables -A INPUT -j REJECT --reject-with icmp-host-prohibited",
                ),
                who: "iptables's chain INPUT",
                stops_names: &[V4],
                ..Case::default()
            },
            Case {
                firewall: &input("ip6tables", "ip6tables -A INPUT -j REJECT"),
                who: "ip6tables's chain INPUT",
                stops_names: &[V6],
                ..Case::default()
            },
        ]);
    });
}

/// A firewall that lets the host itself work: it accepts what belongs to the host's connections, and its neighbours'
/// addresses.
fn input(program: &str, last: &str) -> String {
    format!(
        "{program} -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT && {program} -A INPUT -i lo -j ACCEPT &&
         {program} -A INPUT -p icmp{} -j ACCEPT && {last}",
        if program.contains('6') { "v6" } else { "" }
    )
}

/// As ufw does.
#[test]
fn iptables_that_drops_what_comes_in() {
    crisp_skip::needs!("iptables", "ip6tables");
    on_private_host(module_path!(), "iptables_that_drops_what_comes_in", || {
        mends(&[
            Case {
                firewall: &input("iptables", "iptables -P INPUT DROP"),
                who: "iptables's chain INPUT",
                stops_names: &[V4],
                ..Case::default()
            },
            Case {
                firewall: &input("ip6tables", "ip6tables -P INPUT DROP"),
                who: "ip6tables's chain INPUT",
                stops_names: &[V6],
                ..Case::default()
            },
            // The rule for names says nothing about forwarded packets.
            Case {
                firewall: "iptables -P FORWARD DROP",
                who: "iptables's chain FORWARD",
                stops: &[V4],
                ..Case::default()
            },
        ]);
    });
}

#[test]
fn firewalls_that_drop_nothing_of_the_pods_are_not_named() {
    crisp_skip::needs!("iptables", "ip6tables");
    on_private_host(module_path!(), "firewalls_that_drop_nothing_of_the_pods_are_not_named", || {
        are_no_conflict(&[
            "iptables -A FORWARD -p tcp --dport 25 -j REJECT && iptables -A FORWARD -i up9 -j DROP",
            "iptables -A INPUT -p tcp --dport 22 -m limit --limit 1/s -j DROP && iptables -A INPUT -s 203.0.113.0/24 -j REJECT",
            "iptables -N UNUSED && iptables -A UNUSED -j DROP && iptables -N SOME && iptables -A SOME -j DROP && iptables -A FORWARD -i up9 -j SOME",
            "iptables -N EARLY && iptables -A EARLY -p udp -j RETURN && iptables -A EARLY -j RETURN && iptables -A EARLY -j DROP && iptables -A FORWARD -j EARLY",
            "iptables -N ELSEWHERE && iptables -A ELSEWHERE -m addrtype --dst-type LOCAL -j RETURN && iptables -A ELSEWHERE -j DROP && iptables -A INPUT -j ELSEWHERE",
            "iptables -A FORWARD -j LOG && iptables -A FORWARD -j ACCEPT && iptables -A FORWARD -j DROP && iptables -P FORWARD DROP",
            "nft add table inet own && nft 'add chain inet own nat { type nat hook postrouting priority 100; }' && nft add chain inet own rest && nft add rule inet own rest drop",
        ]);
    });
}

/// Whether the kernel has the table of this old program.
fn has_table_of(program: &str) -> bool {
    let listed = std::process::Command::new(program).args(["-S", "FORWARD"]).output();
    listed.is_ok_and(|listed| listed.status.success())
}

#[test]
fn a_firewall_program_that_hangs_holds_up_no_pod() {
    crisp_skip::needs!("iptables-legacy");
    if !has_table_of("iptables-legacy") {
        crisp_skip::unsupported!(Kernel("iptable_filter"));
    }
    on_private_host(module_path!(), "a_firewall_program_that_hangs_holds_up_no_pod", || {
        let dir = tempfile::tempdir().unwrap();
        sh("iptables-legacy -P FORWARD DROP");
        sh(&format!(
            "cd {}; printf '#!/bin/sh\nsleep 1000' >hangs; chmod 755 hangs; mount --bind hangs $(which iptables-legacy)",
            dir.path().display()
        ));
        let networks =
            Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
        let begun = Instant::now();
        let (one, two) = (Namespace::new(), Namespace::new());
        block_on(one.attach(&networks, &[])).unwrap();
        let of_status = networks.clone();
        let status = std::thread::spawn(move || of_status.status());
        block_on(two.attach(&networks, &[])).unwrap();
        block_on(networks.detach(&one.id)).unwrap();
        assert!(status.join().unwrap().ready);
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    });
}

#[test]
fn the_old_iptables_that_drops_forwarded_packets() {
    crisp_skip::needs!("iptables-legacy");
    if !has_table_of("iptables-legacy") {
        crisp_skip::unsupported!(Kernel("iptable_filter"));
    }
    on_private_host(module_path!(), "the_old_iptables_that_drops_forwarded_packets", || {
        let who = "iptables-legacy's chain FORWARD";
        mends(&[
            Case { firewall: "iptables-legacy -P FORWARD DROP", who, stops: &[V4], ..Case::default() },
            Case {
                firewall: &input("iptables-legacy", "iptables-legacy -P INPUT DROP"),
                who: "iptables-legacy's chain INPUT",
                stops_names: &[V4],
                ..Case::default()
            },
            Case {
                firewall: "iptables-legacy -F FORWARD; iptables-legacy -P FORWARD ACCEPT;
                    iptables-legacy -A FORWARD -p tcp --dport 25 -j DROP; iptables-legacy -A FORWARD -j REJECT --reject-with icmp-host-prohibited",
                who,
                stops: &[V4],
                ..Case::default()
            },
        ]);
    });
}

#[test]
fn the_old_ip6tables_that_drops_forwarded_packets() {
    crisp_skip::needs!("ip6tables-legacy");
    if !has_table_of("ip6tables-legacy") {
        crisp_skip::unsupported!(Kernel("ip6table_filter"));
    }
    on_private_host(module_path!(), "the_old_ip6tables_that_drops_forwarded_packets", || {
        let firewall = "ip6tables-legacy -P FORWARD DROP";
        let input = input("ip6tables-legacy", "ip6tables-legacy -A INPUT -j REJECT");
        mends(&[
            Case { firewall, who: "ip6tables-legacy's chain FORWARD", stops: &[V6], ..Case::default() },
            Case {
                firewall: &input,
                who: "ip6tables-legacy's chain INPUT",
                stops_names: &[V6],
                ..Case::default()
            },
        ]);
    });
}

#[test]
fn a_table_of_an_operator_that_drops_forwarded_packets() {
    on_private_host(module_path!(), "a_table_of_an_operator_that_drops_forwarded_packets", || {
        let own = |family: &str| {
            format!(
                "nft add table {family} own; nft 'add chain {family} own outwards {{ type filter hook forward priority 0; policy drop; }}'"
            )
        };
        mends(&[
            Case {
                firewall: &own("inet"),
                who: "nftables chain inet own outwards",
                stops: &[V4, V6],
                ..Case::default()
            },
            Case {
                firewall: &own("ip6"),
                who: "nftables chain ip6 own outwards",
                stops: &[V6],
                ..Case::default()
            },
            Case {
                firewall: "nft add table inet late; nft 'add chain inet late f { type filter hook forward priority 10; }';
                    nft add rule inet late f ct state established,related accept; nft add rule inet late f counter reject",
                who: "nftables chain inet late f",
                stops: &[V4, V6],
                ..Case::default()
            },
            Case {
                firewall: "nft add table inet in; nft 'add chain inet in i { type filter hook input priority 0; policy drop; }';
                    nft add rule inet in i ct state established,related accept; nft add rule inet in i meta l4proto icmpv6 accept;
                    nft add rule inet in i iif lo accept",
                who: "nftables chain inet in i",
                stops_names: &[V4, V6],
                ..Case::default()
            },
        ]);
    });
}

/// On a host with IPv6, where pods have none.
#[test]
fn a_firewall_for_ipv6_is_no_conflict_for_pods_without() {
    crisp_skip::needs!("ip6tables");
    on_private_host(module_path!(), "a_firewall_for_ipv6_is_no_conflict_for_pods_without", || {
        let dir = tempfile::tempdir().unwrap();
        let config =
            NetworkConfig { kind: NetworkKind::BuiltIn, pod_cidrs_v6: PodCidrsV6::Off, ..config(dir.path()) };
        let networks = Networks::open(&config).unwrap();
        sh("ip6tables -P FORWARD DROP && ip6tables -P INPUT DROP");
        if has_table_of("ip6tables-legacy") {
            sh("ip6tables-legacy -P FORWARD DROP && ip6tables-legacy -P INPUT DROP");
        }
        let pod = Namespace::new();
        block_on(pod.attach(&networks, &[])).unwrap();
        let message = networks.status().message;
        assert!(!message.contains("run:"), "{message}");
        sh("iptables -P FORWARD DROP");
        let message = networks.status().message;
        assert!(message.contains("iptables's chain FORWARD drops"), "{message}");
    });
}
