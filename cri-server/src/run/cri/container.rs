//! A container of the pod.

use std::collections::BTreeMap;
use std::path::Path;

use crisp_proto::runtime::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig, Mount,
    MountPropagation as WirePropagation,
};

use super::super::manifest::{Container, Map, Pod, Propagation, VolumeMount, expand};
use super::super::volumes::Volumes;
use super::{resources, security};

/// What the manifest does not say.
pub struct ContainerIdentity<'a> {
    pub pod_uid: &'a str,
    /// How many times it was started before.
    pub attempt: u32,
    /// The image's id.
    pub image_id: &'a str,
    pub volumes: &'a Volumes,
    /// A hosts file instead of the runtime's own.
    pub hosts_file: Option<&'a Path>,
}

/// The request for a container.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    identity: &ContainerIdentity<'_>,
) -> ContainerConfig {
    let env = environment(container);
    let lookup = |name: &str| env.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let expanded = |words: &[String]| words.iter().map(|w| expand(w, lookup)).collect();
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: identity.attempt }),
        image: Some(ImageSpec {
            image: identity.image_id.to_owned(),
            user_specified_image: container.image.clone(),
            ..ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env
            .iter()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone().into() })
            .collect(),
        mounts: mounts(container, identity),
        labels: labels(pod, container, identity),
        annotations: BTreeMap::from([(
            "io.kubernetes.container.restartCount".to_owned(),
            identity.attempt.to_string(),
        )]),
        log_path: log_path(&container.name, identity.attempt),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::resources(pod, &container.resources, resources::host_memory())),
            security_context: Some(security::context(pod, container)),
        }),
        ..ContainerConfig::default()
    }
}

/// Relative to the pod's folder for logs.
fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}/{attempt}.log")
}

/// Later variables may refer to earlier ones.
fn environment(container: &Container) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    for (name, value) in &container.env {
        let value = expand(value, |n| env.iter().rev().find(|(e, _)| e == n).map(|(_, v)| v.clone()));
        env.push((name.clone(), value));
    }
    env
}

fn mounts(container: &Container, identity: &ContainerIdentity<'_>) -> Vec<Mount> {
    let volume = |mount: &VolumeMount| {
        // The manifest was checked: every mount has its volume.
        let host = identity.volumes.path(&mount.volume)?;
        Some(Mount {
            container_path: mount.path.clone(),
            host_path: host.display().to_string(),
            readonly: mount.read_only,
            recursive_read_only: mount.recursive_read_only,
            propagation: match mount.propagation {
                Propagation::Private => WirePropagation::PropagationPrivate,
                Propagation::HostToContainer => WirePropagation::PropagationHostToContainer,
                Propagation::Bidirectional => WirePropagation::PropagationBidirectional,
            }
            .into(),
            ..Mount::default()
        })
    };
    let hosts = identity.hosts_file.map(|path| Mount {
        container_path: "/etc/hosts".to_owned(),
        host_path: path.display().to_string(),
        ..Mount::default()
    });
    container.mounts.iter().filter_map(volume).chain(hosts).collect()
}

fn labels(pod: &Pod, container: &Container, identity: &ContainerIdentity<'_>) -> Map {
    [
        ("io.kubernetes.container.name", container.name.as_str()),
        ("io.kubernetes.pod.name", &pod.name),
        ("io.kubernetes.pod.namespace", &pod.namespace),
        ("io.kubernetes.pod.uid", identity.pod_uid),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::super::super::manifest::{Profile, parse};
    use super::*;
    use crisp_proto::runtime::v1::security_profile::ProfileType;

    #[test]
    fn a_container_is_asked_for_as_a_kubelet_would() {
        let pod = parse("full.yaml", include_str!("../manifest/full.yaml")).unwrap();
        assert_eq!(pod.containers[0].security.seccomp, Some(Profile::RuntimeDefault));
        let folder = tempfile::tempdir().unwrap();
        let plain: Vec<_> = pod.volumes.iter().filter(|v| v.name != "fast").cloned().collect();
        let volumes = Volumes::prepare(&plain, folder.path().join("v")).unwrap();
        let identity = ContainerIdentity {
            pod_uid: "u",
            attempt: 2,
            image_id: "sha256:1",
            volumes: &volumes,
            hosts_file: Some(Path::new("/h")),
        };
        let config = container_config(&pod, &pod.containers[0], &identity);
        assert_eq!(config.args, ["-f", "-p", "12"], "$(B) is $(A)2 is 12");
        assert_eq!(config.envs[1].value, b"12");
        assert_eq!(config.log_path, "web/2.log");
        let paths: Vec<_> = config.mounts.iter().map(|m| (m.container_path.as_str(), m.readonly)).collect();
        assert_eq!(paths, [("/data", true), ("/etc/hosts", false)]);
        let security = config.linux.unwrap().security_context.unwrap();
        assert!(security.no_new_privs && security.readonly_rootfs);
        assert_eq!(security.run_as_user.unwrap().value, 1000, "the pod's counts");
        assert_eq!(security.seccomp.unwrap().profile_type(), ProfileType::RuntimeDefault);
        volumes.remove();
    }
}
