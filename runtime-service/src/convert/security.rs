//! Converts LinuxContainerSecurityContext.

use crisp_proto::runtime::v1 as proto;

use super::profile::AT;
use super::{ConvertError, absolute, id, invalid, no_nul, profile, selinux, user_namespace};
use crate::container::config::{CapabilityNames, GroupsPolicy, PidNamespaceRequest, Security, UserRequest};
use crate::spec::capabilities;

pub(super) fn security(
    context: Option<proto::LinuxContainerSecurityContext>,
) -> Result<Security, ConvertError> {
    let context = context.unwrap_or_default();
    let field = |name: &str| format!("{AT}.{name}");
    selinux::check_options(&field("selinux_options"), context.selinux_options.as_ref())?;
    let pid = pid(context.namespace_options.as_ref())?;
    let options = context.namespace_options.clone().unwrap_or_default();
    let host = |mode: i32| mode == proto::NamespaceMode::Node as i32;
    let user = user(&context)?;
    let (seccomp, apparmor) = (profile::seccomp(&context)?, profile::apparmor(&context)?);
    let caps = context.capabilities.unwrap_or_default();
    Ok(Security {
        privileged: context.privileged,
        user,
        group: context.run_as_group.map(|g| id(&field("run_as_group"), g.value)).transpose()?,
        supplemental_groups: context
            .supplemental_groups
            .iter()
            .map(|g| id(&field("supplemental_groups"), *g))
            .collect::<Result<_, _>>()?,
        groups_policy: groups_policy(context.supplemental_groups_policy)?,
        add_capabilities: names(&field("capabilities.add_capabilities"), &caps.add_capabilities)?,
        drop_capabilities: names(&field("capabilities.drop_capabilities"), &caps.drop_capabilities)?,
        ambient_capabilities: ambient(&caps.add_ambient_capabilities)?,
        no_new_privileges: context.no_new_privs,
        readonly_rootfs: context.readonly_rootfs,
        masked_paths: paths(&field("masked_paths"), context.masked_paths)?,
        readonly_paths: paths(&field("readonly_paths"), context.readonly_paths)?,
        seccomp,
        apparmor,
        pid,
        user_namespace: user_namespace::request(
            &field("namespace_options.userns_options"),
            options.userns_options.as_ref(),
        )?,
        host_network: host(options.network),
        host_ipc: host(options.ipc),
    })
}

fn user(context: &proto::LinuxContainerSecurityContext) -> Result<UserRequest, ConvertError> {
    let named = !context.run_as_username.is_empty();
    if named && context.run_as_user.is_some() {
        return Err(invalid(format!("{AT}.run_as_username"), "given together with run_as_user"));
    }
    let user = match context.run_as_user {
        Some(number) => UserRequest::Id(id(&format!("{AT}.run_as_user"), number.value)?),
        None if named => {
            UserRequest::Name(no_nul(&format!("{AT}.run_as_username"), context.run_as_username.clone())?)
        }
        None => UserRequest::Image,
    };
    if context.run_as_group.is_some() && user == UserRequest::Image {
        return Err(invalid(format!("{AT}.run_as_group"), "given without run_as_user or run_as_username"));
    }
    Ok(user)
}

fn groups_policy(value: i32) -> Result<GroupsPolicy, ConvertError> {
    match proto::SupplementalGroupsPolicy::try_from(value) {
        Ok(proto::SupplementalGroupsPolicy::Merge) => Ok(GroupsPolicy::Merge),
        Ok(proto::SupplementalGroupsPolicy::Strict) => Ok(GroupsPolicy::Strict),
        Err(_) => Err(invalid(
            format!("{AT}.supplemental_groups_policy"),
            format!("{value} is not a value of this enum"),
        )),
    }
}

fn names(field: &str, values: &[String]) -> Result<CapabilityNames, ConvertError> {
    let mut names = CapabilityNames::default();
    for value in values {
        if value.eq_ignore_ascii_case("ALL") {
            names.all = true;
        } else {
            names.names.push(capability(field, value)?);
        }
    }
    Ok(names)
}

fn ambient(values: &[String]) -> Result<Vec<String>, ConvertError> {
    let field = format!("{AT}.capabilities.add_ambient_capabilities");
    values.iter().map(|value| capability(&field, value)).collect()
}

fn capability(field: &str, value: &str) -> Result<String, ConvertError> {
    capabilities::parse(value)
        .map(|capability| format!("CAP_{capability}"))
        .ok_or_else(|| invalid(field, format!("{value:?} is not a capability")))
}

