//! Devices that vendors describe in CDI specs.

use std::path::Path;

use crisp_proto::runtime::v1 as proto;
use tonic::Code;

use crate::lab::{Lab, lab, shell};
use crate::restart::over_a_restart;

const SPEC: &str = r#"{
    "cdiVersion": "0.8.0", "kind": "vendor.test/gpu",
    "containerEdits": {"env": ["DRIVER=1"], "additionalGids": [44]},
    "devices": [
        {"name": "0", "containerEdits": {
            "env": ["CARD=0", "FROM=cdi"],
            "deviceNodes": [{"path": "/dev/card0", "hostPath": "/dev/zero"},
                            {"path": "/dev/card1", "hostPath": "/dev/kmsg", "permissions": "w"}],
            "mounts": [{"hostPath": "HOST", "containerPath": "/opt/card", "options": ["ro", "nosuid"]}]
        }},
        {"name": "limited", "containerEdits": {"intelRdt": {"closID": "a"}}},
        {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "true"}]}}
    ]}"#;

fn write_spec(lab: &Lab) {
    let (folder, host) = (lab.dir.path().join("cdi"), lab.dir.path().join("card"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("library"), "of the vendor").unwrap();
    std::fs::write(folder.join("vendor.json"), SPEC.replace("HOST", host.to_str().unwrap())).unwrap();
}

fn with(devices: &[&str]) -> proto::ContainerConfig {
    let devices = devices.iter().map(|name| proto::CdiDevice { name: (*name).to_owned() });
    proto::ContainerConfig { cdi_devices: devices.collect(), ..shell("app", "sleep 1000") }
}

const LINE: &str = "echo $DRIVER $CARD $FROM; cat /opt/card/library; dd if=/dev/card0 of=/x bs=1 count=2 2>&1 | head -n 1; id -G; \
    touch /opt/card/x 2>/dev/null || echo sealed; true > /dev/card1 && echo opened; true 2>/dev/null < /dev/card1 || echo to write";
const SEEN: &str = "1 0 cdi\nof the vendor2+0 records in\n0 44\nsealed\nopened\nto write\n";

#[tokio::test]
async fn a_device_of_the_request_or_of_an_annotation_brings_all_its_parts() {
    let lab = lab!();
    write_spec(&lab);
    let pod = lab.pod("devices").await;
    let mut by_annotation = with(&[]);
    by_annotation.metadata.as_mut().unwrap().name = "annotated".into();
    by_annotation.annotations.insert("cdi.k8s.io/plugin_1".into(), "vendor.test/gpu=0".into());
    for config in [with(&["vendor.test/gpu=0", "vendor.test/gpu=0"]), by_annotation] {
        let id = lab.run(&pod, config).await;
        assert_eq!(lab.sh(&id, LINE).await, SEEN);
    }
    let id = lab.run(&pod, proto::ContainerConfig { ..shell("plain", "sleep 1000") }).await;
    assert_eq!(lab.sh(&id, "ls /dev/card0 2>/dev/null; id -G").await, "0\n");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name() {
    let lab = lab!();
    write_spec(&lab);
    let pod = lab.pod("refused").await;
    for (name, code, why) in [
        ("vendor.test/gpu=1", Code::FailedPrecondition, "has the device vendor.test/gpu=1"),
        ("vendor.test/gpu=limited", Code::Unimplemented, "intelRdt is not supported"),
        (
            "vendor.test/gpu=hooked",
            Code::FailedPrecondition,
            "vendor.json: hooks[0].path: it is not an absolute path",
        ),
        ("gpu", Code::InvalidArgument, "config.CDI_devices[0].name: \"gpu\" is not the name"),
    ] {
        let error = lab.create(&pod, with(&[name])).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(why), "{error}");
    }
    let mut config = with(&[]);
    config.annotations.insert("cdi.k8s.io/x".into(), "y".into());
    let error = lab.create(&pod, config).await.unwrap_err();
    assert!(error.message().starts_with("config.annotations[\"cdi.k8s.io/x\"]: \"y\" is not"), "{error}");
    lab.remove_pod(&pod).await;
}

#[test]
fn a_created_container_keeps_its_devices_when_their_spec_is_gone() {
    over_a_restart(
        async |lab| {
            write_spec(lab);
            let pod = lab.pod("restart").await;
            let id = lab.create(&pod, with(&["vendor.test/gpu=0"])).await.unwrap();
            std::fs::remove_file(lab.dir.path().join(Path::new("cdi/vendor.json"))).unwrap();
            (pod, id)
        },
        async |lab, (pod, id)| {
            lab.start(&id).await.unwrap();
            assert_eq!(lab.sh(&id, LINE).await, SEEN);
            lab.remove_pod(&pod).await;
        },
    );
}
