//! A container of the Pod.

use super::metadata::is_dns_name;
use super::projection::is_inside;
use super::strict_object::Object;
use super::{
    ContainerSecurity, EnvFrom, EnvVar, Lifecycle, Probe, ProbeKind, Resources, action, env, security,
};

/// A container that can be run here.
#[derive(Debug, Clone)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub pull: PullPolicy,
    /// Replaces the image's ENTRYPOINT; not yet expanded.
    pub command: Vec<String>,
    /// Replaces the image's CMD; not yet expanded.
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    /// Applied before `env`, in order.
    pub env_from: Vec<EnvFrom>,
    /// In order: later ones may refer to earlier ones.
    pub env: Vec<EnvVar>,
    pub ports: Vec<Port>,
    pub resources: Resources,
    pub mounts: Vec<VolumeMount>,
    pub security: ContainerSecurity,
    /// An init container that keeps running beside the others (restartPolicy Always).
    pub is_sidecar: bool,
    pub startup: Option<Probe>,
    pub liveness: Option<Probe>,
    pub readiness: Option<Probe>,
    pub lifecycle: Lifecycle,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// The path at which the container may leave a last message.
    pub message_path: String,
    /// If there is no message and the container fails, the end of its log is used.
    pub message_from_log: bool,
}

/// When the image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// A port, possibly published on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Probes may refer to it. May be empty.
    pub name: String,
    pub container: u16,
    pub host: Option<u16>,
    pub host_ip: Option<String>,
    pub protocol: Protocol,
}

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A mount of a volume in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    pub volume: String,
    pub path: String,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    /// Only this part of the volume. Empty for all of it.
    pub sub_path: String,
    /// `$(NAME)` in it is expanded.
    pub sub_path_is_expression: bool,
}

/// Whether later mounts become visible on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

/// Reads a list of containers.
pub fn read_all(spec: &Object<'_>, list: &str, init: bool) -> Vec<Container> {
    spec.objects(list).iter().filter_map(|object| read(object, init)).collect()
}

fn read(object: &Object<'_>, init: bool) -> Option<Container> {
    let (name, image) = (object.required("name"), object.required("image"));
    if let Some(name) = name.as_ref().filter(|name| !is_dns_name(name) || name.len() > 63) {
        object.refuse("name", format_args!("{name:?} is not a name: lower-case letters, digits and '-'"));
    }
    let working_dir = object.string("workingDir");
    if working_dir.as_ref().is_some_and(|dir| !dir.starts_with('/')) {
        object.refuse("workingDir", "must be an absolute path");
    }
    let is_sidecar = init && object.word("restartPolicy", &[("Always", ())]).is_some();
    if !init {
        object.unsupported(&["restartPolicy"]);
    }
    let probes = init && !is_sidecar;
    let probe = |kind: ProbeKind| {
        if probes && object.has(kind.field()) {
            object.refuse(kind.field(), "is not for an init container that ends");
        }
        action::read_probe(object, kind)
    };
    let lifecycle = action::read_lifecycle(object);
    if probes && (lifecycle.post_start.is_some() || lifecycle.pre_stop.is_some()) {
        object.refuse("lifecycle", "is not for an init container that ends");
    }
    let container = Container {
        name: name.unwrap_or_default(),
        pull: pull_policy(object, "imagePullPolicy", image.as_deref().unwrap_or_default()),
        image: image.unwrap_or_default(),
        command: object.strings("command").unwrap_or_default(),
        args: object.strings("args").unwrap_or_default(),
        working_dir,
        env_from: env::read_env_from(object),
        env: env::read_env(object),
        ports: object.objects("ports").iter().filter_map(read_port).collect(),
        resources: Resources::read(object),
        mounts: object.objects("volumeMounts").iter().filter_map(read_mount).collect(),
        security: security::read_container(object),
        is_sidecar,
        startup: probe(ProbeKind::Startup),
        liveness: probe(ProbeKind::Liveness),
        readiness: probe(ProbeKind::Readiness),
        lifecycle,
        stdin: object.bool("stdin").unwrap_or(false),
        stdin_once: object.bool("stdinOnce").unwrap_or(false),
        tty: object.bool("tty").unwrap_or(false),
        message_path: message_path(object),
        message_from_log: object
            .word("terminationMessagePolicy", &[("File", false), ("FallbackToLogsOnError", true)])
            .unwrap_or(false),
    };
    object.without_effect(&["resizePolicy"]);
    object.unsupported(&["volumeDevices", "restartPolicyRules"]);
    object.finish();
    Some(container).filter(|c| !c.name.is_empty() && !c.image.is_empty())
}

