//! Pods with a user namespace of their own: `hostUsers: false` in a manifest.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tonic::{Code, Request};

use crate::lab::{Lab, lab, security, shell};
use crate::restart::over_a_restart;

/// As kubelet sends it for a pod of the second range.
const FIRST: u32 = 131_072;

fn mapping(host_id: u32) -> proto::IdMapping {
    proto::IdMapping { host_id, container_id: 0, length: 65_536 }
}

fn own() -> proto::UserNamespace {
    proto::UserNamespace {
        mode: proto::NamespaceMode::Pod.into(),
        uids: vec![mapping(FIRST)],
        gids: vec![mapping(FIRST)],
    }
}

fn options(config: &mut proto::PodSandboxConfig) -> &mut proto::NamespaceOption {
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap()
}

fn pod_config(lab: &Lab, name: &str) -> proto::PodSandboxConfig {
    let mut config = lab.pod_config(name);
    options(&mut config).userns_options = Some(own());
    config
}

/// As kubelet sends the containers of such a pod.
fn container(name: &str, line: &str) -> proto::ContainerConfig {
    let mut config = shell(name, line);
    security(&mut config).namespace_options.as_mut().unwrap().userns_options = Some(own());
    config
}

fn volume(host: &Path, container: &str) -> proto::Mount {
    proto::Mount {
        host_path: host.to_string_lossy().into_owned(),
        container_path: container.into(),
        uid_mappings: own().uids,
        gid_mappings: own().gids,
        ..Default::default()
    }
}

