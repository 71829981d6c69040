//! The OCI spec of a container, built from its record: for its start, for commands executed in it, and for
//! people and tools as `config.json`.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use crisp_executor::ids::ContainerId;
use crisp_executor::plan::PidNamespace;
use crisp_operation::record::{self, Durability};
use crisp_sandbox::{NamespaceMode, NetworkMode, Pod};
use oci_spec::runtime::{LinuxSeccomp, Process, Spec};

use crate::cause::Cause;
use crate::container::config::{Resources, SeccompRequest};
use crate::container::state::State;
use crate::container::{Container, ContainerMetadata, User};
use crate::layout::Folder;
use crate::ops::pid_namespace;
use crate::service_state::{ServiceState, cgroup_path};
use crate::spec::{self, Inputs, PodInputs};

/// The mount points of the pod's hosts, resolv.conf and hostname.
const POD_FILES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];

/// Builds the spec. Blocks: reads host devices and may read a seccomp profile.
///
/// # Errors
/// A field of the request is not possible on this host, or a PID namespace is gone.
pub(crate) fn build(
    service: &ServiceState,
    metadata: &ContainerMetadata,
    resources: &Resources,
    pod: &Pod,
) -> Result<Spec, Cause> {
    let pid = metadata.pid.clone().try_map(|target| pid_namespace::pid_of_target(service, &target))?;
    with_inputs(service, metadata, resources, pod, pid, |inputs| Ok(spec::build(&inputs)?))
}

/// Builds only the process, of that user, with its seccomp filter. Blocks like [`build`].
///
/// # Errors
/// A field of the request is not possible on this host.
pub(crate) fn build_process(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
    user: &User,
) -> Result<(Process, Option<LinuxSeccomp>), Cause> {
    let resources = &container.status().resources;
    // The namespaces are not part of the process.
    let pid = PidNamespace::Own;
    with_inputs(service, &container.metadata, resources, pod, pid, |inputs| {
        Ok(spec::build_process(&Inputs { user, ..inputs })?)
    })
}

/// Writes the spec to the container's bundle, and makes that if it is missing.
///
/// # Errors
/// The container's folder is gone, the bundle cannot be made, or the file cannot be written.
pub(crate) fn write(folder: &Folder, spec: &Spec) -> Result<(), Cause> {
    let (bundle, path) = (folder.bundle(), folder.spec());
    // Not with the folder above it: what a removal has taken away stays away.
    match fs::DirBuilder::new().mode(0o700).create(&bundle) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.map_err(Cause::file(bundle))?,
    }
    if spec.hooks().is_some() {
        let rootfs = folder.rootfs();
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&rootfs).map_err(Cause::file(rootfs))?;
    }
    let bytes = serde_json::to_vec(spec).map_err(|error| Cause::file(&path)(error.into()))?;
    record::write_file(&path, &bytes, 0o600, Durability::Process).map_err(Cause::file(path))
}

/// Writes the spec of a container that is being created, if its filter is from a file: that may be changed or
/// removed later, see [`kept_seccomp`]. The others are written when the start is prepared.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_if_kept(folder: &Folder, metadata: &ContainerMetadata, spec: &Spec) -> Result<(), Cause> {
    match metadata.config.security.seccomp {
        SeccompRequest::Localhost(_) => write(folder, spec),
        SeccompRequest::RuntimeDefault | SeccompRequest::Unconfined => Ok(()),
    }
}

/// The mount points of a running container.
pub(crate) fn mount_places(metadata: &ContainerMetadata) -> Vec<PathBuf> {
    let requested = metadata.config.mounts.iter().map(|mount| mount.container_path.clone());
    let pod = POD_FILES.into_iter().chain(["/dev", "/proc", "/sys"]).map(PathBuf::from);
    requested.chain(metadata.volumes.iter().cloned()).chain(pod).collect()
}

