//! SELinux options. Kubelet sends them to every node, so a host without SELinux ignores them, as containerd
//! and CRI-O do. A host with SELinux refuses them: without the requested label, a container would be less
//! confined.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crisp_proto::runtime::v1 as proto;

use super::{ConvertError, unsupported};

const HINT: &str = " on a host where SELinux is on: this server does not set labels yet";

/// Looked up once: SELinux cannot be turned on at run time.
static ENABLED: LazyLock<bool> = LazyLock::new(|| enabled(Path::new("/")));

/// selinuxfs is mounted and a policy is loaded; before that every process has the label `kernel`.
fn enabled(root: &Path) -> bool {
    let label = || fs::read_to_string(root.join("proc/self/attr/current")).unwrap_or_default();
    root.join("sys/fs/selinux/enforce").exists() && label().trim_end_matches(['\0', '\n']) != "kernel"
}

pub(super) fn check_options(field: &str, options: Option<&proto::SeLinuxOption>) -> Result<(), ConvertError> {
    let parts =
        |o: &proto::SeLinuxOption| [&o.user, &o.role, &o.r#type, &o.level].map(|part| part.is_empty());
    let given = options.is_some_and(|options| parts(options).contains(&false));
    check(*ENABLED, field, given)
}

pub(super) fn check_relabel(field: &str, relabel: bool) -> Result<(), ConvertError> {
    check(*ENABLED, field, relabel)
}

fn check(enabled: bool, field: &str, given: bool) -> Result<(), ConvertError> {
    if enabled && given { Err(unsupported(field, HINT)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_counts_as_enabled_only_with_selinuxfs_and_a_policy() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(!enabled(root.path()), "no selinuxfs");
        file("sys/fs/selinux/enforce", "0");
        file("proc/self/attr/current", "kernel\0");
        assert!(!enabled(root.path()), "no policy");
        file("proc/self/attr/current", "system_u:system_r:kernel_t:s0\0");
        assert!(enabled(root.path()), "permissive is on as well");
    }

    #[test]
    fn pods_with_selinux_options_run_where_the_host_has_none() {
        let options = || Some(proto::SeLinuxOption { level: "s0:c1,c2".into(), ..Default::default() });
        let mut pod = super::super::pod::tests::minimal();
        let context = proto::LinuxSandboxSecurityContext { selinux_options: options(), ..Default::default() };
        pod.config.as_mut().unwrap().linux =
            Some(proto::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() });
        let pod = super::super::pod::request(pod, crisp_sandbox::CgroupDriver::Cgroupfs);

        let mut container = super::super::container::tests::minimal();
        let context =
            proto::LinuxContainerSecurityContext { selinux_options: options(), ..Default::default() };
        container.linux =
            Some(proto::LinuxContainerConfig { security_context: Some(context), ..Default::default() });
        let labelled = super::super::container::config(container);

        let mut container = super::super::container::tests::minimal();
        container.mounts = vec![proto::Mount {
            container_path: "/data".into(),
            host_path: "/srv".into(),
            selinux_relabel: true,
            ..Default::default()
        }];
        let relabelled = super::super::container::config(container);
        for accepted in [pod.is_ok(), labelled.is_ok(), relabelled.is_ok()] {
            assert_eq!(accepted, !*ENABLED);
        }
    }

    #[test]
    fn options_are_refused_by_name_only_where_selinux_is_on() {
        assert_eq!(check(false, "f", true), Ok(()));
        assert_eq!(check(true, "f", false), Ok(()));
        let message = check(true, "config.mounts[0].selinux_relabel", true).unwrap_err().to_string();
        assert!(
            message.starts_with("config.mounts[0].selinux_relabel: not supported on a host"),
            "{message}"
        );
    }
}