fn paths(field: &str, values: Vec<String>) -> Result<Vec<String>, ConvertError> {
    for (i, value) in values.iter().enumerate() {
        absolute(&format!("{field}[{i}]"), value.clone())?;
    }
    Ok(values)
}

fn pid(options: Option<&proto::NamespaceOption>) -> Result<PidNamespaceRequest, ConvertError> {
    let Some(options) = options else { return Ok(PidNamespaceRequest::OfPod) };
    let field = format!("{AT}.namespace_options");
    for (name, mode) in [("network", options.network), ("ipc", options.ipc)] {
        // NODE is checked against the pod's mode when the container is created.
        if !matches!(
            proto::NamespaceMode::try_from(mode),
            Ok(proto::NamespaceMode::Pod | proto::NamespaceMode::Node)
        ) {
            return Err(invalid(format!("{field}.{name}"), format!("{mode}: a container shares the pod's")));
        }
    }
    match proto::NamespaceMode::try_from(options.pid) {
        Ok(proto::NamespaceMode::Pod) => Ok(PidNamespaceRequest::Pod),
        Ok(proto::NamespaceMode::Container) => Ok(PidNamespaceRequest::Own),
        Ok(proto::NamespaceMode::Node) => Ok(PidNamespaceRequest::Host),
        Ok(proto::NamespaceMode::Target) if options.target_id.is_empty() => {
            Err(invalid(format!("{field}.target_id"), "empty, though pid is TARGET"))
        }
        Ok(proto::NamespaceMode::Target) => Ok(PidNamespaceRequest::Target(options.target_id.clone())),
        Err(_) => {
            Err(invalid(format!("{field}.pid"), format!("{} is not a value of this enum", options.pid)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::SeccompRequest;

    type Context = proto::LinuxContainerSecurityContext;

    fn converted(change: impl FnOnce(&mut Context)) -> Result<Security, ConvertError> {
        let mut context = Context::default();
        change(&mut context);
        security(Some(context))
    }

    fn refused(change: impl FnOnce(&mut Context)) -> String {
        converted(change).unwrap_err().to_string()
    }

    fn value(value: i64) -> Option<proto::Int64Value> {
        Some(proto::Int64Value { value })
    }

    fn caps(add: &[&str]) -> Option<proto::Capability> {
        let add_capabilities = add.iter().map(|c| (*c).to_owned()).collect();
        Some(proto::Capability { add_capabilities, ..Default::default() })
    }

    #[test]
    fn the_default_is_the_image_user_in_the_pods_namespaces() {
        let security = security(None).unwrap();
        assert_eq!((security.user, security.pid), (UserRequest::Image, PidNamespaceRequest::OfPod));
        assert_eq!(security.seccomp, SeccompRequest::Unconfined);
    }

    #[test]
    fn user_ids_are_checked() {
        assert_eq!(converted(|c| c.run_as_user = value(0)).unwrap().user, UserRequest::Id(0));
        for bad in [-1, 1 << 32, u32::MAX.into()] {
            assert!(
                refused(|c| c.run_as_user = value(bad)).starts_with(&format!("{AT}.run_as_user: ")),
                "{bad}"
            );
        }
        assert!(refused(|c| c.run_as_group = value(1)).starts_with(&format!("{AT}.run_as_group: ")));
        let both = refused(|c| (c.run_as_user, c.run_as_username) = (value(1), "a".into()));
        assert!(both.starts_with(&format!("{AT}.run_as_username: ")), "{both}");
    }

    #[test]
    fn capabilities_are_named_with_or_without_prefix() {
        let security = converted(|c| c.capabilities = caps(&["net_admin", "CAP_SYS_TIME", "all"])).unwrap();
        assert_eq!(security.add_capabilities.names, ["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
        assert!(security.add_capabilities.all);
        let message = refused(|c| c.capabilities = caps(&["FLY"]));
        assert!(message.contains("add_capabilities: \"FLY\" is not a capability"), "{message}");
    }

    #[test]
    fn the_old_seccomp_field_still_works() {
        #[expect(deprecated)]
        let of = |path: &str| converted(|c| c.seccomp_profile_path = path.into()).map(|s| s.seccomp);
        assert_eq!(of("runtime/default").unwrap(), SeccompRequest::RuntimeDefault);
        assert_eq!(of("localhost//etc/p.json").unwrap(), SeccompRequest::Localhost("/etc/p.json".into()));
        assert!(of("localhost/p.json").is_err() && of("nonsense").is_err());
    }

    #[test]
    fn a_target_needs_its_id() {
        let options = proto::NamespaceOption { pid: 3, ..Default::default() };
        assert!(refused(|c| c.namespace_options = Some(options)).contains("target_id: empty"));
    }
}
