//! Users and capabilities of processes.

use crisp_proto::runtime::v1 as proto;
use tonic::Code;

use crate::lab::{Lab, lab, resources, security, shell};

#[tokio::test]
async fn users_and_groups_are_the_images() {
    let lab = lab!();
    let pod = lab.pod("users").await;
    let mut config = shell("app", "id -u; id -G; cat /proc/self/status | grep Cap; sleep 100");
    security(&mut config).run_as_username = "ann".into();
    security(&mut config).supplemental_groups = vec![2000];
    let id = lab.run(&pod, config).await;
    assert_eq!(lab.sh(&id, "id -u").await, "1000\n");
    // The kernel keeps them sorted.
    assert_eq!(lab.sh(&id, "id -G").await, "1000 50 2000\n");
    let user = lab.status(&id).await.unwrap().user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1000, vec![1000, 2000, 50]));
    let mut config = shell("nobody", "true");
    security(&mut config).run_as_username = "bob".into();
    let error = lab.create(&pod, config).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("\"bob\""), "{error}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn capabilities_and_no_new_privileges() {
    let lab = lab!();
    let pod = lab.pod("caps").await;
    let mut config = shell("app", "sleep 100");
    security(&mut config).no_new_privs = true;
    security(&mut config).capabilities = Some(proto::Capability {
        drop_capabilities: vec!["ALL".into()],
        add_capabilities: vec!["NET_BIND_SERVICE".into()],
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    let status = lab.sh(&id, "cat /proc/1/status").await;
    for line in [
        "CapBnd:\t0000000000000400",
        "CapEff:\t0000000000000400",
        "CapInh:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn read_only_roots_masked_paths_and_mounts() {
    let lab = lab!();
    let pod = lab.pod("hidden").await;
    let host = lab.dir.path().join("volume");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "of the host").unwrap();
    let mut config = shell("app", "sleep 100");
    security(&mut config).readonly_rootfs = true;
    security(&mut config).masked_paths = vec!["/proc/keys".into(), "/etc/group".into()];
    security(&mut config).readonly_paths = vec!["/proc/sys".into()];
    let mount = |to: &str, readonly| proto::Mount {
        container_path: to.into(),
        host_path: host.to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    };
    config.mounts = vec![mount("/mnt/rw", false), mount("/mnt/ro", true)];
    let id = lab.run(&pod, config).await;
    assert_eq!(lab.sh(&id, "touch /x 2>/dev/null || echo no").await, "no\n");
    assert_eq!(lab.sh(&id, "cat /etc/group").await, "");
    assert_eq!(lab.sh(&id, "cat /mnt/ro/file").await, "of the host");
    assert_eq!(
        lab.sh(&id, "touch /mnt/ro/x 2>/dev/null || echo no; touch /mnt/rw/x && echo yes").await,
        "no\nyes\n"
    );
    assert!(host.join("x").exists());
    assert_eq!(lab.status(&id).await.unwrap().mounts.len(), 2);
    lab.remove_pod(&pod).await;
}

/// `shareProcessNamespace: true`, and a sidecar that may inspect all processes: the others are made by helpers.
#[tokio::test]
async fn containers_that_share_their_processes_with_a_tracer() {
    let lab = lab!();
    let mut config = lab.pod_config("traced");
    let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    linux.namespace_options.as_mut().unwrap().pid = proto::NamespaceMode::Pod.into();
    let pod = lab.run_pod(config).await.unwrap();
    let sharing = |name: &str, line: &str| {
        let mut config = shell(name, line);
        let options = security(&mut config).namespace_options.as_mut().unwrap();
        options.pid = proto::NamespaceMode::Pod.into();
        config
    };
    let mut tracer = sharing("tracer", "exec sleep 1001");
    let all = proto::Capability { add_capabilities: vec!["SYS_PTRACE".into()], ..Default::default() };
    security(&mut tracer).capabilities = Some(all);
    lab.run(&pod, tracer).await;
    // As kubelet does it: a container that has ended is created once more.
    for attempt in 0..2 {
        let mut app = sharing("app", "cat /proc/self/comm; tty; exec sleep 1002");
        app.metadata.as_mut().unwrap().attempt = attempt;
        (app.tty, app.log_path) = (true, format!("app-{attempt}.log"));
        security(&mut app).masked_paths = vec!["/proc/keys".into(), "/proc/acpi".into()];
        security(&mut app).readonly_paths = vec!["/proc/sys".into()];
        resources(&mut app).oom_score_adj = 321;
        let id = lab.run(&pod, app).await;
        lab.until_log(&format!("app-{attempt}"), "/dev/pts/0").await;
        let log = lab.log(&format!("app-{attempt}"));
        assert!(log.contains(" cat\r"), "{log}");
        let pids = "for p in 1001 1002; do grep -lx sleep /proc/[0-9]*/comm | while read -r f; do \
                    grep -q $p ${f%comm}cmdline && echo ${f%comm}; done; done";
        let folders = lab.sh(&id, pids).await;
        let folders: Vec<&str> = folders.lines().collect();
        assert_eq!(folders.len(), 2, "both: {folders:?}");
        assert_eq!(lab.sh(&id, &format!("cat {}oom_score_adj", folders[1])).await, "321\n");
        assert_eq!(lab.sh(&id, "cat /proc/1/comm; cat /proc/self/comm").await, "pod-init\ncat\n");
        let hidden = "cat /proc/keys; echo 1 2>/dev/null > /proc/sys/kernel/shmmax || echo read-only";
        assert_eq!(lab.sh(&id, hidden).await, "read-only\n");
        assert_eq!(lab.sh(&id, "ls /proc/self/fd | wc -l").await, "4\n");
        lab.stop(&id, 0).await.unwrap();
        lab.exited(&id).await;
        lab.remove(&id).await.unwrap();
    }
    lab.remove_pod(&pod).await;
}

/// An inode that two pods have would carry locks and notifications from one to the other.
#[tokio::test]
async fn pods_have_no_inode_in_common() {
    let lab = lab!();
    let pods = [lab.pod("one").await, lab.pod("other").await];
    let mut seen = Vec::new();
    for pod in &pods {
        let mut config = shell("app", "sleep 100");
        security(&mut config).masked_paths = vec!["/proc/keys".into()];
        let id = lab.run(pod, config).await;
        let inodes = "stat -L -c '%d:%i %t:%T' /proc/keys /proc/self/fd/0; stat -c '%d:%i %a' /dev/shm";
        let text = lab.sh(&id, inodes).await;
        assert_eq!(text.matches(" 1:3\n").count(), 2, "{text}");
        assert!(text.ends_with(" 1777\n"), "{text}");
        assert_eq!(lab.sh(&id, "chmod 600 /proc/keys 2>/dev/null || echo refused").await, "refused\n");
        assert_eq!(lab.sh(&id, "echo x > /dev/shm/x && cat /dev/shm/x").await, "x\n");
        seen.push(text);
    }
    let all: std::collections::BTreeSet<&str> =
        seen.iter().flat_map(|text| text.lines()).filter_map(|line| line.split(' ').next()).collect();
    // The mask and standard input are one in each pod.
    assert_eq!(all.len(), 4, "{seen:?}");
    for pod in &pods {
        lab.remove_pod(pod).await;
    }
}

#[tokio::test]
async fn a_missing_host_path_becomes_a_folder_and_an_impossible_one_is_named() {
    let lab = lab!();
    let pod = lab.pod("nowhere").await;
    let missing = lab.dir.path().join("state/app");
    let file = lab.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let mounting = |name: &str, host: &std::path::Path| {
        let mut config = shell(name, "sleep 100");
        config.mounts = vec![proto::Mount {
            container_path: "/data".into(),
            host_path: host.to_string_lossy().into_owned(),
            ..Default::default()
        }];
        config
    };
    let id = lab.run(&pod, mounting("app", &missing)).await;
    assert_eq!(lab.sh(&id, "touch /data/x && echo yes").await, "yes\n");
    assert!(missing.join("x").exists());

    let id = lab.create(&pod, mounting("below", &file.join("below"))).await.unwrap();
    let error = lab.start(&id).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains(file.to_str().unwrap()), "{error}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn the_default_seccomp_profile_filters() {
    let lab = lab!();
    let pod = lab.pod("seccomp").await;
    let mut config = shell("app", "sleep 100");
    security(&mut config).seccomp = Some(proto::SecurityProfile::default());
    let id = lab.run(&pod, config).await;
    assert!(lab.sh(&id, "cat /proc/self/status").await.contains("Seccomp:\t2"));
    // A new user namespace needs no capability; the profile refuses it all the same.
    assert_eq!(lab.sh(&id, "unshare -U true 2>/dev/null && echo made || echo refused").await, "refused\n");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn privileged_needs_a_privileged_pod() {
    let lab = lab!();
    let pod = lab.pod("plain").await;
    let mut config = shell("app", "sleep 100");
    security(&mut config).privileged = true;
    let error = lab.create(&pod, config.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let mut pod_config = lab.pod_config("strong");
    pod_config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let strong = lab.run_pod(pod_config).await.unwrap();
    let id = lab.run(&strong, config).await;
    assert_eq!(lab.sh(&id, "mount -t tmpfs none /tmp && echo done").await, "done\n");
    lab.remove_pod(&strong).await;
    lab.remove_pod(&pod).await;
}

/// A profile may be changed or removed on the node while its containers run.
#[test]
fn commands_have_the_filter_that_the_container_was_created_with() {
    const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW",
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let is_filtered = async |lab: &Lab, id: &str| {
        let made = lab.exec(id, &["busybox", "mkdir", "/made"], 20).await.unwrap();
        let error = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(error.contains("not permitted"), "{error}");
    };
    crate::restart::over_a_restart(
        async |lab| {
            let pod = lab.pod("filter").await;
            let profile = lab.dir.path().join("profile.json");
            std::fs::write(&profile, PROFILE).unwrap();
            let mut config = shell("app", "sleep 1000");
            security(&mut config).seccomp = Some(proto::SecurityProfile {
                profile_type: proto::security_profile::ProfileType::Localhost as i32,
                localhost_ref: profile.to_string_lossy().into_owned(),
            });
            let id = lab.create(&pod, config).await.unwrap();
            std::fs::remove_file(&profile).unwrap();
            lab.start(&id).await.unwrap();
            is_filtered(lab, &id).await;
            (pod, id)
        },
        async |lab, (pod, id)| {
            is_filtered(lab, &id).await;
            lab.remove_pod(&pod).await;
        },
    );
}
