//! Gateway, range and reserved addresses of a named network.

use crisp_sandbox::network::{Addresses, ManageError, NewNetwork};

use crate::named::{join, new, open};
use crate::support::{Namespace, ask_from, block_on, on_private_host, outside, tell_callers_who_they_are};

#[test]
fn pods_get_addresses_of_the_range_and_leave_by_the_requested_gateway() {
    let name = "pods_get_addresses_of_the_range_and_leave_by_the_requested_gateway";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        tell_callers_who_they_are(&outside, 80);
        let networks = open(dir.path());
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        let addresses = Addresses {
            gateway: Some("10.1.1.254".parse().unwrap()),
            range: Some("10.1.1.8/30".parse().unwrap()),
            reserved: vec!["10.1.1.9".parse().unwrap()],
        };
        let lan = NewNetwork { addresses, ..new("lan", &["10.1.1.0/24", "fd01::/64"]) };
        block_on(async {
            let without_subnet = NewNetwork { subnets: vec![], ..lan.clone() };
            let refused = networks.create(without_subnet).await.unwrap_err();
            assert!(matches!(refused, ManageError::Invalid { field: "subnet", .. }), "{refused}");
            networks.create(lan.clone()).await.unwrap();
            assert_eq!(join(&a, &networks, "lan@eth0").await, ["10.1.1.8", "fd01::8"]);
            assert_eq!(join(&b, &networks, "lan@eth0").await, ["10.1.1.10", "fd01::a"]);
            assert!(a.sh("ip route").contains("default via 10.1.1.254 "));
            assert_eq!(ask_from(&a, "192.0.2.2:80").unwrap(), "192.0.2.1", "masqueraded to the outside");
        });
        // The next server knows all of it.
        drop(networks);
        let networks = open(dir.path());
        block_on(async {
            assert_eq!(join(&c, &networks, "lan@eth0").await, ["10.1.1.11", "fd01::b"]);
            assert!(c.sh("ip route").contains("default via 10.1.1.254 "));
            let listed = networks.list().await.unwrap();
            let listed = listed.iter().find(|network| network.name == "lan").unwrap();
            assert_eq!(listed.addresses, lan.addresses);
            for pod in [&a, &b, &c] {
                networks.detach(&pod.id).await.unwrap();
            }
        });
    });
}
