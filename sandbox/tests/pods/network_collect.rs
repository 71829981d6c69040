//! Networks of pods that are no more, while the server runs.

use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_executor::ids::PodId;
use crisp_operation::Cancel;
use crisp_sandbox::network::{AttachRequest, DnsSettings, NetworkConfig, NetworkKind, Networks, PodNetlink};
use crisp_sandbox::{NetworkMode, PodConfig};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::lab::{Folder, Lab, config, network, open_with};

/// A network whose plugin notes its calls; ADD takes some time.
fn noting(folder: &Path) -> NetworkConfig {
    let (conf, bin) = (folder.join("net.d"), folder.join("bin"));
    fs::create_dir(&conf).unwrap();
    fs::create_dir(&bin).unwrap();
    let list = r#"{"cniVersion":"1.1.0","name":"noted","plugins":[{"type":"noting"}]}"#;
    fs::write(conf.join("10.conflist"), list).unwrap();
    let script = format!(
        r#"#!/bin/sh
cat >/dev/null
[ $CNI_COMMAND != VERSION ] || {{ echo '{{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}}'; exit; }}
[ $CNI_COMMAND != ADD ] || sleep 0.5
echo "$CNI_COMMAND $CNI_CONTAINERID" >>{0}/calls
echo '{{"cniVersion":"1.1.0","ips":[{{"address":"10.9.0.7/24"}}]}}'
"#,
        folder.display()
    );
    fs::write(bin.join("noting"), script).unwrap();
    fs::set_permissions(bin.join("noting"), fs::Permissions::from_mode(0o755)).unwrap();
    NetworkConfig {
        kind: NetworkKind::Cni,
        cni_conf_dir: conf,
        cni_bin_dirs: vec![bin],
        cni_cache_dir: folder.join("cache"),
        cni_gc: true,
        collect_interval: Duration::from_millis(100),
        ..network(folder)
    }
}

/// Attaches a pod that no table and no folder has. The plugin does nothing in its namespace.
async fn attach_unknown(networks: &Networks) -> PodId {
    let pod = PodId::random();
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    let request = AttachRequest {
        pod: pod.clone(),
        name: "web".to_owned(),
        namespace: "default".to_owned(),
        uid: "uid-1".to_owned(),
        netlink: PodNetlink::new(socket),
        netns: Arc::new(File::open("/proc/self/ns/net").unwrap().into()),
        port_mappings: Vec::new(),
        annotations: Default::default(),
        dns: DnsSettings::default(),
        cgroup: None,
        cancel: Cancel::new(),
    };
    networks.attach(request).await.unwrap();
    pod
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_without_a_pod_is_given_back_while_the_server_runs_and_no_other() {
    crisp_skip::needs!();
    let folder = Folder::new();
    let pods = open_with(folder.path(), &noting(folder.path())).await;
    let lab = Lab { folder, pods };
    // Longer in the making than the pause between two searches.
    let request = PodConfig { network: NetworkMode::Pod, ..config(lab.folder.path(), "stays") };
    let pod = lab.pod(request).await;
    let unknown = attach_unknown(lab.pods.networks()).await;
    assert!(lab.pods.networks().recorded().contains(&unknown));
    let late = Instant::now() + Duration::from_secs(10);
    while lab.pods.networks().recorded().contains(&unknown) {
        assert!(Instant::now() < late, "the network of a pod that is no more stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let calls = || fs::read_to_string(lab.folder.path().join("calls")).unwrap();
    assert!(calls().contains(&format!("DEL {unknown}")), "{}", calls());
    while !calls().lines().last().is_some_and(|line| line.starts_with("GC")) {
        assert!(Instant::now() < late, "{}", calls());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!calls().contains(&format!("DEL {}", pod.id)), "{}", calls());
    assert_eq!(lab.pods.networks().recorded(), std::slice::from_ref(&pod.id));
    lab.clear().await;
}