fn with_inputs<T>(
    service: &ServiceState,
    metadata: &ContainerMetadata,
    resources: &Resources,
    pod: &Pod,
    pid: PidNamespace<i32>,
    build: impl FnOnce(Inputs<'_>) -> Result<T, Cause>,
) -> Result<T, Cause> {
    let folder = service.layout.container(&metadata.id);
    let volumes = metadata.volumes.iter().enumerate();
    let volumes: Vec<_> = volumes.map(|(number, target)| (folder.volume(number), target.clone())).collect();
    build(Inputs {
        config: &metadata.config,
        resources,
        image: &metadata.image.process,
        user: &metadata.user,
        pod: &pod_inputs(service, metadata, pod)?,
        host: &service.host,
        pid,
        volumes: &volumes,
        cdi: &metadata.cdi,
        seccomp: kept_seccomp(service, metadata),
        annotations: annotations(metadata, pod),
    })
}

/// The filter with which the container was created, from its bundle: a profile file may have been changed or
/// removed since, and another release may have another default. The kept default is only used for a container
/// that an earlier server has started, because a start makes a new one.
fn kept_seccomp(service: &ServiceState, metadata: &ContainerMetadata) -> Option<LinuxSeccomp> {
    let security = &metadata.config.security;
    let is_kept = !security.privileged
        && match security.seccomp {
            SeccompRequest::Localhost(_) => true,
            SeccompRequest::RuntimeDefault => runs_since_before(service, &metadata.id),
            SeccompRequest::Unconfined => false,
        };
    if !is_kept {
        return None;
    }
    let path = service.layout.container(&metadata.id).spec();
    let spec: Spec = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "the container's filter is not kept there"))
            .ok()?,
        // It is being created.
        Err(_) => return None,
    };
    spec.linux().as_ref()?.seccomp().clone()
}

/// Whether an earlier server has started it.
fn runs_since_before(service: &ServiceState, id: &ContainerId) -> bool {
    let state = service.containers.get(id).map(|container| container.status().state.clone());
    let started_at = match state {
        Some(State::Running { started_at, .. }) => Some(started_at),
        Some(State::Unknown { started_at, .. }) => started_at,
        _ => None,
    };
    started_at.is_some_and(|started_at| started_at < service.opened_at)
}

fn pod_inputs(service: &ServiceState, metadata: &ContainerMetadata, pod: &Pod) -> Result<PodInputs, Cause> {
    let files = pod.files();
    Ok(PodInputs {
        hostname: pod.config.own_hostname().unwrap_or_else(|| service.host.hostname.clone()),
        files: [files.hosts, files.resolv_conf, files.hostname].into_iter().zip(POD_FILES).collect(),
        host_network: pod.config.network == NetworkMode::Host,
        host_ipc: pod.config.ipc == NamespaceMode::Host,
        user: pod.config.user.clone(),
        monitor_pid: pod.status().monitor_pid.unwrap_or_default(),
        cgroup: cgroup_path(pod, &metadata.id)?.as_str().to_owned(),
    })
}

/// The annotations by which tools that read config.json files recognise pod, container and image.
fn annotations(metadata: &ContainerMetadata, pod: &Pod) -> HashMap<String, String> {
    let config = &pod.config;
    [
        ("container-type", "container"),
        ("sandbox-id", pod.id.as_str()),
        ("sandbox-name", &config.name),
        ("sandbox-namespace", &config.namespace),
        ("sandbox-uid", &config.uid),
        ("container-name", &metadata.config.name),
        ("image-name", &metadata.config.image.image),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    #[test]
    fn no_folder_of_a_removed_container_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = Layout::new(root.path()).container(&ContainerId::parse(&"a".repeat(64)).unwrap());
        assert!(write(&folder, &Spec::default()).is_err() && !folder.path().exists());
        fs::create_dir_all(folder.path()).unwrap();
        for _ in 0..2 {
            write(&folder, &Spec::default()).unwrap();
        }
        assert!(folder.spec().exists());
    }
}
