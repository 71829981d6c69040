//! PID and IPC namespaces: those of the pod, the container, the node, and another container.

use crisp_e2e::{Result, request};
use k8s_cri::v1::{
    ContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxStatus, Namespace, NamespaceMode,
    NamespaceOption,
};

use crate::cri::{Cri, Pod, secured};

promises! {
    a_pods_status_has_its_namespaces: Cri, ["PodSandboxStatus.linux", "LinuxPodSandboxStatus.namespaces",
        "Namespace.options", "LinuxSandboxSecurityContext.namespace_options",
        "LinuxPodSandboxConfig.security_context"],
        "A pod's status has the modes of its namespaces";
    a_shared_pid_namespace_shows_all_of_the_pod: Kubernetes, ["NamespaceOption.pid"],
        "In a pod with a shared PID namespace each container sees the processes of the others, none as PID 1";
    a_shared_pid_namespace_reaps_orphans: Kubernetes, ["NamespaceOption.pid"],
        "In a shared PID namespace a process whose parent is gone is reaped when it ends";
    a_pid_namespace_of_a_container_shows_it_alone: Kubernetes, ["NamespaceOption.pid"],
        "By default a container sees its own processes alone, the command as PID 1";
    the_nodes_pid_namespace_shows_the_node: Kubernetes, ["NamespaceOption.pid"],
        "In a pod with hostPID a container sees the processes of the node";
    a_debug_container_sees_its_target: Kubernetes, ["NamespaceOption.target_id"],
        "A container with the PID namespace of a target sees the target's processes";
    a_missing_target_is_refused: Cri, ["NamespaceOption.target_id"],
        "A target that is not a container of the pod is refused";
    ipc_is_shared_in_the_pod: Kubernetes, ["NamespaceOption.ipc"],
        "Containers of a pod share /dev/shm and the IPC namespace, which is not the node's";
    the_nodes_ipc_namespace_is_the_nodes: Kubernetes, ["NamespaceOption.ipc"],
        "In a pod with hostIPC a container has the node's IPC namespace";
}

/// Adds the namespaces of its pod to a container.
fn within(config: ContainerConfig, options: &NamespaceOption) -> ContainerConfig {
    let namespace_options = Some(options.clone());
    secured(config, LinuxContainerSecurityContext { namespace_options, ..Default::default() })
}

/// A pod with this PID mode, and a sleeping container in it.
async fn sleeping(cri: &mut Cri, options: &NamespaceOption) -> Result<(Pod, String)> {
    let config = cri.sandbox_with(options.clone());
    let pod = cri.run(&config).await?;
    let config = within(cri.shell("exec sleep 12345"), options);
    let id = cri.launch(&pod, &config).await?;
    Ok((pod, id))
}

async fn a_pods_status_has_its_namespaces(cri: &mut Cri) -> Result<()> {
    let mut options = request::namespaces(NamespaceMode::Node, NamespaceMode::Pod);
    options.ipc = NamespaceMode::Node.into();
    for options in [options, request::namespaces(NamespaceMode::Pod, NamespaceMode::Container)] {
        let mut config = cri.sandbox_with(options.clone());
        if options.network() == NamespaceMode::Node {
            config.hostname.clear();
        }
        let pod = cri.run(&config).await?;
        let namespaces = cri.pod_status(&pod.id).await?.linux.and_then(|linux| linux.namespaces);
        let is = LinuxPodSandboxStatus { namespaces };
        let mut should = options.clone();
        // When the pod has no user namespace of its own, a runtime may leave the field unset or set it.
        should.userns_options = is.namespaces.as_ref().and_then(|n| n.options.clone()?.userns_options);
        assert_eq!(is, LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(should) }) });
    }
    Ok(())
}

