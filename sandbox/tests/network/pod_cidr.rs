//! The node's pod CIDR, as kubelet sends it.

use std::fs;
use std::path::Path;

use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks, PodCidrError, PodCidrsV6};

use crate::plugins::{RESULT, plugin, scripted, write_config};
use crate::support::{Namespace, block_on, config, on_private_host, sh};

fn open_pools(dir: &Path) -> NetworkConfig {
    NetworkConfig {
        kind: NetworkKind::BuiltIn,
        pod_cidrs: "auto".parse().unwrap(),
        pod_cidrs_v6: PodCidrsV6::Auto,
        ..config(dir)
    }
}

fn update(networks: &Networks, cidr: &str) -> Result<(), String> {
    block_on(networks.update_pod_cidr(cidr)).map_err(|error| error.to_string())
}

fn addresses(networks: &Networks, pod: &Namespace) -> Vec<String> {
    let attached = block_on(pod.attach(networks, &[])).unwrap();
    attached.ips.iter().map(ToString::to_string).collect()
}

#[test]
fn pods_of_the_built_in_network_are_in_the_nodes_pod_cidr() {
    on_private_host(module_path!(), "pods_of_the_built_in_network_are_in_the_nodes_pod_cidr", || {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        let networks = Networks::open(&open_pools(dir.path())).unwrap();
        update(&networks, "10.244.7.0/24,fd00:7::/64").unwrap();
        assert!(networks.status().message.ends_with("addresses from 10.244.7.0/24 and fd00:7::/64"));
        assert_eq!(addresses(&networks, &a), ["10.244.7.2", "fd00:7::2"]);
        drop(networks);
        // kubelet does not send it again to the next server.
        let networks = Networks::open(&open_pools(dir.path())).unwrap();
        assert_eq!(addresses(&networks, &b), ["10.244.7.3", "fd00:7::3"]);
        // Another one is for when no pod is left in the old one. A cluster without IPv6 has pods without it.
        update(&networks, "10.244.8.0/24").unwrap();
        let message = networks.status().message;
        assert!(message.ends_with("until its pods are gone: then what is asked for now"), "{message}");
        block_on(networks.detach(&a.id)).unwrap();
        block_on(networks.detach(&b.id)).unwrap();
        assert_eq!(addresses(&networks, &c), ["10.244.8.2"]);
        block_on(networks.detach(&c.id)).unwrap();
        block_on(networks.close_if_unused()).unwrap();
    });
}

#[test]
fn settings_win_and_what_cannot_be_used_is_refused_by_name() {
    on_private_host(module_path!(), "settings_win_and_what_cannot_be_used_is_refused_by_name", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&open_pools(dir.path())).unwrap();
        let invalid = block_on(networks.update_pod_cidr("10.244.7.1/24")).unwrap_err();
        assert!(matches!(invalid, PodCidrError::Invalid { .. }));
        assert_eq!(
            invalid.to_string(),
            "network_config.pod_cidr \"10.244.7.1/24\": 10.244.7.1/24 has address bits behind its prefix: 10.244.7.0/24 is meant"
        );
        let error = update(&networks, "fd00:7::/64").unwrap_err();
        assert!(error.contains("the built-in network needs an IPv4 network"), "{error}");
        sh(
            "ip link add lan0 type veth peer name lan1 && ip link set lan0 up && ip route add 10.244.0.0/16 dev lan0",
        );
        update(&networks, "10.244.7.0/24").unwrap();
        let status = networks.status();
        let expected = "pod address pool 10.244.7.0/24 overlaps the host's route 10.244.0.0/16 on lan0: set the node's podCIDRs, or pod-cidr, to a network the host does not use";
        assert_eq!((status.ready, status.message.as_str()), (false, expected));
        drop(networks);
        // Nothing of it matters where the pools are set.
        let networks = Networks::open(&config(dir.path())).unwrap();
        update(&networks, "10.245.7.0/24").unwrap();
        assert_eq!(addresses(&networks, &Namespace::new()), ["10.88.0.2", "fd88::2"]);
    });
}

const TEMPLATE: &str = r#"{"cniVersion":"1.0.0","name":"made","plugins":[{"type":"first","ipam":{"type":"first",
"ranges":[{{range $i, $range := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$range}}"}]{{end}}],
"routes":[{{range $i, $route := .Routes}}{{if $i}},{{end}}{"dst":"{{$route}}"}{{end}}]}}]}"#;

#[test]
fn a_cni_configuration_is_made_from_a_template() {
    on_private_host(module_path!(), "a_cni_configuration_is_made_from_a_template", || {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template");
        fs::write(&template, TEMPLATE).unwrap();
        plugin(dir.path(), "first", RESULT);
        let of_template = NetworkConfig {
            kind: NetworkKind::Cni,
            cni_conf_template: Some(template.clone()),
            ..scripted(dir.path())
        };
        let networks = Networks::open(&of_template).unwrap();
        assert_eq!(networks.status().reason, "NetworkPluginNotReady");
        update(&networks, "fd00:7::/64,10.244.7.0/24").unwrap();
        let made = dir.path().join("net.d/10-crisp.conflist");
        let text = fs::read_to_string(&made).unwrap();
        assert!(
            text.contains(r#""ranges":[[{"subnet":"fd00:7::/64"}],[{"subnet":"10.244.7.0/24"}]]"#),
            "{text}"
        );
        assert!(text.contains(r#""routes":[{"dst":"::/0"},{"dst":"0.0.0.0/0"}]"#), "{text}");
        assert_eq!(block_on(Namespace::new().attach(&networks, &[])).unwrap().network, "made");
        // The next server makes it again, from a template that has changed meanwhile.
        drop(networks);
        fs::write(&template, TEMPLATE.replace("made", "other")).unwrap();
        let networks = Networks::open(&of_template).unwrap();
        assert!(networks.status().message.contains("\"other\""));
        // A configuration that comes first by name was put there by an operator.
        write_config(dir.path(), "05-own.conf", r#"{"cniVersion":"1.0.0","name":"own","type":"first"}"#);
        fs::remove_file(&made).unwrap();
        update(&networks, "10.244.8.0/24").unwrap();
        assert!(!made.exists());
        fs::remove_file(dir.path().join("net.d/05-own.conf")).unwrap();
        fs::write(&template, "{\n\"name\": \"{{.Cluster}}\"}").unwrap();
        let error = update(&networks, "10.244.8.0/24").unwrap_err();
        let expected =
            format!("{}: template: line 2: {{{{.Cluster}}}} is not understood", template.display());
        assert!(error.contains(&expected), "{error}");
    });
}