#[tokio::test]
async fn the_root_of_a_pod_is_another_user_of_the_host() {
    let lab = lab!();
    let pod = lab.run_pod(pod_config(&lab, "mapped")).await.unwrap();
    let id = lab.run(&pod, container("app", "echo started; echo again > /proc/self/fd/1; sleep 100")).await;
    let text = lab.sh(&id, "cat /proc/self/uid_map /proc/self/gid_map").await;
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "131072", "65536", "0", "131072", "65536"]);
    // The image's files, its volume, the pod's files, what the runtime mounts.
    let places = "/ /bin/busybox /data /data/given /etc/hosts /etc/resolv.conf /etc/hostname /dev /dev/null \
                  /dev/pts /dev/shm /dev/mqueue";
    assert_eq!(lab.sh(&id, &format!("stat -c %u:%g {places}")).await, "0:0\n".repeat(12));
    assert_eq!(
        lab.sh(&id, "echo x > /data/x; echo y > /y; cat /data/given; cat /y").await,
        "by the imagey\n"
    );
    lab.sh(&id, "echo 127.0.0.9 own >> /etc/hosts; touch /dev/shm/s /dev/mqueue/q; ls /sys/class/net/lo")
        .await;
    assert!(lab.sh(&id, "touch /sys/x 2>&1 || true").await.contains("Read-only"));
    let status = lab.info(&id).await;
    let process = std::fs::metadata(format!("/proc/{}", status["pid"])).unwrap();
    assert_eq!((process.uid(), process.gid()), (FIRST, FIRST));
    let upper = Path::new(status["upper"].as_str().unwrap()).to_owned();
    assert_eq!(std::fs::metadata(upper.join("y")).unwrap().uid(), FIRST);
    assert!(lab.log("app").contains("started") && lab.log("app").contains("again"), "{}", lab.log("app"));
    let response = lab.pod_status(&pod).await;
    let options = response.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.userns_options, Some(own()));
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_volume_that_is_to_propagate_to_the_host_is_refused_when_the_container_is_created() {
    let lab = lab!();
    let pod = lab.run_pod(pod_config(&lab, "propagates")).await.unwrap();
    let mut config = container("app", "true");
    let bidirectional = proto::MountPropagation::PropagationBidirectional.into();
    let host = lab.dir.path().join("volume");
    config.mounts =
        vec![volume(&host, "/plain"), proto::Mount { propagation: bidirectional, ..volume(&host, "/both") }];
    let refused = lab.create(&pod, config).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("config.mounts[1].propagation"), "{refused}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn volumes_of_a_pod_with_a_user_namespace() {
    let lab = lab!();
    let pod = lab.run_pod(pod_config(&lab, "volumes")).await.unwrap();
    let host = lab.dir.path().join("volume");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("secret"), "of root").unwrap();
    std::fs::set_permissions(host.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    let mut config = container("app", "sleep 100");
    let plain = proto::Mount { uid_mappings: vec![], gid_mappings: vec![], ..volume(&host, "/plain") };
    config.mounts = vec![
        volume(&host, "/mapped"),
        proto::Mount { readonly: true, ..volume(&host, "/sealed") },
        proto::Mount { readonly: true, recursive_read_only: true, ..volume(&host, "/all-sealed") },
        plain,
        volume(&lab.dir.path().join("made"), "/made"),
    ];
    let id = lab.run(&pod, config).await;
    assert_eq!(
        lab.sh(&id, "cat /mapped/secret /sealed/secret /all-sealed/secret").await,
        "of root".repeat(3)
    );
    assert_eq!(lab.sh(&id, "touch /mapped/x /made/x; stat -c %u:%g /mapped/x /made").await, "0:0\n0:0\n");
    assert_eq!(std::fs::metadata(host.join("x")).unwrap().uid(), 0, "as without a user namespace");
    // Without mappings the files are the host's, and the pod's root is no one to them.
    let refused = "for f in 'cat /plain/secret' 'touch /plain/y' 'touch /sealed/y' 'touch /all-sealed/y'; \
                   do $f 2>/dev/null && echo \"$f\"; done; stat -c %u:%g /plain/secret";
    assert_eq!(lab.sh(&id, refused).await, "65534:65534\n");
    let mounts = lab.status(&id).await.unwrap().mounts;
    assert_eq!((mounts[0].uid_mappings.clone(), mounts[3].gid_mappings.len()), (own().uids, 0));
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn an_image_as_a_volume_has_the_owners_that_it_has_without_a_user_namespace() {
    let lab = lab!();
    let pod = lab.run_pod(pod_config(&lab, "images")).await.unwrap();
    let image = |place: &str, sub_path: &str| proto::Mount {
        container_path: place.into(),
        readonly: true,
        image: Some(proto::ImageSpec { image: crate::lab::IMAGE.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        uid_mappings: own().uids,
        gid_mappings: own().gids,
        ..Default::default()
    };
    let mut config = container("app", "sleep 100");
    config.mounts = vec![image("/whole", ""), image("/part", "data")];
    let id = lab.run(&pod, config).await;
    let line = "cat /part/given; stat -c %u:%g /whole/bin/busybox /part /part/given; touch /part/x 2>/dev/null || echo sealed";
    assert_eq!(lab.sh(&id, line).await, "by the image0:0\n0:0\n0:0\nsealed\n");
    lab.remove_pod(&pod).await;
}

/// RuntimeFeatures.user_namespaces_host_network: its network is the host's, over which it has no rights.
#[tokio::test]
async fn a_pod_with_a_user_namespace_may_be_in_the_network_of_the_host() {
    let lab = lab!();
    let mut config = pod_config(&lab, "host-network");
    options(&mut config).network = proto::NamespaceMode::Node.into();
    let pod = lab.run_pod(config).await.unwrap();
    let id = lab.run(&pod, container("app", "sleep 100")).await;
    let network = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(lab.sh(&id, "readlink /proc/self/ns/net").await.trim(), network.to_str().unwrap());
    let attacks = "for f in net/ipv4/ip_forward net/core/somaxconn; \
        do echo 1 2>/dev/null > /proc/sys/$f && echo $f; done; ls /sys/class/net/lo > /dev/null && echo done";
    assert_eq!(lab.sh(&id, attacks).await, "done\n");
    lab.remove_pod(&pod).await;
}

/// The attack: a privileged container, which may all that its user namespace allows.
#[tokio::test]
async fn a_privileged_container_in_a_user_namespace_does_nothing_to_the_host() {
    let lab = lab!();
    let mut config = pod_config(&lab, "strong");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let pod = lab.run_pod(config).await.unwrap();
    let host = lab.dir.path().join("volume");
    std::fs::create_dir(&host).unwrap();
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut config = container("app", "sleep 100");
    security(&mut config).privileged = true;
    let sealed = proto::Mount { readonly: true, ..volume(&host, "/sealed") };
    config.mounts = vec![volume(&host, "/mapped"), sealed];
    let id = lab.run(&pod, config).await;
    let attacks = "for f in 'mknod /mapped/sda b 8 0' 'mount -o remount,bind,rw /sealed' 'chown 65536 /mapped' \
        'dd if=/dev/mem of=/x count=1' 'dd if=/dev/vda of=/x count=1' 'touch /sealed/x' \
        'chown 65536:65536 /bin/busybox' 'kill -0 -1000000'; do $f 2>/dev/null && echo \"$f\"; done; \
        for f in kernel/core_pattern kernel/modprobe vm/drop_caches fs/file-max; \
        do echo 3 2>/dev/null > /proc/sys/$f && echo $f; done; echo done";
    assert_eq!(lab.sh(&id, attacks).await, "done\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    // What belongs to its own namespaces it may change.
    assert_eq!(lab.sh(&id, "mount -t tmpfs none /tmp && touch /tmp/x && echo done").await, "done\n");
    assert_eq!(lab.sh(&id, "echo x > /dev/null; stat -c %a:%u /dev/null").await, "666:0\n");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn what_cannot_be_mapped_is_refused_by_name() {
    let lab = lab!();
    let field = "linux.security_context.namespace_options.";
    let refused = async |change: fn(&mut proto::NamespaceOption)| {
        let mut config = pod_config(&lab, "refused");
        change(options(&mut config));
        let error = lab.run_pod(config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        error.message().to_owned()
    };
    let two = |o: &mut proto::NamespaceOption| {
        o.userns_options.as_mut().unwrap().uids = vec![mapping(1000), mapping(2000)];
    };
    let no_root = |o: &mut proto::NamespaceOption| {
        o.userns_options.as_mut().unwrap().gids[0].container_id = 1;
    };
    let empty = |o: &mut proto::NamespaceOption| o.userns_options.as_mut().unwrap().uids.clear();
    let long = |o: &mut proto::NamespaceOption| o.userns_options.as_mut().unwrap().uids[0].length = u32::MAX;
    let target = |o: &mut proto::NamespaceOption| o.userns_options.as_mut().unwrap().mode = 3;
    let node = |o: &mut proto::NamespaceOption| o.userns_options.as_mut().unwrap().mode = 2;
    let ipc = |o: &mut proto::NamespaceOption| o.ipc = proto::NamespaceMode::Node.into();
    let pid = |o: &mut proto::NamespaceOption| o.pid = proto::NamespaceMode::Node.into();
    for (message, expected) in [
        (refused(two).await, "userns_options.uids[1]: it overlaps"),
        (refused(no_root).await, "userns_options.gids: the container's root, id 0, is not mapped"),
        (refused(empty).await, "userns_options.uids: empty"),
        (refused(long).await, "userns_options.uids[0]: it goes beyond"),
        (refused(target).await, "userns_options.mode: TARGET is not possible"),
        (refused(node).await, "userns_options.uids: given with mode NODE"),
        (refused(ipc).await, "ipc: NODE cannot be used with a user namespace"),
        (refused(pid).await, "pid: NODE cannot be used with a user namespace"),
    ] {
        assert!(message.contains(&format!("{field}{expected}")), "{message}");
    }
}

#[tokio::test]
async fn containers_have_the_user_namespace_of_their_pod() {
    let lab = lab!();
    let pod = lab.run_pod(pod_config(&lab, "mapped")).await.unwrap();
    let plain = lab.pod("plain").await;
    let field = "config.linux.security_context.namespace_options.userns_options: it is not that of the pod";
    let mut other = container("other", "true");
    let namespaces = security(&mut other).namespace_options.as_mut().unwrap();
    namespaces.userns_options.as_mut().unwrap().uids[0].host_id += 1;
    let mut host = container("host", "true");
    let namespaces = security(&mut host).namespace_options.as_mut().unwrap();
    namespaces.userns_options = Some(proto::UserNamespace { mode: 2, ..Default::default() });
    for (pod, config) in [(&pod, other), (&pod, host.clone()), (&plain, container("own", "true"))] {
        let error = lab.create(pod, config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().starts_with(field), "{error}");
    }
    assert!(lab.create(&plain, host).await.is_ok());
    let mut config = container("unmapped", "true");
    security(&mut config).run_as_user = Some(proto::Int64Value { value: 65_536 });
    let error = lab.create(&pod, config).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("user 65536 of the container's process is not mapped"), "{error}");
    let mut config = container("unmappable", "true");
    config.mounts = vec![volume(Path::new("/proc/sys"), "/x")];
    let id = lab.create(&pod, config).await.unwrap();
    let error = lab.start(&id).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("\"/proc/sys\": map the ids of its owners"), "{error}");
    assert!(error.message().contains("hostUsers: true"), "{error}");
    lab.remove_pod(&pod).await;
    lab.remove_pod(&plain).await;
}

#[tokio::test]
async fn a_shared_pid_namespace_and_a_user_of_the_image() {
    let lab = lab!();
    let mut config = pod_config(&lab, "shared");
    options(&mut config).pid = proto::NamespaceMode::Pod.into();
    let pod = lab.run_pod(config).await.unwrap();
    let mut config = container("app", "echo again > /dev/stdout; touch /home/x; sleep 100");
    security(&mut config).namespace_options.as_mut().unwrap().pid = proto::NamespaceMode::Pod.into();
    security(&mut config).run_as_username = "ann".into();
    let id = lab.run(&pod, config).await;
    assert_eq!(lab.sh(&id, "id -u; id -G").await, "1000\n1000 50\n");
    let ps = lab.sh(&id, "ps -o pid,user,comm").await;
    assert!(ps.lines().any(|line| line.split_whitespace().eq(["1", "65535", "pod-init"])), "{ps}");
    assert_eq!(lab.sh(&id, "echo x > /proc/self/fd/1").await, "x\n");
    lab.until_log("app", "again").await;
    lab.remove_pod(&pod).await;
}

#[test]
fn a_restarted_server_starts_more_in_the_same_namespace() {
    over_a_restart(
        async |lab| {
            let pod = lab.run_pod(pod_config(lab, "restart")).await.unwrap();
            let first = lab.run(&pod, container("first", "sleep 1000")).await;
            let link = lab.sh(&first, "readlink /proc/self/ns/user").await;
            (pod, link)
        },
        async |lab, (pod, link)| {
            let second = lab.run(&pod, container("second", "sleep 1000")).await;
            assert_eq!(lab.sh(&second, "readlink /proc/self/ns/user").await, link);
            assert_eq!(lab.sh(&second, "touch /x; stat -c %u /x /data/given").await, "0\n0\n");
            lab.remove_pod(&pod).await;
        },
    );
}

#[tokio::test]
async fn status_says_that_user_namespaces_can_be_had() {
    let lab = lab!();
    let request = proto::StatusRequest { verbose: true };
    let status = lab.service.status(Request::new(request)).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
    assert_eq!(info["userNamespaces"], "yes");
    assert_eq!(status.runtime_handlers.len(), 2);
    for handler in status.runtime_handlers {
        let features = handler.features.unwrap();
        assert!(features.user_namespaces && features.recursive_read_only_mounts, "{}", handler.name);
    }
}