async fn a_shared_pid_namespace_shows_all_of_the_pod(cri: &mut Cri) -> Result<()> {
    let options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Pod);
    let (pod, _id) = sleeping(cri, &options).await?;
    let config =
        within(cri.shell("cat /proc/*/cmdline | tr '\\0' ' ' | grep -c 'sleep 12345'; echo $$"), &options);
    let output = cri.output_in(&pod, &config).await?;
    let (seen, pid) = output.trim().split_once('\n').ok_or("two lines")?;
    assert!(seen == "1" && pid != "1", "{output}");
    Ok(())
}

async fn a_shared_pid_namespace_reaps_orphans(cri: &mut Cri) -> Result<()> {
    let options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Pod);
    let (_pod, id) = sleeping(cri, &options).await?;
    cri.sh(&id, "sh -c 'sleep 0.1 & echo $! > /orphan'").await?;
    cri.until(&id, "test ! -e /proc/$(cat /orphan)").await?;
    Ok(())
}

async fn a_pid_namespace_of_a_container_shows_it_alone(cri: &mut Cri) -> Result<()> {
    let options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    let (pod, _id) = sleeping(cri, &options).await?;
    let config = within(cri.shell("echo $$; ls -d /proc/[0-9]*"), &options);
    assert_eq!(cri.output_in(&pod, &config).await?.lines().next(), Some("1"));
    let config = within(cri.shell("cat /proc/*/cmdline | grep -c 12345 || true"), &options);
    // grep finds only itself.
    let seen: u32 = cri.output_in(&pod, &config).await?.trim().parse()?;
    assert!(seen <= 1, "{seen} processes");
    Ok(())
}

async fn the_nodes_pid_namespace_shows_the_node(cri: &mut Cri) -> Result<()> {
    let options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Node);
    let config = cri.sandbox_with(options.clone());
    let pod = cri.run(&config).await?;
    let line = format!("cat /proc/{}/comm; readlink /proc/self/ns/pid", std::process::id());
    let config = within(cri.shell(&line), &options);
    let ours = std::fs::read_to_string("/proc/self/comm")?;
    let namespace = std::fs::read_link("/proc/self/ns/pid")?;
    assert_eq!(cri.output_in(&pod, &config).await?, format!("{ours}{}\n", namespace.display()));
    Ok(())
}

async fn a_debug_container_sees_its_target(cri: &mut Cri) -> Result<()> {
    let options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    let (pod, target_id) = sleeping(cri, &options).await?;
    let mut debug = request::namespaces(NamespaceMode::Pod, NamespaceMode::Target);
    debug.target_id = target_id;
    let config = within(cri.shell("cat /proc/1/cmdline | tr '\\0' ' '; test -d /proc/$$"), &debug);
    assert_eq!(cri.output_in(&pod, &config).await?, "sleep 12345 ");
    Ok(())
}

async fn a_missing_target_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Target);
    options.target_id = crate::cri::unknown();
    let config = within(cri.shell("true"), &options);
    assert!(cri.launch(&pod, &config).await.is_err());
    Ok(())
}

async fn ipc_is_shared_in_the_pod(cri: &mut Cri) -> Result<()> {
    let options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    let (pod, id) = sleeping(cri, &options).await?;
    cri.sh(&id, "echo from the first > /dev/shm/note").await?;
    let config = within(cri.shell("cat /dev/shm/note; readlink /proc/self/ns/ipc"), &options);
    let theirs = cri.sh(&id, "readlink /proc/self/ns/ipc").await?;
    assert_eq!(cri.output_in(&pod, &config).await?, format!("from the first\n{theirs}"));
    assert_ne!(theirs.trim(), std::fs::read_link("/proc/self/ns/ipc")?.display().to_string());
    Ok(())
}

async fn the_nodes_ipc_namespace_is_the_nodes(cri: &mut Cri) -> Result<()> {
    let mut options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    options.ipc = NamespaceMode::Node.into();
    let (_pod, id) = sleeping(cri, &options).await?;
    let theirs = cri.sh(&id, "readlink /proc/self/ns/ipc").await?;
    assert_eq!(theirs.trim(), std::fs::read_link("/proc/self/ns/ipc")?.display().to_string());
    Ok(())
}
