//! `crisp why` for more prepared failures: of starts, of pods, and of containers that are killed from
//! outside.

use std::os::unix::fs::PermissionsExt as _;

use crisp_e2e::{Lab, Registry, Result, free_port, needs, request};
use k8s_cri::v1::{
    ContainerConfig, Device, ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext, Mount,
    PortMapping, PullImageRequest, SecurityProfile, security_profile::ProfileType,
};

use crate::diagnosis_causes::{named, why};

fn secured(mut config: ContainerConfig, context: LinuxContainerSecurityContext) -> ContainerConfig {
    config.linux = Some(LinuxContainerConfig { security_context: Some(context), ..Default::default() });
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_be_run_are_explained() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let script = lab.machine.folder().join("script");
    std::fs::write(&script, "neither a program nor a script\n")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let run = |lab: &Lab, command: &str| request::container("main", &lab.image, &[command]);
    let denied = run(&lab, "/etc/passwd");
    let mut format = run(&lab, "/script");
    format.mounts.push(Mount {
        container_path: "/script".into(),
        host_path: script.display().to_string(),
        ..Default::default()
    });
    let mut folder = lab.shell("true");
    folder.working_dir = "/bin/busybox".into();
    let user = LinuxContainerSecurityContext { run_as_username: "ghost".into(), ..Default::default() };
    let user = secured(lab.shell("true"), user);
    for (pod, config) in [("denied", &denied), ("format", &format), ("folder", &folder), ("user", &user)] {
        lab.refused(pod, config).await?;
    }
    named(
        &lab.machine,
        "denied",
        "Cause",
        &["its command may not be executed", "/etc/passwd", "not executable"],
    );
    named(&lab.machine, "format", "Cause", &["not a program for this host", "/script", "exec format error"]);
    named(&lab.machine, "folder", "Cause", &["working directory cannot be entered", "/bin/busybox"]);
    named(&lab.machine, "user", "Cause", &["the image has no such user", "ghost"]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_needs_of_the_host_and_is_not_there_is_explained() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let mut device = lab.shell("true");
    device.linux = Some(LinuxContainerConfig::default());
    device.devices.push(Device {
        container_path: "/dev/card".into(),
        host_path: "/dev/no-such-card".into(),
        permissions: "rwm".into(),
    });
    let profile = SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: "/var/lib/no-such-profile.json".into(),
    };
    let seccomp = LinuxContainerSecurityContext { seccomp: Some(profile), ..Default::default() };
    let seccomp = secured(lab.shell("true"), seccomp);
    lab.refused("device", &device).await?;
    lab.refused("seccomp", &seccomp).await?;
    named(&lab.machine, "device", "Cause", &["a device is missing on the host", "/dev/no-such-card"]);
    named(&lab.machine, "seccomp", "Cause", &["its seccomp profile cannot be read", "no-such-profile.json"]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_come_to_be_and_those_that_are_lost_are_explained() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let port = free_port()?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let mut taken = request::pod(&lab.machine, "taken");
    taken.port_mappings =
        vec![PortMapping { container_port: 80, host_port: port.into(), ..Default::default() }];
    lab.client.run_pod(&taken).await.expect_err("the port is in use");
    named(&lab.machine, "taken", "Cause", &["another program or pod has its host port", &port.to_string()]);
    drop(listener);

    let (sandbox, pod) = lab.pod("lost").await?;
    lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    let mut again = lab.shell("sleep 1000");
    again.metadata.as_mut().ok_or("no metadata")?.name = "twice".into();
    let id = lab.client.launch(&pod, &again, &sandbox).await?;
    lab.client.create(&pod, &again, &sandbox).await.expect_err("the name is taken");
    named(&lab.machine, "lost/twice", "Cause", &["its name is taken by an earlier one", &id[..12]]);
    for monitor in lab.machine.monitors(&pod) {
        let monitor = rustix::process::Pid::from_raw(monitor).ok_or("no process")?;
        rustix::process::kill_process(monitor, rustix::process::Signal::KILL)?;
    }
    lab.client.wait(&id).await?;
    named(&lab.machine, "lost", "Cause", &["its monitor ended without being told to"]);

    let mut sandbox = request::pod(&lab.machine, "sysctl");
    sandbox.linux.as_mut().ok_or("no linux")?.sysctls.insert("net.ipv4.no_such_setting".into(), "1".into());
    lab.client.run_pod(&sandbox).await.expect_err("there is no such sysctl");
    named(&lab.machine, "sysctl", "Cause", &["no_such_setting"]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_login_is_explained() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    // No password matches the hash.
    let locked = Registry::start_private(&lab.machine.folder().join("locked"), "user:$2y$05$invalid\n")?;
    let image = format!("{}/private:1", locked.host);
    let spec = Some(ImageSpec { image: image.clone(), ..Default::default() });
    let sandbox_config = Some(request::pod(&lab.machine, "login"));
    let pull = PullImageRequest { image: spec, sandbox_config, ..Default::default() };
    lab.client.images.pull_image(pull).await.expect_err("a login is needed");
    named(&lab.machine, "login", "Cause", &["the registry does not let this user have the image", &image]);
    drop(locked);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_told_with_the_client_that_asked_for_it() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("killed").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    assert!(lab.machine.crisp(&["kill", "-s", "KILL", &id])?.status.success());
    lab.client.wait(&id).await?;
    named(
        &lab.machine,
        "killed",
        "Cause",
        &["signal that was asked for", "SIGKILL", "crisp (process ", "user 0"],
    );
    let story = why(&lab.machine, "killed")?;
    assert!(story.contains("container main was sent SIGKILL (signal 9), asked for by crisp"), "{story}");
    let events =
        lab.machine.crisp(&["events", "--since", "10m", "--until", "0s", "--format", "{{.Action}}"])?;
    let events = String::from_utf8(events.stdout)?;
    assert!(events.contains("kill\ndie\n"), "{events}");
    lab.close().await
}