/// Without imagePullPolicy the tag decides: "latest" may change.
pub fn pull_policy(object: &Object<'_>, field: &str, image: &str) -> PullPolicy {
    let words = [
        ("Always", PullPolicy::Always),
        ("IfNotPresent", PullPolicy::IfNotPresent),
        ("Never", PullPolicy::Never),
    ];
    object.word(field, &words).unwrap_or_else(|| {
        let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
        let latest = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
        if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
    })
}

fn message_path(object: &Object<'_>) -> String {
    let path = object.string("terminationMessagePath").filter(|path| !path.is_empty());
    let path = path.unwrap_or_else(|| "/dev/termination-log".to_owned());
    if !path.starts_with('/') || path.contains("..") {
        object.refuse("terminationMessagePath", "must be an absolute path without \"..\"");
    }
    path
}

fn read_port(object: &Object<'_>) -> Option<Port> {
    let words = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
    let port = Port {
        name: object.string("name").unwrap_or_default(),
        container: object.number("containerPort").unwrap_or(0),
        host: object.number("hostPort").filter(|port| *port != 0),
        host_ip: object.string("hostIP").filter(|ip| !ip.is_empty()),
        protocol: object.word("protocol", &words).unwrap_or(Protocol::Tcp),
    };
    object.finish();
    if port.container == 0 {
        object.refuse("containerPort", "must be from 1 to 65535");
        return None;
    }
    if port.host_ip.as_ref().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
        object.refuse("hostIP", "is not an IP address");
    }
    Some(port)
}

fn read_mount(object: &Object<'_>) -> Option<VolumeMount> {
    let propagation = [
        ("None", Propagation::Private),
        ("HostToContainer", Propagation::HostToContainer),
        ("Bidirectional", Propagation::Bidirectional),
    ];
    let recursive = [("Disabled", false), ("IfPossible", true), ("Enabled", true)];
    let (volume, path) = (object.required("name"), object.required("mountPath"));
    let mount = VolumeMount {
        volume: volume.unwrap_or_default(),
        path: path.unwrap_or_default(),
        read_only: object.bool("readOnly").unwrap_or(false),
        recursive_read_only: object.word("recursiveReadOnly", &recursive).unwrap_or(false),
        propagation: object.word("mountPropagation", &propagation).unwrap_or(Propagation::Private),
        sub_path_is_expression: object.has("subPathExpr"),
        sub_path: sub_path(object),
    };
    object.finish();
    Some(mount).filter(|m| !m.volume.is_empty() && !m.path.is_empty())
}

fn sub_path(object: &Object<'_>) -> String {
    let plain = object.string("subPath").filter(|path| !path.is_empty());
    let expression = object.string("subPathExpr").filter(|path| !path.is_empty());
    match (plain, expression) {
        (Some(_), Some(_)) => {
            object.refuse("subPathExpr", "cannot be together with subPath");
            String::new()
        }
        (Some(path), None) => {
            if !is_inside(&path) {
                object.refuse("subPath", format_args!("{path:?} must be relative, without \"..\""));
            }
            path
        }
        (None, expression) => expression.unwrap_or_default(),
    }
}
