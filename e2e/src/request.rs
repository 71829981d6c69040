//! CRI requests with the fields that every test needs; the tests set the rest.

use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, IdMapping, ImageSpec, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, UserNamespace,
};

use crate::Machine;

/// A pod with a network of its own, and a PID namespace per container.
#[must_use]
pub fn pod(machine: &Machine, name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: machine.logs().join(name).display().to_string(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Namespace options with the pod's own IPC.
#[must_use]
pub fn namespaces(network: NamespaceMode, pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

/// The user of the host that is root in a pod with [`own_users`].
pub const FIRST_USER: u32 = 200_000;

/// A user namespace for the pod, whose ids 0 to 65535 begin at [`FIRST_USER`].
#[must_use]
pub fn own_users() -> UserNamespace {
    let ids = vec![IdMapping { host_id: FIRST_USER, container_id: 0, length: 65_536 }];
    UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids }
}

/// A [`pod`] with a user namespace of its own, and the security context that its containers have to request.
#[must_use]
pub fn pod_with_own_users(
    machine: &Machine,
    name: &str,
) -> (PodSandboxConfig, LinuxContainerSecurityContext) {
    let mut options = namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    options.userns_options = Some(own_users());
    let mut sandbox = pod(machine, name);
    let security =
        LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
    sandbox.linux = Some(LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
    (sandbox, LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() })
}

/// A container that runs `command`, logging to NAME.log.
#[must_use]
pub fn container(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}

/// A shell line as the container's command.
#[must_use]
pub fn shell(name: &str, image: &str, line: &str) -> ContainerConfig {
    container(name, image, &["/bin/sh", "-c", line])
}
