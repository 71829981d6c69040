//! The DNS settings in the result of a CNI plugin.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crisp_sandbox::network::{NetworkConfig, NetworkKind};
use crisp_sandbox::{Dns, NetworkMode, PodConfig};

use crate::lab::{Folder, Lab, config, network, open_with};

fn with_dns(folder: &Path) -> NetworkConfig {
    let (conf, bin) = (folder.join("net.d"), folder.join("bin"));
    fs::create_dir(&conf).unwrap();
    fs::create_dir(&bin).unwrap();
    let list = r#"{"cniVersion":"1.0.0","name":"named","plugins":[{"type":"naming"}]}"#;
    fs::write(conf.join("10.conflist"), list).unwrap();
    let script = r#"#!/bin/sh
cat >/dev/null
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.7/24"}],
  "dns":{"nameservers":["10.9.0.1","fd09::1"],"search":["lan.example"],"options":["ndots:2"]}}'
"#;
    fs::write(bin.join("naming"), script).unwrap();
    fs::set_permissions(bin.join("naming"), fs::Permissions::from_mode(0o755)).unwrap();
    NetworkConfig {
        kind: NetworkKind::Cni,
        cni_conf_dir: conf,
        cni_bin_dirs: vec![bin],
        cni_cache_dir: folder.join("cache"),
        ..network(folder)
    }
}

#[tokio::test]
async fn a_pod_without_dns_settings_gets_those_of_its_cni_network() {
    crisp_skip::needs!();
    let folder = Folder::new();
    let pods = open_with(folder.path(), &with_dns(folder.path())).await;
    let lab = Lab { folder, pods };
    let resolv_conf = async |name: &str, dns: Dns| {
        let request = PodConfig { network: NetworkMode::Pod, dns, ..config(lab.folder.path(), name) };
        fs::read_to_string(lab.pod(request).await.files().resolv_conf).unwrap()
    };
    assert_eq!(
        resolv_conf("without", Dns::default()).await,
        "search lan.example\nnameserver 10.9.0.1\nnameserver fd09::1\noptions ndots:2\n"
    );
    let own = Dns { servers: vec!["192.0.2.53".to_owned()], ..Dns::default() };
    assert_eq!(resolv_conf("with", own).await, "nameserver 192.0.2.53\n");
    let options = Dns { options: vec!["rotate".to_owned()], ..Dns::default() };
    assert_eq!(
        resolv_conf("options", options).await,
        "nameserver 10.9.0.1\nnameserver fd09::1\noptions rotate\n"
    );
    lab.clear().await;
}
