//! Destinations that pods reach with their own address.

use crisp_sandbox::network::{Attachment, ManageError, NetworkConfig, NetworkKind, Networks, NewNetwork};

use crate::support::{
    Namespace, ask_from, block_on, config, on_private_host, outside, sh, tell_callers_who_they_are,
};

/// Another machine with more addresses and a route back to all pods.
fn with_routes() -> Namespace {
    let outside = outside();
    tell_callers_who_they_are(&outside, 80);
    outside.sh("ip addr add 198.51.100.2/24 dev up1 && ip addr add 2001:db8:1::2/64 dev up1 nodad &&
         ip route add 10.0.0.0/8 via 192.0.2.1 && ip -6 route add fd00::/8 via 2001:db8::1");
    sh("ip route add 198.51.100.0/24 via 192.0.2.2 && ip -6 route add 2001:db8:1::/64 via 2001:db8::2");
    // Until the link-local addresses are checked, the kernel finds no neighbour for forwarded packets.
    for run in [&sh as &dyn Fn(&str) -> String, &|line: &str| outside.sh(line)] {
        run("while ip -6 addr show tentative | grep -q inet6; do sleep 0.05; done");
    }
    outside
}

const EXCLUDED: [&str; 2] = ["198.51.100.2:80", "[2001:db8:1::2]:80"];
const OTHERS: [&str; 2] = ["192.0.2.2:80", "[2001:db8::2]:80"];
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

fn answers(pod: &Namespace, addresses: [&str; 2]) -> [String; 2] {
    addresses.map(|address| ask_from(pod, address).unwrap_or_else(|error| format!("{address}: {error}")))
}

fn texts(attachment: &Attachment) -> Vec<String> {
    attachment.ips.iter().map(ToString::to_string).collect()
}

#[test]
fn pods_keep_their_address_towards_excluded_destinations_alone() {
    on_private_host(module_path!(), "pods_keep_their_address_towards_excluded_destinations_alone", || {
        let dir = tempfile::tempdir().unwrap();
        let _outside = with_routes();
        // The pods of all nodes, with those of this one among them.
        let masquerade_except = "198.51.100.0/24,2001:db8:1::/64,10.0.0.0/8".parse().unwrap();
        let config = NetworkConfig { kind: NetworkKind::BuiltIn, masquerade_except, ..config(dir.path()) };
        let networks = Networks::open(&config).unwrap();
        let (pod, named) = (Namespace::new(), Namespace::new());
        block_on(async {
            let ips = texts(&pod.attach(&networks, &[]).await.unwrap());
            assert_eq!(answers(&pod, EXCLUDED), ips[..]);
            assert_eq!(answers(&pod, OTHERS), HOST);
            // A network of its own has exclusions of its own.
            let lan = NewNetwork {
                name: "lan".to_owned(),
                subnets: vec!["10.1.1.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()],
                ipv6: true,
                mtu: None,
                internal: false,
                icc: true,
                masquerade_except: "192.0.2.2/32,2001:db8::2/128".parse().unwrap(),
                addresses: Default::default(),
                labels: Default::default(),
            };
            let internal = NewNetwork { internal: true, ..lan.clone() };
            let refused = networks.create(internal).await.unwrap_err();
            assert!(matches!(refused, ManageError::Invalid { field: "masquerade_except", .. }), "{refused}");
            networks.create(lan).await.unwrap();
            let mut request = named.request(&[]);
            request.annotations.insert("crisp/networks".to_owned(), "lan@eth0".to_owned());
            let ips = texts(&networks.attach(request).await.unwrap());
            assert_eq!(answers(&named, EXCLUDED), HOST);
            assert_eq!(answers(&named, OTHERS), ips[..]);
        });
        // The next server knows them.
        drop(networks);
        let networks =
            Networks::open(&NetworkConfig { masquerade_except: Default::default(), ..config }).unwrap();
        block_on(async {
            networks.keep_up().await;
            assert_eq!(answers(&pod, EXCLUDED), HOST, "the setting is gone");
            let listed = networks.list().await.unwrap();
            let lan = listed.iter().find(|network| network.name == "lan").unwrap();
            assert_eq!(lan.masquerade_except.to_string(), "192.0.2.2/32,2001:db8::2/128");
        });
    });
}
