//! Converts RunPodSandboxRequest to [`PodConfig`].

use crisp_executor::cgroup::CgroupPath;
use crisp_proto::runtime::v1 as proto;
use crisp_sandbox::{Dns, NamespaceMode, PidMode, PodConfig, PortMapping, Protocol};

use super::{ConvertError, absolute, invalid, not_empty, required, selinux, unsupported};
use crate::config::CgroupDriver;

/// The name of this server's runtime handler. Clients may also leave the name empty.
pub const HANDLER: &str = "crisp";

/// # Errors
/// [`ConvertError`] naming the field.
pub fn request(
    request: proto::RunPodSandboxRequest,
    driver: CgroupDriver,
) -> Result<PodConfig, ConvertError> {
    if !matches!(request.runtime_handler.as_str(), "" | HANDLER) {
        let hint = format!(" by the name {:?}; this server has {HANDLER:?}", request.runtime_handler);
        return Err(unsupported("runtime_handler", hint));
    }
    let config = required("config", request.config)?;
    if config.windows.is_some() {
        return Err(unsupported("config.windows", " on Linux"));
    }
    let metadata = required("config.metadata", config.metadata)?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let options = security.namespace_options.clone().unwrap_or_default();
    refuse_unsupported(&security, &options)?;
    Ok(PodConfig {
        name: not_empty("config.metadata.name", metadata.name)?,
        namespace: not_empty("config.metadata.namespace", metadata.namespace)?,
        uid: not_empty("config.metadata.uid", metadata.uid)?,
        attempt: metadata.attempt,
        hostname: config.hostname,
        log_directory: match config.log_directory.as_str() {
            "" => None,
            _ => Some(absolute("config.log_directory", config.log_directory)?),
        },
        dns: config.dns_config.map(dns).unwrap_or_default(),
        port_mappings: ports(config.port_mappings)?,
        labels: config.labels,
        annotations: config.annotations,
        cgroup_parent: cgroup_parent(&linux.cgroup_parent, driver)?,
        network: shared_or_host("network", options.network)?,
        ipc: shared_or_host("ipc", options.ipc)?,
        pid: pid(options.pid)?,
        sysctls: linux.sysctls,
        privileged: security.privileged,
        runtime_handler: request.runtime_handler,
    })
}

fn refuse_unsupported(
    security: &proto::LinuxSandboxSecurityContext,
    options: &proto::NamespaceOption,
) -> Result<(), ConvertError> {
    let at = |name: &str| format!("config.linux.security_context.{name}");
    selinux::check_options(&at("selinux_options"), security.selinux_options.as_ref())?;
    super::security::refuse_user_namespace(&at("namespace_options"), options.userns_options.as_ref())?;
    if !options.target_id.is_empty() {
        return Err(invalid(at("namespace_options.target_id"), "a pod has no target container"));
    }
    // The other fields (run_as_user, seccomp, ...) are about a pause process: see the list in mod.rs.
    Ok(())
}

fn dns(config: proto::DnsConfig) -> Dns {
    Dns { servers: config.servers, searches: config.searches, options: config.options }
}

fn ports(mappings: Vec<proto::PortMapping>) -> Result<Vec<PortMapping>, ConvertError> {
    mappings.into_iter().enumerate().map(|(i, m)| port(&format!("config.port_mappings[{i}]"), m)).collect()
}

fn port(at: &str, mapping: proto::PortMapping) -> Result<PortMapping, ConvertError> {
    let number = |name: &str, value: i32| {
        u16::try_from(value).map_err(|_| invalid(format!("{at}.{name}"), format!("{value} is not a port")))
    };
    let protocol = match proto::Protocol::try_from(mapping.protocol) {
        Ok(proto::Protocol::Tcp) => Protocol::Tcp,
        Ok(proto::Protocol::Udp) => Protocol::Udp,
        Ok(proto::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => return Err(unknown(&format!("{at}.protocol"), mapping.protocol)),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| invalid(format!("{at}.host_ip"), format!("{text:?} is not an IP address")))?,
        ),
    };
    Ok(PortMapping {
        protocol,
        container_port: number("container_port", mapping.container_port)?,
        host_port: number("host_port", mapping.host_port)?,
        host_ip,
    })
}

fn shared_or_host(name: &str, mode: i32) -> Result<NamespaceMode, ConvertError> {
    let field = format!("config.linux.security_context.namespace_options.{name}");
    match proto::NamespaceMode::try_from(mode) {
        Ok(proto::NamespaceMode::Pod) => Ok(NamespaceMode::Pod),
        Ok(proto::NamespaceMode::Node) => Ok(NamespaceMode::Host),
        Ok(other @ (proto::NamespaceMode::Container | proto::NamespaceMode::Target)) => {
            Err(invalid(field, format!("{} cannot be used for a pod: use POD or NODE", other.as_str_name())))
        }
        Err(_) => Err(unknown(&field, mode)),
    }
}

