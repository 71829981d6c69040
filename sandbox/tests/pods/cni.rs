//! Pods on a CNI network whose plugin is a script that notes its calls.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use crisp_sandbox::network::{NetworkConfig, NetworkKind, PortMapping, Protocol};
use crisp_sandbox::{NetworkMode, PodConfig, PodState};

use crate::lab::{Folder, Lab, config, network, open_with};

/// A network of one plugin, whose DEL fails while the file `broken` is there, also if only as long as there is a
/// namespace while `half` is, and ADD while `full` is. A DEL that succeeds makes the file `freed`.
fn scripted(folder: &Path) -> NetworkConfig {
    let (conf, bin) = (folder.join("net.d"), folder.join("bin"));
    fs::create_dir(&conf).unwrap();
    fs::create_dir(&bin).unwrap();
    let list = r#"{"cniVersion":"1.0.0","name":"scripted","plugins":[{"type":"noting"}]}"#;
    fs::write(conf.join("10.conflist"), list).unwrap();
    let script = format!(
        r#"#!/bin/sh
cat >/dev/null
[ $CNI_COMMAND != VERSION ] || {{ echo '{{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}}'; exit; }}
echo $CNI_COMMAND >>{0}/calls
[ $CNI_COMMAND != DEL ] || [ ! -e {0}/broken ] || {{ echo '{{"code":7,"msg":"no cable"}}'; exit 1; }}
[ $CNI_COMMAND != DEL ] || [ ! -e {0}/half ] || [ ! -e "$CNI_NETNS" ] || {{ echo '{{"code":7,"msg":"no cable"}}'; exit 1; }}
[ $CNI_COMMAND != DEL ] || touch {0}/freed
[ $CNI_COMMAND != ADD ] || [ ! -e {0}/full ] || {{ echo '{{"code":7,"msg":"no room"}}'; exit 1; }}
echo '{{"cniVersion":"1.0.0","ips":[{{"address":"10.9.0.7/24"}}]}}'
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
        ..network(folder)
    }
}

#[tokio::test]
async fn the_removal_of_a_stopped_pod_calls_del_again_for_what_is_left() {
    crisp_skip::needs!();
    let folder = Folder::new();
    let pods = open_with(folder.path(), &scripted(folder.path())).await;
    let lab = Lab { folder, pods };
    let calls = || fs::read_to_string(lab.folder.path().join("calls")).unwrap();
    let broken = lab.folder.path().join("broken");
    fs::write(&broken, "").unwrap();
    let request = PodConfig { network: NetworkMode::Pod, ..config(lab.folder.path(), "left") };
    let pod = lab.pod(request).await;
    // The plugin fails until the pod does not wait for it any longer.
    let mut failures = 0;
    while let Err(error) = lab.pods.stop(&pod.id).await {
        assert!(error.to_string().contains("no cable"), "{error}");
        failures += 1;
        assert!(failures < 10, "{error}");
    }
    assert_eq!(pod.status().state, PodState::Stopped);
    assert_eq!(lab.pods.networks().recorded(), from_ref(&pod.id));
    let before = calls();
    assert_eq!(before.lines().next(), Some("ADD"), "{before}");
    fs::remove_file(&broken).unwrap();
    lab.pods.remove(&pod.id).await.unwrap();
    assert_eq!(calls(), format!("{before}DEL\n"));
    assert_eq!(lab.pods.networks().recorded(), []);
    lab.assert_empty();
}

