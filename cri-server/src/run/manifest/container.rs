//! A container of the Pod.

use super::dns_name::is_dns_name;
use super::object::Object;
use super::{ContainerSecurity, Resources, security};

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
    /// In order: later ones may refer to earlier ones.
    pub env: Vec<(String, String)>,
    pub ports: Vec<Port>,
    pub resources: Resources,
    pub mounts: Vec<VolumeMount>,
    pub security: ContainerSecurity,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// A port, possibly published on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
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

/// A volume at a place in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    pub volume: String,
    pub path: String,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
}

/// Whether later mounts appear on the other side.
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
    if init && object.string("restartPolicy").is_some() {
        object.refuse(
            "restartPolicy",
            "sidecars (init containers that go on) are not supported by crisp run yet",
        );
    }
    termination_message(object);
    let container = Container {
        name: name.unwrap_or_default(),
        pull: pull_policy(object, image.as_deref().unwrap_or_default()),
        image: image.unwrap_or_default(),
        command: object.strings("command").unwrap_or_default(),
        args: object.strings("args").unwrap_or_default(),
        working_dir,
        env: read_env(object),
        ports: object.objects("ports").iter().filter_map(read_port).collect(),
        resources: Resources::read(object),
        mounts: object.objects("volumeMounts").iter().filter_map(read_mount).collect(),
        security: security::read_container(object),
    };
    for stdin in ["stdin", "tty", "stdinOnce"] {
        if object.bool(stdin) == Some(true) {
            object.refuse(stdin, "not supported by crisp run yet");
        }
    }
    object.finish();
    Some(container).filter(|c| !c.name.is_empty() && !c.image.is_empty())
}

/// Without imagePullPolicy the tag decides: "latest" may be another image tomorrow.
fn pull_policy(object: &Object<'_>, image: &str) -> PullPolicy {
    let words = [
        ("Always", PullPolicy::Always),
        ("IfNotPresent", PullPolicy::IfNotPresent),
        ("Never", PullPolicy::Never),
    ];
    object.word("imagePullPolicy", &words).unwrap_or_else(|| {
        let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
        let latest = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
        if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
    })
}

/// Termination messages are not read here. Every exported Pod has these fields, so they are accepted.
fn termination_message(object: &Object<'_>) {
    for (name, usual) in
        [("terminationMessagePath", "/dev/termination-log"), ("terminationMessagePolicy", "File")]
    {
        if object.string(name).is_some_and(|value| value != usual) {
            object.refuse(name, format_args!("only {usual} is supported by crisp run yet"));
        }
    }
}

fn read_env(object: &Object<'_>) -> Vec<(String, String)> {
    let variable = |variable: &Object<'_>| {
        let (name, value) = (variable.required("name"), variable.string("value"));
        if let Some(from) = variable.object("valueFrom") {
            from.finish();
        }
        variable.finish();
        if name.as_ref().is_some_and(|name| name.contains(['=', '\0'])) {
            variable.refuse("name", "must not have '=' in it");
        }
        Some((name?, value.unwrap_or_default()))
    };
    object.objects("env").iter().filter_map(variable).collect()
}

fn read_port(object: &Object<'_>) -> Option<Port> {
    let words = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
    object.string("name");
    let port = Port {
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
    };
    object.finish();
    Some(mount).filter(|m| !m.volume.is_empty() && !m.path.is_empty())
}
