//! Security settings of pods and containers; a container's settings override the pod's.

use crisp_proto::runtime::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption,
    SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};

use super::super::manifest::{Container, Pod, Profile, SeLinux};

/// Paths of /proc and /sys that are masked by default, as with kubelet.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that are read-only by default.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The security context of a container.
pub fn context(pod: &Pod, container: &Container) -> LinuxContainerSecurityContext {
    let (own, common) = (&container.security, &pod.security);
    let paths = |list: &[&str]| {
        if own.unmasked_proc { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() }
    };
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: own.add_capabilities.clone(),
            drop_capabilities: own.drop_capabilities.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: own.privileged,
        namespace_options: Some(namespaces(pod)),
        selinux_options: own.selinux.as_ref().or(common.selinux.as_ref()).map(selinux),
        run_as_user: own.run_as_user.or(common.run_as_user).map(number),
        run_as_group: own.run_as_group.or(common.run_as_group).map(number),
        readonly_rootfs: own.read_only_root,
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod).into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        // Unconfined is also the default of a kubelet without seccompDefault.
        seccomp: Some(profile(
            own.seccomp.as_ref().or(common.seccomp.as_ref()).unwrap_or(&Profile::Unconfined),
        )),
        apparmor: own.apparmor.as_ref().or(common.apparmor.as_ref()).map(profile),
        ..LinuxContainerSecurityContext::default()
    }
}

/// A number in the contract's form.
pub fn number(value: i64) -> Int64Value {
    Int64Value { value }
}

/// A label in the contract's form.
pub fn selinux(label: &SeLinux) -> SeLinuxOption {
    SeLinuxOption {
        user: label.user.clone(),
        role: label.role.clone(),
        r#type: label.kind.clone(),
        level: label.level.clone(),
    }
}

fn profile(profile: &Profile) -> SecurityProfile {
    let (kind, path) = match profile {
        Profile::RuntimeDefault => (ProfileType::RuntimeDefault, ""),
        Profile::Unconfined => (ProfileType::Unconfined, ""),
        Profile::Localhost(path) => (ProfileType::Localhost, path.as_str()),
    };
    SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() }
}

/// The namespaces of the pod; the requests for its containers have them too.
pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let mode = |host| if host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (pod.host_pid, pod.share_process_namespace) {
        (true, _) => NamespaceMode::Node,
        (false, true) => NamespaceMode::Pod,
        (false, false) => NamespaceMode::Container,
    };
    NamespaceOption {
        network: mode(pod.host_network).into(),
        pid: pid.into(),
        ipc: mode(pod.host_ipc).into(),
        ..NamespaceOption::default()
    }
}

/// Supplementary groups of every process of the pod; fsGroup is one of them.
pub fn groups(pod: &Pod) -> Vec<i64> {
    let security = &pod.security;
    security.supplemental_groups.iter().copied().chain(security.fs_group.map(i64::from)).collect()
}

/// Whether groups from the image's group file are added.
pub fn groups_policy(pod: &Pod) -> SupplementalGroupsPolicy {
    if pod.security.strict_groups {
        SupplementalGroupsPolicy::Strict
    } else {
        SupplementalGroupsPolicy::Merge
    }
}
