//! Converts RunPodSandboxRequest to [`PodConfig`].

use crisp_executor::cgroup::CgroupPath;
use crisp_executor::ids::PodId;
use crisp_executor::user_namespace::IdMappings;
use crisp_proto::runtime::v1 as proto;
use crisp_sandbox::systemd::{is_slice, slice_path};
use crisp_sandbox::{
    CgroupDriver, Dns, NamespaceMode, NetworkMode, PidMode, PodConfig, PortMapping, Protocol,
};

use super::{
    ConvertError, absolute, invalid, not_empty, required, selinux, texts, unsupported, user_namespace,
};
use crate::container::config::UserNamespaceRequest;

/// The name of this server's runtime handler. Clients may also leave the name empty.
pub const HANDLER: &str = "crisp";
const NAMESPACES: &str = "config.linux.security_context.namespace_options";

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
        labels: texts("config.labels", config.labels)?,
        annotations: texts("config.annotations", config.annotations)?,
        cgroup_parent: cgroup_parent(&linux.cgroup_parent, driver)?,
        network: network(&options)?,
        ipc: ipc(options.ipc)?,
        pid: pid(options.pid)?,
        user: user_namespace(&options)?,
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
    if !options.target_id.is_empty() && options.network() != proto::NamespaceMode::Target {
        return Err(invalid(at("namespace_options.target_id"), "given, though network is not TARGET"));
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

/// With TARGET the target is a pod, or one of its containers.
fn network(options: &proto::NamespaceOption) -> Result<NetworkMode, ConvertError> {
    let field = format!("{NAMESPACES}.network");
    match proto::NamespaceMode::try_from(options.network) {
        Ok(proto::NamespaceMode::Pod) => Ok(NetworkMode::Pod),
        Ok(proto::NamespaceMode::Node) => Ok(NetworkMode::Host),
        Ok(proto::NamespaceMode::Target) => match PodId::parse(&options.target_id) {
            Ok(target) => Ok(NetworkMode::Joined(target)),
            Err(error) => Err(invalid(format!("{NAMESPACES}.target_id"), error.to_string())),
        },
        Ok(proto::NamespaceMode::Container) => {
            Err(invalid(field, "CONTAINER cannot be used for a pod: use POD, NODE or TARGET"))
        }
        Err(_) => Err(unknown(&field, options.network)),
    }
}

fn ipc(mode: i32) -> Result<NamespaceMode, ConvertError> {
    let field = format!("{NAMESPACES}.ipc");
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
    let field = &format!("{NAMESPACES}.pid");
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

fn user_namespace(options: &proto::NamespaceOption) -> Result<Option<IdMappings>, ConvertError> {
    let field = format!("{NAMESPACES}.userns_options");
    Ok(match user_namespace::request(&field, options.userns_options.as_ref())? {
        UserNamespaceRequest::OfPod | UserNamespaceRequest::Host => None,
        UserNamespaceRequest::Own(mappings) => Some(mappings),
    })
}

fn unknown(field: &str, value: i32) -> ConvertError {
    invalid(field, format!("{value} is not a value of this enum"))
}

/// With the systemd driver, clients send the name or path of a slice, with cgroupfs a path. The wrong form
/// would put pods where the client does not look for them.
fn cgroup_parent(text: &str, driver: CgroupDriver) -> Result<Option<CgroupPath>, ConvertError> {
    let field = "config.linux.cgroup_parent";
    let refuse = |reason: String, theirs: CgroupDriver| {
        let (theirs, ours) = (theirs.as_str(), driver.as_str());
        let hint = format!(
            "the client's cgroup driver seems to be {theirs}, and this server's is {ours}: set both to the same (kubelet: cgroupDriver, crisp: cgroup-driver)"
        );
        invalid(field, format!("{reason}; {hint}"))
    };
    match driver {
        _ if text.is_empty() => Ok(None),
        CgroupDriver::Systemd if is_slice(text) => {
            slice_path(text).map(Some).map_err(|error| invalid(field, error.to_string()))
        }
        CgroupDriver::Systemd => {
            Err(refuse(format!("{text:?} is not a systemd slice"), CgroupDriver::Cgroupfs))
        }
        CgroupDriver::Cgroupfs if is_slice(text) => {
            Err(refuse(format!("{text:?} is a systemd slice"), CgroupDriver::Systemd))
        }
        CgroupDriver::Cgroupfs => {
            CgroupPath::parse(text).map(Some).map_err(|error| invalid(field, error.to_string()))
        }
    }
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
        assert_eq!((pod.network, pod.pid), (NetworkMode::Pod, PidMode::Pod));
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

    fn with_options(options: proto::NamespaceOption) -> Result<NetworkMode, String> {
        let mut message = minimal();
        let linux = message.config.as_mut().unwrap().linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options = Some(options);
        request(message, CgroupDriver::Cgroupfs).map(|pod| pod.network).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_joins_the_network_of_its_target() {
        let id = PodId::random();
        let joins = |target_id: &str, network: proto::NamespaceMode| {
            let options = proto::NamespaceOption { target_id: target_id.into(), ..Default::default() };
            with_options(proto::NamespaceOption { network: network.into(), ..options })
        };
        let joined = joins(id.as_str(), proto::NamespaceMode::Target);
        assert_eq!(joined, Ok(NetworkMode::Joined(id.clone())));
        for (target, mode) in [
            ("", proto::NamespaceMode::Target),
            ("../x", proto::NamespaceMode::Target),
            (id.as_str(), proto::NamespaceMode::Pod),
        ] {
            let error = joins(target, mode).unwrap_err();
            assert!(error.starts_with(&format!("{NAMESPACES}.target_id: ")), "{error}");
        }
    }

    #[test]
    fn an_unknown_handler_is_refused() {
        let mut message = minimal();
        message.runtime_handler = "kata".into();
        let error = request(message, CgroupDriver::Cgroupfs).unwrap_err();
        assert!(matches!(error, ConvertError::Unsupported { .. }));
    }

    fn with_parent(text: &str, driver: CgroupDriver) -> Result<Option<CgroupPath>, String> {
        let mut message = minimal();
        message.config.as_mut().unwrap().linux.get_or_insert_default().cgroup_parent = text.into();
        request(message, driver).map(|pod| pod.cgroup_parent).map_err(|error| error.to_string())
    }

    #[test]
    fn a_cgroup_parent_is_read_as_the_driver_says() {
        let parent = |text, driver| with_parent(text, driver).unwrap().unwrap().as_str().to_owned();
        let path = "/kubepods.slice/kubepods-pod1_2.slice";
        assert_eq!(parent("kubepods-pod1_2.slice", CgroupDriver::Systemd), path);
        assert_eq!(parent(path, CgroupDriver::Systemd), path);
        assert_eq!(parent("/kubepods/pod1", CgroupDriver::Cgroupfs), "/kubepods/pod1");
        assert_eq!(with_parent("", CgroupDriver::Systemd).unwrap(), None);
    }

    #[test]
    fn a_parent_of_the_other_driver_is_refused_with_what_to_do() {
        for (text, driver) in [
            ("/kubepods/pod1", CgroupDriver::Systemd),
            ("kubepods", CgroupDriver::Systemd),
            ("kubepods-pod1_2.slice", CgroupDriver::Cgroupfs),
            ("/kubepods.slice/kubepods-pod1_2.slice", CgroupDriver::Cgroupfs),
        ] {
            let error = with_parent(text, driver).unwrap_err();
            let words = ["config.linux.cgroup_parent: ", text, "this server's is", "cgroupDriver"];
            words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
        }
        for (text, driver) in [
            ("/a.slice/../b.slice", CgroupDriver::Systemd),
            ("../a.slice", CgroupDriver::Systemd),
            ("-.slice", CgroupDriver::Systemd),
            ("/a/../../b", CgroupDriver::Cgroupfs),
        ] {
            let error = with_parent(text, driver).unwrap_err();
            assert!(error.starts_with("config.linux.cgroup_parent: "), "{error}");
        }
    }
}
