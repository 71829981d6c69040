//! Converts containers and pods to proto messages.

use std::path::Path;
use std::sync::Arc;

use crisp_proto::runtime::v1 as proto;
use crisp_sandbox::{NamespaceMode, NetworkMode, PidMode, Pod, PodState, PodStatus};

use super::{image, resources, signal, user_namespace};
use crate::container::config::{Mount, Propagation};
use crate::container::state::State;
use crate::container::status::Status;
use crate::container::{Container, ContainerMetadata};

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// For clients, a container whose start is under way is still created, and a container that is being removed
/// has its earlier state.
#[must_use]
pub fn container_state(state: &State) -> proto::ContainerState {
    match state {
        State::Created | State::Starting | State::Removing { exit: None } => {
            proto::ContainerState::ContainerCreated
        }
        State::Running { .. } => proto::ContainerState::ContainerRunning,
        State::Exited(_) | State::Removing { exit: Some(_) } => proto::ContainerState::ContainerExited,
        State::Unknown { .. } => proto::ContainerState::ContainerUnknown,
    }
}

#[must_use]
pub fn pod_state(state: &PodState) -> proto::PodSandboxState {
    match state {
        // Kubelet kills the containers of a pod that is not ready; those of a silent monitor probably run.
        PodState::Ready | PodState::Unknown { .. } => proto::PodSandboxState::SandboxReady,
        PodState::Starting
        | PodState::Degraded { .. }
        | PodState::Lost
        | PodState::Failed { .. }
        | PodState::Stopping
        | PodState::Stopped
        | PodState::Removing => proto::PodSandboxState::SandboxNotready,
    }
}

fn container_metadata(container: &Container) -> proto::ContainerMetadata {
    let config = &container.metadata.config;
    proto::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }
}

fn image(container: &Container) -> proto::ImageSpec {
    let request = &container.metadata.config.image;
    proto::ImageSpec {
        image: container.metadata.image.name.clone(),
        annotations: request.annotations.clone(),
        user_specified_image: request.user_specified.clone(),
        ..Default::default()
    }
}

/// An entry of ListContainers.
#[must_use]
pub fn container(container: &Container) -> proto::Container {
    let metadata = &container.metadata;
    proto::Container {
        id: metadata.id.to_string(),
        pod_sandbox_id: metadata.pod.to_string(),
        metadata: Some(container_metadata(container)),
        image: Some(image(container)),
        image_ref: metadata.image.reference.clone(),
        state: container_state(&container.status().state).into(),
        created_at: metadata.created_at,
        labels: metadata.config.labels.clone(),
        annotations: metadata.config.annotations.clone(),
        image_id: metadata.image.id.clone(),
    }
}

/// The container of a reading.
#[must_use]
pub fn container_attributes(container: &Container) -> proto::ContainerAttributes {
    let metadata = &container.metadata;
    proto::ContainerAttributes {
        id: metadata.id.to_string(),
        metadata: Some(container_metadata(container)),
        labels: metadata.config.labels.clone(),
        annotations: metadata.config.annotations.clone(),
    }
}

/// The `status` of ContainerStatusResponse.
#[must_use]
pub fn container_status(container: &Container, status: &Status) -> proto::ContainerStatus {
    let metadata = &container.metadata;
    let (started_at, finished_at, exit_code) = match &status.state {
        State::Created | State::Starting | State::Removing { exit: None } => (0, 0, 0),
        State::Running { started_at, .. } => (*started_at, 0, 0),
        State::Exited(exit) | State::Removing { exit: Some(exit) } => {
            (exit.started_at.unwrap_or(0), exit.finished_at, exit.code)
        }
        State::Unknown { started_at, .. } => (started_at.unwrap_or(0), 0, 0),
    };
    let (reason, message) = match &status.state {
        State::Exited(exit) | State::Removing { exit: Some(exit) } => {
            (exit.reason.as_str().to_owned(), exit.message.clone())
        }
        State::Unknown { why, .. } => ("Unknown".to_owned(), why.clone()),
        State::Created | State::Starting | State::Running { .. } | State::Removing { exit: None } => {
            (String::new(), String::new())
        }
    };
    proto::ContainerStatus {
        id: metadata.id.to_string(),
        metadata: Some(container_metadata(container)),
        state: container_state(&status.state).into(),
        created_at: metadata.created_at,
        started_at,
        finished_at,
        exit_code,
        image: Some(image(container)),
        image_ref: metadata.image.reference.clone(),
        reason,
        message,
        labels: metadata.config.labels.clone(),
        annotations: metadata.config.annotations.clone(),
        mounts: mounts(metadata),
        log_path: metadata.log_path.as_deref().map(text).unwrap_or_default(),
        resources: Some(proto::ContainerResources {
            linux: Some(resources::to_proto(&status.resources)),
            windows: None,
        }),
        image_id: metadata.image.id.clone(),
        user: Some(user(container)),
        stop_signal: signal::to_proto(container.stop_signal()).into(),
    }
}

