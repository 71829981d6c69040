//! Beside firewalls of the host: the rule that drops packets is named, and the suggested command allows them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks, Protocol};

use crate::support::{
    Namespace, ask_from, block_on, config, on_private_host, outside, port, sh, tell_callers_who_they_are,
};

/// Far longer than anything takes here: the machine may stall.
const PATIENCE: Duration = Duration::from_secs(60);

/// The addresses of the two ends of the link to the outside, as [`outside`] sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    host: &'static str,
    outside: &'static str,
}

pub const V4: Family = Family { host: "192.0.2.1", outside: "192.0.2.2" };
pub const V6: Family = Family { host: "2001:db8::1", outside: "2001:db8::2" };

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

    fn is_mended(&self, case: &Case<'_>) {
        self.status(false);
        sh(case.firewall);
        for family in [V4, V6] {
            if case.stops.contains(&family) {
                assert!(self.outwards(family).is_err(), "{}: not in the way", case.firewall);
                assert_eq!(self.inwards(family).is_ok(), case.lets_in, "{}: inwards", case.firewall);
            } else {
                self.passes(family);
            }
        }
        let message = self.status(true);
        let (before, command) = message.split_once("; run: ").unwrap_or_else(|| panic!("{message}"));
        let conflict = format!("; {} drops forwarded packets that it does not know", case.who);
        assert!(before.ends_with(&conflict) && !command.contains("run:"), "{message}");
        println!("{command}");
        sh(command);
        [V4, V6].into_iter().for_each(|family| self.passes(family));
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

/// Sets up the firewalls, each beside the mended ones before it. Then the pod reaches nothing over the families that
/// the firewall stops, the status names the firewall, and the command that it gives mends that.
pub fn mends(cases: &[Case<'_>]) {
    let dir = tempfile::tempdir().unwrap();
    let outside = outside();
    tell_callers_who_they_are(&outside, 80);
    let networks =
        Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
    let host = Host { networks, pod: Namespace::new(), outside };
    block_on(async {
        host.pod.attach(&host.networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
        tell_callers_who_they_are(&host.pod, 80);
        [V4, V6].into_iter().for_each(|family| host.passes(family));
        cases.iter().for_each(|case| host.is_mended(case));
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
        let firewall = "iptables-legacy -P FORWARD DROP";
        mends(&[Case { firewall, who: "iptables-legacy's chain FORWARD", stops: &[V4], ..Case::default() }]);
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
        mends(&[Case { firewall, who: "ip6tables-legacy's chain FORWARD", stops: &[V6], ..Case::default() }]);
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
        ]);
    });
}
