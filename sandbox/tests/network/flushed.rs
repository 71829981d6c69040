//! Packet rules that other programs remove.

use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks, Protocol};

use crate::support::{
    Namespace, ask, block_on, config, on_private_host, port, sh, tell_callers_who_they_are,
};

/// The rules without their counters and handles.
fn rules() -> String {
    sh("nft list table ip crisp-crisp0 && nft list table ip6 crisp-crisp0")
}

#[test]
fn rules_of_a_flushed_table_or_chain_come_back() {
    on_private_host(module_path!(), "rules_of_a_flushed_table_or_chain_come_back", || {
        let dir = tempfile::tempdir().unwrap();
        let networks =
            Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
        let pod = Namespace::new();
        block_on(async {
            pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            tell_callers_who_they_are(&pod, 80);
            networks.keep_up().await;
            let whole = rules();
            let guard = "nft -a list chain ip crisp-crisp0 guard | sed -n 's/.*drop # handle //p'";
            for harm in [
                "nft flush table ip crisp-crisp0".to_owned(),
                "nft flush chain ip crisp-crisp0 guard".to_owned(),
                "nft flush chain ip6 crisp-crisp0 guard".to_owned(),
                "nft 'flush chain ip crisp-crisp0 guard; delete chain ip crisp-crisp0 guard'".to_owned(),
                format!(
                    "for rule in $({guard}); do nft delete rule ip crisp-crisp0 guard handle $rule; done"
                ),
                // As many rules as before.
                format!("nft replace rule ip crisp-crisp0 guard handle $({guard} | head -1) accept"),
            ] {
                sh(&harm);
                assert_ne!(rules(), whole, "{harm}");
                networks.keep_up().await;
                assert_eq!(rules(), whole, "{harm}");
                assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.88.0.1", "{harm}");
            }
        });
    });
}

#[test]
fn ports_of_a_flushed_map_come_back() {
    on_private_host(module_path!(), "ports_of_a_flushed_map_come_back", || {
        let dir = tempfile::tempdir().unwrap();
        let networks =
            Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
        let pod = Namespace::new();
        block_on(async {
            pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            tell_callers_who_they_are(&pod, 80);
            networks.keep_up().await;
            let whole = rules();
            for harm in [
                "nft flush map ip crisp-crisp0 ports; nft flush map ip6 crisp-crisp0 ports",
                "nft flush set ip crisp-crisp0 published",
            ] {
                sh(harm);
                // Once: it could be a port that is just being published.
                networks.keep_up().await;
                assert_ne!(rules(), whole, "{harm}");
                networks.keep_up().await;
                assert_eq!(rules(), whole, "{harm}");
                assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.88.0.1", "{harm}");
            }
        });
    });
}

#[test]
fn rules_that_an_administrator_adds_stay() {
    on_private_host(module_path!(), "rules_that_an_administrator_adds_stay", || {
        let dir = tempfile::tempdir().unwrap();
        let networks =
            Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir.path()) }).unwrap();
        let (pod, other) = (Namespace::new(), Namespace::new());
        block_on(async {
            pod.attach(&networks, &[]).await.unwrap();
            sh("nft insert rule ip crisp-crisp0 forward counter comment mine; nft add table ip other");
            let before = sh("nft -a list table ip crisp-crisp0");
            networks.keep_up().await;
            other.attach(&networks, &[]).await.unwrap();
            assert_eq!(sh("nft -a list table ip crisp-crisp0"), before);
        });
    });
}
