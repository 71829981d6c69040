//! A container of the pod.

use std::collections::BTreeMap;

use crisp_proto::runtime::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig, Mount, Signal,
};

use super::super::environment::lookup;
use super::super::manifest::{Container, Map, Pod, expand};
use super::{extra, resources, security};

/// Values that are not in the manifest.
pub struct ContainerIdentity<'a> {
    pub pod_uid: &'a str,
    /// The number of earlier starts.
    pub attempt: u32,
    /// The image's id.
    pub image_id: &'a str,
    pub env: &'a [(String, Vec<u8>)],
    pub mounts: Vec<Mount>,
}

/// The request for a container.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    identity: ContainerIdentity<'_>,
) -> ContainerConfig {
    let expanded =
        |words: &[String]| words.iter().map(|w| expand(w, |name| lookup(identity.env, name))).collect();
    let mut config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: identity.attempt }),
        image: Some(ImageSpec {
            image: identity.image_id.to_owned(),
            user_specified_image: container.image.clone(),
            ..ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: identity
            .env
            .iter()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        labels: labels(pod, container, &identity),
        annotations: BTreeMap::from([(
            "io.kubernetes.container.restartCount".to_owned(),
            identity.attempt.to_string(),
        )]),
        log_path: log_path(&container.name, identity.attempt),
        mounts: identity.mounts,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        stop_signal: stop_signal(container).into(),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::resources(pod, &container.resources, resources::host_memory())),
            security_context: Some(security::context(pod, container)),
        }),
        ..ContainerConfig::default()
    };
    extra::apply(&mut config, &pod.extra);
    config
}

fn stop_signal(container: &Container) -> Signal {
    let name = container.lifecycle.stop_signal.as_deref().unwrap_or_default();
    let name = format!("SIGNAL_{}", name.replace('+', "PLUS").replace('-', "MINUS"));
    Signal::from_str_name(&name).unwrap_or_default()
}

/// Relative to the pod's folder for logs.
pub fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}/{attempt}.log")
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
        let pod = parse("full.yaml", include_str!("../manifest/full.yaml")).unwrap().pods.remove(0).pod;
        assert_eq!(pod.containers[0].security.seccomp, Some(Profile::RuntimeDefault));
        let env = [("A".to_owned(), b"1".to_vec()), ("B".to_owned(), b"12".to_vec())];
        let mounts = vec![Mount { container_path: "/data".into(), ..Mount::default() }];
        let identity =
            ContainerIdentity { pod_uid: "u", attempt: 2, image_id: "sha256:1", env: &env, mounts };
        let config = container_config(&pod, &pod.containers[0], identity);
        assert_eq!(config.args, ["-f", "-p", "12"], "$(B) is 12");
        assert_eq!(config.envs[1].value, b"12");
        assert_eq!(config.log_path, "web/2.log");
        assert_eq!(config.mounts[0].container_path, "/data");
        let security = config.linux.unwrap().security_context.unwrap();
        assert!(security.no_new_privs && security.readonly_rootfs);
        assert_eq!(security.run_as_user.unwrap().value, 1000, "the pod's counts");
        assert_eq!(security.supplemental_groups, [2000, 3000], "with the group of the volumes");
        assert_eq!(security.seccomp.unwrap().profile_type(), ProfileType::RuntimeDefault);
    }
}
