//! Beside firewalls of the host: the rule that drops packets is named, and the suggested command allows them.

use std::time::{Duration, Instant};

use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks, Protocol};

use crate::support::{
    Namespace, ask_from, block_on, config, on_private_host, outside, port, sh, tell_callers_who_they_are,
};

/// Polls: the rules of the old iptables are read every ten seconds.
fn status_with_a_command(networks: &Networks) -> String {
    let begun = Instant::now();
    loop {
        let message = networks.status().message;
        if message.contains("run:") || begun.elapsed() > Duration::from_secs(30) {
            return message;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Puts the firewall up; then the pod reaches nothing, the status says who is in the way, and the command that it
/// gives mends that.
fn mends(firewall: &str, who: &str) {
    let dir = tempfile::tempdir().unwrap();
    let outside = outside();
    tell_callers_who_they_are(&outside, 80);
    let networks =
        Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
    let pod = Namespace::new();
    block_on(async {
        pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
        tell_callers_who_they_are(&pod, 80);
        let outwards = || ask_from(&pod, "192.0.2.2:80");
        let inwards = || ask_from(&outside, "192.0.2.1:8080");
        outwards().unwrap();
        assert!(!networks.status().message.contains("run:"));
        sh(firewall);
        assert!(outwards().is_err() && inwards().is_err(), "it is not in the way");
        let message = status_with_a_command(&networks);
        let (before, command) = message.split_once("; run: ").unwrap_or_else(|| panic!("{message}"));
        assert!(
            before.ends_with(&format!("; {who} drops forwarded packets that it does not know")),
            "{message}"
        );
        println!("{command}");
        sh(command);
        assert_eq!(outwards().unwrap(), "192.0.2.1");
        assert_eq!(inwards().unwrap(), "192.0.2.2");
        let message = networks.status().message;
        assert!(!message.contains("run:"), "{message}");
    });
}

#[test]
fn iptables_that_drops_forwarded_packets() {
    crisp_skip::needs!("iptables");
    on_private_host(module_path!(), "iptables_that_drops_forwarded_packets", || {
        mends("iptables -P FORWARD DROP", "iptables's chain FORWARD");
    });
}

#[test]
fn docker_that_drops_forwarded_packets() {
    crisp_skip::needs!("iptables");
    on_private_host(module_path!(), "docker_that_drops_forwarded_packets", || {
        let docker = "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER";
        mends(docker, "iptables's chain FORWARD");
        assert!(sh("iptables -S DOCKER-USER").contains("-i crisp0 -j ACCEPT"));
    });
}

fn has_old_iptables() -> bool {
    let listed = std::process::Command::new("iptables-legacy").args(["-S", "FORWARD"]).output();
    listed.is_ok_and(|listed| listed.status.success())
}

#[test]
fn a_firewall_program_that_hangs_holds_up_no_pod() {
    crisp_skip::needs!("iptables-legacy");
    if !has_old_iptables() {
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
    if !has_old_iptables() {
        crisp_skip::unsupported!(Kernel("iptable_filter"));
    }
    on_private_host(module_path!(), "the_old_iptables_that_drops_forwarded_packets", || {
        mends("iptables-legacy -P FORWARD DROP", "iptables-legacy's chain FORWARD");
    });
}

#[test]
fn a_table_of_an_operator_that_drops_forwarded_packets() {
    on_private_host(module_path!(), "a_table_of_an_operator_that_drops_forwarded_packets", || {
        let own = "nft add table inet own; nft 'add chain inet own outwards { type filter hook forward priority 0; policy drop; }'";
        mends(own, "nftables chain inet own outwards");
    });
}

#[test]
fn firewalld_is_named_with_its_own_command() {
    on_private_host(module_path!(), "firewalld_is_named_with_its_own_command", || {
        let dir = tempfile::tempdir().unwrap();
        let networks =
            Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
        block_on(Namespace::new().attach(&networks, &[])).unwrap();
        // As it is without the interface in a zone: accepted by policy, and rejected by the last rule.
        sh(
            "nft add table inet firewalld; nft 'add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }'; nft add rule inet firewalld filter_FORWARD reject",
        );
        let message = networks.status().message;
        let command =
            "firewall-cmd --permanent --zone=trusted --add-interface=crisp0 && firewall-cmd --reload";
        assert!(
            message.ends_with(&format!(
                "firewalld drops forwarded packets that it does not know; run: {command}"
            )),
            "{message}"
        );
        sh("nft insert rule inet firewalld filter_FORWARD iifname crisp0 accept");
        assert!(!networks.status().message.contains("run:"));
    });
}
