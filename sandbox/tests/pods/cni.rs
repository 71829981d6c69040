//! Pods on a CNI network whose plugin is a script that notes its calls.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::slice::from_ref;

use crisp_sandbox::network::{NetworkConfig, NetworkKind};
use crisp_sandbox::{NetworkMode, PodConfig, PodState};

use crate::lab::{Folder, Lab, config, network, open_with};

/// A network of one plugin, whose DEL fails while the file `broken` is there.
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