fn pid(mode: i32) -> Result<PidMode, ConvertError> {
    let field = "config.linux.security_context.namespace_options.pid";
    match proto::NamespaceMode::try_from(mode) {
        Ok(proto::NamespaceMode::Pod) => Ok(PidMode::Pod),
        Ok(proto::NamespaceMode::Container) => Ok(PidMode::Container),
        Ok(proto::NamespaceMode::Node) => Ok(PidMode::Host),
        Ok(proto::NamespaceMode::Target) => {
            Err(invalid(field, "TARGET cannot be used for a pod: use POD, CONTAINER or NODE"))
        }
        Err(_) => Err(unknown(field, mode)),
    }
}

fn unknown(field: &str, value: i32) -> ConvertError {
    invalid(field, format!("{value} is not a value of this enum"))
}

/// With the systemd driver clients send the name of a slice, from which its path follows.
fn cgroup_parent(text: &str, driver: CgroupDriver) -> Result<Option<CgroupPath>, ConvertError> {
    let field = "config.linux.cgroup_parent";
    let path = match (text, driver) {
        ("", _) => return Ok(None),
        (slice, CgroupDriver::Systemd) if !slice.contains('/') => expand_slice(slice)
            .ok_or_else(|| invalid(field, format!("{slice:?} is not the name of a systemd slice")))?,
        (path, _) => path.to_owned(),
    };
    CgroupPath::parse(&path).map(Some).map_err(|e| invalid(field, e.to_string()))
}

/// `a-b.slice` → `/a.slice/a-b.slice`, see systemd.slice(5).
fn expand_slice(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name.is_empty() || name.split('-').any(str::is_empty) {
        return None;
    }
    let mut path = String::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push_str(&format!("/{}.slice", &name[..end]));
    }
    Some(path)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn minimal() -> proto::RunPodSandboxRequest {
        let metadata = proto::PodSandboxMetadata {
            name: "web".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 2,
        };
        let config = proto::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
        proto::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
    }

    fn refused(change: impl FnOnce(&mut proto::PodSandboxConfig)) -> String {
        let mut message = minimal();
        change(message.config.as_mut().unwrap());
        request(message, CgroupDriver::Cgroupfs).unwrap_err().to_string()
    }

    #[test]
    fn a_minimal_pod_shares_everything() {
        let pod = request(minimal(), CgroupDriver::Cgroupfs).unwrap();
        assert_eq!((pod.name.as_str(), pod.attempt), ("web", 2));
        assert_eq!((pod.network, pod.pid), (NamespaceMode::Pod, PidMode::Pod));
        assert_eq!(pod.cgroup_parent, None);
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (refused(|c| c.metadata = None), "config.metadata: missing"),
            (refused(|c| c.metadata.as_mut().unwrap().name.clear()), "config.metadata.name: empty"),
            (
                refused(|c| c.log_directory = "logs".into()),
                "config.log_directory: \"logs\" is not an absolute path",
            ),
            (refused(|c| c.windows = Some(Default::default())), "config.windows: not supported"),
            (
                refused(|c| {
                    c.port_mappings = vec![proto::PortMapping { host_port: 70000, ..Default::default() }];
                }),
                "config.port_mappings[0].host_port: 70000 is not a port",
            ),
            (
                refused(|c| {
                    let options = proto::NamespaceOption { network: 1, ..Default::default() };
                    let context = proto::LinuxSandboxSecurityContext {
                        namespace_options: Some(options),
                        ..Default::default()
                    };
                    c.linux = Some(proto::LinuxPodSandboxConfig {
                        security_context: Some(context),
                        ..Default::default()
                    });
                }),
                "config.linux.security_context.namespace_options.network: CONTAINER cannot be used",
            ),
            (
                refused(|c| {
                    c.linux = Some(proto::LinuxPodSandboxConfig {
                        cgroup_parent: "/a/../b".into(),
                        ..Default::default()
                    });
                }),
                "config.linux.cgroup_parent: ",
            ),
        ];
        for (message, expected) in cases {
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn an_unknown_handler_is_refused() {
        let mut message = minimal();
        message.runtime_handler = "kata".into();
        let error = request(message, CgroupDriver::Cgroupfs).unwrap_err();
        assert!(matches!(error, ConvertError::Unsupported { .. }));
    }

    #[test]
    fn slices_become_paths() {
        assert_eq!(
            expand_slice("kubepods-burstable-pod1_2.slice").as_deref(),
            Some("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice")
        );
        assert_eq!(expand_slice("system.slice").as_deref(), Some("/system.slice"));
        for bad in [".slice", "a--b.slice", "-a.slice", "a-.slice", "a", "a.scope"] {
            assert_eq!(expand_slice(bad), None, "{bad}");
        }
    }
}