fn user(container: &Container) -> proto::ContainerUser {
    let user = &container.metadata.user;
    proto::ContainerUser {
        linux: Some(proto::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.iter().map(|g| i64::from(*g)).collect(),
        }),
    }
}

fn mounts(metadata: &ContainerMetadata) -> Vec<proto::Mount> {
    let mut references = metadata.mounted_references.iter();
    let one = |of: &Mount| {
        let reference = of.image.as_ref().and_then(|_| references.next());
        mount(of, reference.cloned().unwrap_or_default())
    };
    metadata.config.mounts.iter().map(one).collect()
}

/// `reference`: of its image.
fn mount(mount: &Mount, reference: String) -> proto::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => proto::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => proto::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => proto::MountPropagation::PropagationBidirectional,
    };
    proto::Mount {
        container_path: text(&mount.container_path),
        host_path: text(&mount.host_path),
        readonly: mount.readonly,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_readonly,
        uid_mappings: mount.mappings.iter().flat_map(|m| user_namespace::to_proto(&m.uids)).collect(),
        gid_mappings: mount.mappings.iter().flat_map(|m| user_namespace::to_proto(&m.gids)).collect(),
        image: mount.image.as_ref().map(|mounted| image::to_proto(&mounted.request, reference)),
        image_sub_path: mount.image.as_ref().map(|mounted| mounted.sub_path.clone()).unwrap_or_default(),
        mount_options: mount.options.clone(),
        ..Default::default()
    }
}

fn pod_metadata(pod: &Pod) -> proto::PodSandboxMetadata {
    proto::PodSandboxMetadata {
        name: pod.config.name.clone(),
        uid: pod.config.uid.clone(),
        namespace: pod.config.namespace.clone(),
        attempt: pod.config.attempt,
    }
}

/// An entry of ListPodSandbox.
#[must_use]
pub fn pod(pod: &Pod) -> proto::PodSandbox {
    proto::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(pod_metadata(pod)),
        state: pod_state(&pod.status().state).into(),
        created_at: pod.created_at,
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// The pod of a reading.
#[must_use]
pub fn pod_attributes(pod: &Pod) -> proto::PodSandboxAttributes {
    proto::PodSandboxAttributes {
        id: pod.id.to_string(),
        metadata: Some(pod_metadata(pod)),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
    }
}

/// The `status` of PodSandboxStatusResponse.
#[must_use]
pub fn pod_status(pod: &Pod, status: &PodStatus) -> proto::PodSandboxStatus {
    let mut ips = status.ips.iter().map(ToString::to_string);
    let network = proto::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| proto::PodIp { ip }).collect(),
    };
    let (network_mode, target_id) = match &pod.config.network {
        NetworkMode::Pod => (proto::NamespaceMode::Pod, String::new()),
        NetworkMode::Host => (proto::NamespaceMode::Node, String::new()),
        NetworkMode::Joined(other) => (proto::NamespaceMode::Target, other.to_string()),
    };
    let ipc = match pod.config.ipc {
        NamespaceMode::Pod => proto::NamespaceMode::Pod,
        NamespaceMode::Host => proto::NamespaceMode::Node,
    };
    let pid = match pod.config.pid {
        PidMode::Pod => proto::NamespaceMode::Pod,
        PidMode::Container => proto::NamespaceMode::Container,
        PidMode::Host => proto::NamespaceMode::Node,
    };
    let user = match &pod.config.user {
        None => proto::UserNamespace { mode: proto::NamespaceMode::Node.into(), ..Default::default() },
        Some(mappings) => proto::UserNamespace {
            mode: proto::NamespaceMode::Pod.into(),
            uids: user_namespace::to_proto(&mappings.uids),
            gids: user_namespace::to_proto(&mappings.gids),
        },
    };
    let options = proto::NamespaceOption {
        network: network_mode.into(),
        ipc: ipc.into(),
        pid: pid.into(),
        target_id,
        userns_options: Some(user),
    };
    proto::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(pod_metadata(pod)),
        state: pod_state(&status.state).into(),
        created_at: pod.created_at,
        network: Some(network),
        linux: Some(proto::LinuxPodSandboxStatus {
            namespaces: Some(proto::Namespace { options: Some(options) }),
        }),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// The statuses of a pod's containers, newest first: kubelet uses the first of several attempts.
#[must_use]
pub fn container_statuses(containers: &[(Arc<Container>, Arc<Status>)]) -> Vec<proto::ContainerStatus> {
    let status = |(container, status): &(Arc<Container>, Arc<Status>)| container_status(container, status);
    let mut statuses: Vec<_> = containers.iter().map(status).collect();
    statuses.sort_by_key(|status| std::cmp::Reverse(status.created_at));
    statuses
}
