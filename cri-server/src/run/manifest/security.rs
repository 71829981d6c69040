//! `securityContext` of the pod and of its containers.

use super::Map;
use super::strict_object::Object;

/// Settings of every container that does not override them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSecurity {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: bool,
    pub supplemental_groups: Vec<i64>,
    pub strict_groups: bool,
    pub sysctls: Map,
    pub seccomp: Option<Profile>,
    pub apparmor: Option<Profile>,
    pub selinux: Option<SeLinux>,
    /// The group of files in volumes; every container is a member of it.
    pub fs_group: Option<u32>,
}

/// Settings of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSecurity {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: Option<bool>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub allow_privilege_escalation: Option<bool>,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub unmasked_proc: bool,
    pub seccomp: Option<Profile>,
    pub apparmor: Option<Profile>,
    pub selinux: Option<SeLinux>,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

/// An SELinux label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeLinux {
    pub user: String,
    pub role: String,
    pub kind: String,
    pub level: String,
}

/// Reads the `securityContext` of the pod.
pub fn read_pod(spec: &Object<'_>) -> PodSecurity {
    let Some(object) = spec.object("securityContext") else { return PodSecurity::default() };
    let policy = [("Merge", false), ("Strict", true)];
    let security = PodSecurity {
        run_as_user: id(&object, "runAsUser"),
        run_as_group: id(&object, "runAsGroup"),
        run_as_non_root: object.bool("runAsNonRoot").unwrap_or(false),
        supplemental_groups: object.numbers("supplementalGroups"),
        strict_groups: object.word("supplementalGroupsPolicy", &policy).unwrap_or(false),
        sysctls: read_sysctls(&object),
        seccomp: profile(&object, "seccompProfile"),
        apparmor: profile(&object, "appArmorProfile"),
        selinux: selinux(&object),
        fs_group: object.number("fsGroup"),
    };
    // For new volumes both policies have the same effect.
    object.word("fsGroupChangePolicy", &[("Always", ()), ("OnRootMismatch", ())]);
    object.without_effect(&["seLinuxChangePolicy"]);
    object.unsupported(&["windowsOptions"]);
    object.finish();
    security
}

/// Reads the `securityContext` of a container.
pub fn read_container(container: &Object<'_>) -> ContainerSecurity {
    let Some(object) = container.object("securityContext") else { return ContainerSecurity::default() };
    let capabilities = object.object("capabilities");
    let names = |name| {
        let list = capabilities.as_ref().and_then(|c| c.strings(name)).unwrap_or_default();
        list.into_iter().map(|c| c.strip_prefix("CAP_").map_or(c.clone(), str::to_owned)).collect()
    };
    let security = ContainerSecurity {
        run_as_user: id(&object, "runAsUser"),
        run_as_group: id(&object, "runAsGroup"),
        run_as_non_root: object.bool("runAsNonRoot"),
        privileged: object.bool("privileged").unwrap_or(false),
        read_only_root: object.bool("readOnlyRootFilesystem").unwrap_or(false),
        allow_privilege_escalation: object.bool("allowPrivilegeEscalation"),
        add_capabilities: names("add"),
        drop_capabilities: names("drop"),
        unmasked_proc: object.word("procMount", &[("Default", false), ("Unmasked", true)]).unwrap_or(false),
        seccomp: profile(&object, "seccompProfile"),
        apparmor: profile(&object, "appArmorProfile"),
        selinux: selinux(&object),
    };
    if let Some(capabilities) = &capabilities {
        capabilities.finish();
    }
    object.unsupported(&["windowsOptions"]);
    object.finish();
    if security.privileged && security.allow_privilege_escalation == Some(false) {
        object.refuse("allowPrivilegeEscalation", "cannot be false in a privileged container");
    }
    security
}

fn id(object: &Object<'_>, name: &str) -> Option<i64> {
    object.number::<u32>(name).map(i64::from)
}

fn read_sysctls(object: &Object<'_>) -> Map {
    let sysctl = |sysctl: Object<'_>| {
        let (name, value) = (sysctl.required("name"), sysctl.string("value"));
        sysctl.finish();
        Some((name?, value?))
    };
    object.objects("sysctls").into_iter().filter_map(sysctl).collect()
}

fn profile(parent: &Object<'_>, name: &str) -> Option<Profile> {
    let object = parent.object(name)?;
    let kind = object.required("type");
    let path = object.string("localhostProfile");
    object.finish();
    match (kind?.as_str(), path) {
        ("RuntimeDefault", None) => Some(Profile::RuntimeDefault),
        ("Unconfined", None) => Some(Profile::Unconfined),
        ("Localhost", Some(path)) => Some(Profile::Localhost(path)),
        ("Localhost", None) => {
            object.refuse("localhostProfile", "is required with type Localhost");
            None
        }
        ("RuntimeDefault" | "Unconfined", Some(_)) => {
            object.refuse("localhostProfile", "is for type Localhost only");
            None
        }
        (other, _) => {
            object.refuse("type", format_args!("{other:?} is none of RuntimeDefault, Unconfined, Localhost"));
            None
        }
    }
}

fn selinux(parent: &Object<'_>) -> Option<SeLinux> {
    let object = parent.object("seLinuxOptions")?;
    let part = |name| object.string(name).unwrap_or_default();
    let label = SeLinux { user: part("user"), role: part("role"), kind: part("type"), level: part("level") };
    object.finish();
    Some(label)
}
