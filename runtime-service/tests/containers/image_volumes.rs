//! Images as volumes, and the options of mounts.

use crisp_proto::runtime::v1 as proto;
use tonic::Code;

use crate::lab::{IMAGE, add_image_of, lab, layer, shell};
use crate::restart::over_a_restart;

/// As kubelet sends it: read-only, with the reference that the pull answered.
fn image(place: &str, sub_path: &str) -> proto::Mount {
    proto::Mount {
        container_path: place.into(),
        readonly: true,
        image: Some(spec(IMAGE)),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

fn spec(image: &str) -> proto::ImageSpec {
    proto::ImageSpec {
        image: image.into(),
        user_specified_image: "lab:1".into(),
        annotations: [("a".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    }
}

fn app(mounts: Vec<proto::Mount>) -> proto::ContainerConfig {
    proto::ContainerConfig { mounts, ..shell("app", "sleep 1000") }
}

#[tokio::test]
async fn an_image_or_a_part_of_it_is_a_volume() {
    let lab = lab!();
    let pod = lab.pod("images").await;
    let mounts = vec![image("/whole", ""), image("/part", "./data"), image("/etc/one", "etc/passwd")];
    let id = lab.run(&pod, app(mounts)).await;
    let read = "cat /whole/data/given /part/given; cat /etc/one; ls /part; ls /part/..| grep -c whole";
    let passwd = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/home:/bin/sh\n";
    assert_eq!(lab.sh(&id, read).await, format!("by the imageby the image{passwd}given\n1\n"));
    assert_eq!(lab.sh(&id, "/whole/bin/echo from a volume").await, "from a volume\n");
    let write = "for f in /whole/x /part/x /etc/one; do echo x 2>/dev/null > $f && echo $f; done; \
        mount -o remount,rw /whole 2>/dev/null && echo remounted; echo done";
    assert_eq!(lab.sh(&id, write).await, "done\n");
    let shown = lab.status(&id).await.unwrap().mounts;
    let found = shown[1].image.clone().unwrap();
    assert!(found.image_ref.contains("@sha256:"), "{found:?}");
    let requested = proto::ImageSpec { image_ref: String::new(), ..found };
    assert_eq!((requested, shown[1].image_sub_path.as_str()), (spec(IMAGE), "./data"));
    assert!(shown[0].readonly && shown[0].host_path.is_empty());
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn images_that_cannot_be_mounted_are_named_by_kubelets_word() {
    let lab = lab!();
    let pod = lab.pod("refused").await;
    let missing = proto::Mount { image: Some(spec("registry.test/none:1")), ..image("/x", "") };
    for (mount, code, why) in [
        (image("/x", "no/such"), Code::InvalidArgument, "\"no/such\" in the image"),
        (missing, Code::NotFound, "the image registry.test/none:1 for /x"),
    ] {
        let error = lab.create(&pod, app(vec![mount])).await.unwrap_err();
        assert!(error.message().starts_with("ImageVolumeMountFailed: "), "{error}");
        assert!(error.code() == code && error.message().contains(why), "{error}");
    }
    let folder = std::fs::read_dir(lab.dir.path().join("root/containers")).unwrap();
    assert_eq!(folder.count(), 0, "nothing is left");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn options_take_rights_from_the_files_of_a_mount() {
    let lab = lab!();
    let pod = lab.pod("options").await;
    let options = |mount: proto::Mount| proto::Mount {
        mount_options: ["noexec", "nodev", "nosuid"].map(str::to_owned).into(),
        ..mount
    };
    let host = proto::Mount {
        container_path: "/host".into(),
        host_path: lab.dir.path().to_str().unwrap().into(),
        ..Default::default()
    };
    let id = lab.run(&pod, app(vec![options(image("/sealed", "")), options(host)])).await;
    assert_eq!(lab.sh(&id, "/sealed/bin/echo ran 2>/dev/null; echo $?").await, "126\n");
    let table = lab.sh(&id, "cat /proc/self/mountinfo").await;
    for place in ["/sealed", "/host"] {
        let line = table.lines().find(|line| line.contains(&format!(" {place} "))).expect(place);
        let has = line.split(' ').nth(5).unwrap();
        assert!(["noexec", "nodev", "nosuid"].iter().all(|option| has.contains(option)), "{line}");
    }
    assert_eq!(lab.status(&id).await.unwrap().mounts[1].mount_options, ["noexec", "nodev", "nosuid"]);
    lab.remove_pod(&pod).await;
}

#[test]
fn a_restarted_server_still_has_the_layers() {
    over_a_restart(
        async |lab| {
            let pod = lab.pod("restart").await;
            let id = lab.create(&pod, app(vec![image("/part", "data")])).await.unwrap();
            (pod, id)
        },
        async |lab, (pod, id)| {
            lab.start(&id).await.unwrap();
            assert_eq!(lab.sh(&id, "cat /part/given").await, "by the image");
            lab.remove_pod(&pod).await;
        },
    );
}

/// An image's configuration may have eight million bytes.
#[tokio::test]
async fn an_image_with_too_many_volumes_or_variables_is_refused_by_name() {
    let lab = lab!();
    let pod = lab.pod("absurd").await;
    let volumes: Vec<String> = (0..100_000).map(|number| format!("\"/{number}\":{{}}")).collect();
    let variables: Vec<String> = (0..500_000).map(|number| format!("\"a{number}=\"")).collect();
    for (name, config, part) in [
        ("volumes", format!("\"Volumes\":{{{}}}", volumes.join(",")), "names 100000 volumes"),
        ("variables", format!("\"Env\":[{}]", variables.join(",")), "environment variables of the image"),
    ] {
        let reference = format!("registry.test/{name}:1");
        add_image_of(&lab.images, &reference, &[layer()], &config);
        let mut config = shell(name, "true");
        config.image.as_mut().unwrap().image = reference;
        let error = lab.create(&pod, config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{name}: {error}");
        assert!(error.message().contains(part), "{name}: {error}");
    }
    let left = std::fs::read_dir(lab.dir.path().join("root/containers")).unwrap().count();
    assert_eq!(left, 0, "a refused container has left a folder");
    lab.remove_pod(&pod).await;
}