#[tokio::test]
async fn a_pod_that_cannot_be_detached_after_a_failed_start_keeps_its_record_and_port_until_it_is_removed() {
    crisp_skip::needs!();
    let folder = Folder::new();
    let network = scripted(folder.path());
    let pods = open_with(folder.path(), &network).await;
    let mut lab = Lab { folder, pods };
    let file = |name: &str| lab.folder.path().join(name);
    let (broken, full) = (file("broken"), file("full"));
    let host_port = std::net::UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port();
    let port = PortMapping { protocol: Protocol::Udp, container_port: 53, host_port, host_ip: None };
    let request = |name| PodConfig {
        network: NetworkMode::Pod,
        port_mappings: vec![port.clone()],
        ..config(lab.folder.path(), name)
    };
    let (stuck, other) = (request("stuck"), request("other"));
    fs::write(&broken, "").unwrap();
    fs::write(&full, "").unwrap();
    let error = lab.pods.run(stuck.clone()).await.unwrap_err().to_string();
    assert!(error.contains("no room") && error.contains("undoing it failed too"), "{error}");
    assert!(error.contains("no cable"), "{error}");
    fs::remove_file(&full).unwrap();
    // By this server and by the next one.
    for _ in 0..2 {
        let pods = lab.pods.list();
        let [pod] = &pods[..] else { panic!("{pods:?} are listed") };
        assert!(pod.status().state != PodState::Ready, "{pod:?}");
        assert_eq!(lab.pods.networks().recorded(), from_ref(&pod.id));
        let error = lab.pods.run(other.clone()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("host port {host_port}/udp is already in use by pod")), "{error}");
        assert_eq!(lab.pods.list().len(), 1, "the other pod is undone");
        // The server before has ended, and closed its sockets.
        drop(lab.pods);
        lab.pods = open_with(lab.folder.path(), &network).await;
    }
    fs::remove_file(&broken).unwrap();
    let id = lab.pods.list()[0].id.clone();
    let calls = || fs::read_to_string(lab.folder.path().join("calls")).unwrap();
    let before = calls();
    lab.pods.remove(&id).await.unwrap();
    assert_eq!(calls(), format!("{before}DEL\n"));
    assert_eq!(lab.pods.networks().recorded(), []);
    lab.pods.run(other).await.unwrap();
    lab.clear().await;
}

#[tokio::test]
async fn the_address_of_a_pod_is_not_freed_while_another_has_its_namespace() {
    crisp_skip::needs!();
    let folder = Folder::new();
    let pods = open_with(folder.path(), &scripted(folder.path())).await;
    let lab = Lab { folder, pods };
    let file = |name: &str| lab.folder.path().join(name);
    fs::write(file("half"), "").unwrap();
    let named = |name, network| PodConfig { network, ..config(lab.folder.path(), name) };
    let owner = lab.pod(named("owner", NetworkMode::Pod)).await;
    let joiner = lab.pod(named("joiner", NetworkMode::Joined(owner.id.clone()))).await;
    let mut failures = 0;
    while let Err(error) = lab.pods.stop(&owner.id).await {
        assert!(error.to_string().contains("no cable"), "{error}");
        failures += 1;
        assert!(failures < 10, "{error}");
    }
    assert_eq!((owner.status().state.clone(), failures), (PodState::Stopped, 2));
    assert!(!file("freed").exists());
    assert_eq!(lab.pods.networks().recorded(), from_ref(&owner.id));
    // The tries of the server itself do not free it either.
    lab.pods.networks().give_back(vec![owner.id.clone()]).await.unwrap();
    assert!(!file("freed").exists());
    lab.pods.remove(&joiner.id).await.unwrap();
    lab.pods.remove(&owner.id).await.unwrap();
    assert!(file("freed").exists());
    assert_eq!(lab.pods.networks().recorded(), []);
    lab.assert_empty();
}

#[tokio::test]
async fn pods_are_checked_again_and_again_where_that_is_set_and_not_elsewhere() {
    crisp_skip::needs!();
    for interval in [Some(Duration::from_millis(100)), None] {
        let folder = Folder::new();
        let network = NetworkConfig { cni_check_interval: interval, ..scripted(folder.path()) };
        let pods = open_with(folder.path(), &network).await;
        let lab = Lab { folder, pods };
        let checks = || {
            let calls = fs::read_to_string(lab.folder.path().join("calls")).unwrap_or_default();
            calls.lines().filter(|call| *call == "CHECK").count()
        };
        let pod =
            lab.pod(PodConfig { network: NetworkMode::Pod, ..config(lab.folder.path(), "checked") }).await;
        match interval {
            Some(_) => {
                let begun = Instant::now();
                while checks() < 3 {
                    assert!(begun.elapsed() < Duration::from_secs(60), "{} calls of CHECK", checks());
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            None => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(checks(), 0);
            }
        }
        lab.pods.remove(&pod.id).await.unwrap();
        // A check that was under way may end.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = checks();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(checks(), before, "a pod that is gone is not checked");
        lab.assert_empty();
    }
}
