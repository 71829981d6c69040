//! The environment of a container's process: arguments, variables, folder, user, mounts.

use crisp_e2e::{Image, Lab, Result, needs, request};
use k8s_cri::v1::{
    Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext, Mount, MountPropagation,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn entrypoint_and_command_combine_as_kubernetes_says() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let image =
        Image::busybox().config("Entrypoint", json!(["echo", "entry"])).config("Cmd", json!(["cmd"])).build();
    let image = lab.machine.registry().push("entry", "1", &image)?;
    lab.client.pull(&image).await?;
    let words = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
    for (name, command, args, expected) in [
        ("none", &[][..], &[][..], "entry cmd\n"),
        ("args", &[], &["given"], "entry given\n"),
        ("command", &["echo", "own"], &[], "own\n"),
        ("both", &["echo", "own"], &["given"], "own given\n"),
    ] {
        let mut config = request::container("main", &image, &[]);
        (config.command, config.args) = (words(command), words(args));
        assert_eq!(lab.output(name, config).await?, expected, "{name}");
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_folder_and_hostname() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let mut config = lab.shell("pwd; echo $GREETING; echo $PATH; hostname; cat /etc/hostname");
    config.working_dir = "/made/on/demand".into();
    config.envs = vec![KeyValue { key: "GREETING".into(), value: "hello world".into() }];
    let log = lab.output("web-0", config).await?;
    assert_eq!(log, "/made/on/demand\nhello world\n/bin\nweb-0\nweb-0\n");
    lab.close().await
}

fn security(context: LinuxContainerSecurityContext) -> Option<LinuxContainerConfig> {
    Some(LinuxContainerConfig { security_context: Some(context), ..Default::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_found_in_the_image() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let mut by_name = lab.shell("id -u; id -g; id -G");
    by_name.linux =
        security(LinuxContainerSecurityContext { run_as_username: "app".into(), ..Default::default() });
    assert_eq!(lab.output("by-name", by_name).await?, "1000\n1001\n1001 2000\n");
    let mut by_number = lab.shell("id -u; id -g; id -G");
    by_number.linux = security(LinuxContainerSecurityContext {
        run_as_user: Some(Int64Value { value: 4321 }),
        run_as_group: Some(Int64Value { value: 8765 }),
        supplemental_groups: vec![77],
        ..Default::default()
    });
    assert_eq!(lab.output("by-number", by_number).await?, "4321\n8765\n8765 77\n");
    let mut unknown = lab.shell("true");
    unknown.linux = security(LinuxContainerSecurityContext {
        run_as_username: "nobody-here".into(),
        ..Default::default()
    });
    crisp_e2e::says(&lab.refused("unknown", &unknown).await?, &["nobody-here", "/etc/passwd"]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn host_paths_are_mounted() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let volume = lab.machine.folder().join("volume");
    std::fs::create_dir(&volume)?;
    std::fs::write(volume.join("in"), "from the host\n")?;
    let mount = |path: &str, readonly| Mount {
        container_path: path.into(),
        host_path: volume.display().to_string(),
        readonly,
        propagation: MountPropagation::PropagationPrivate.into(),
        ..Default::default()
    };
    let mut config =
        lab.shell("cat /data/in; echo out > /data/out; echo x 2>/dev/null > /frozen/no || echo refused");
    config.mounts = vec![mount("/data", false), mount("/frozen", true)];
    assert_eq!(lab.output("volumes", config).await?, "from the host\nrefused\n");
    assert_eq!(std::fs::read_to_string(volume.join("out"))?, "out\n");
    let created = lab.machine.folder().join("made/for/the/container");
    let mut missing = lab.shell("echo here > /x/file");
    missing.mounts = vec![Mount {
        host_path: created.display().to_string(),
        container_path: "/x".into(),
        ..Default::default()
    }];
    lab.output("missing", missing).await?;
    assert_eq!(std::fs::read_to_string(created.join("file"))?, "here\n");
    // A folder cannot be made below a file.
    let impossible = volume.join("in/below");
    let mut refused = lab.shell("true");
    refused.mounts = vec![Mount {
        host_path: impossible.display().to_string(),
        container_path: "/x".into(),
        ..Default::default()
    }];
    crisp_e2e::says(&lab.refused("impossible", &refused).await?, &["in/below"]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_is_the_pods_and_64_mib() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("shm").await?;
    let write = lab
        .client
        .launch(&pod, &request::shell("write", &lab.image, "echo shared > /dev/shm/x"), &sandbox)
        .await?;
    lab.client.wait(&write).await?;
    let line = "cat /dev/shm/x; df -k /dev/shm | tail -1";
    let read = lab.client.launch(&pod, &request::shell("read", &lab.image, line), &sandbox).await?;
    lab.client.wait(&read).await?;
    let log = lab.machine.container_log("shm", "read")?;
    assert!(log.starts_with("shared\n") && log.contains("65536"), "{log}");
    lab.close().await
}
