//! Converts seccomp and AppArmor profiles, from the contract's present and deprecated fields.

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::security_profile::ProfileType;

use super::{ConvertError, absolute, invalid};
use crate::container::config::{AppArmorRequest, SeccompRequest};

pub(super) const AT: &str = "config.linux.security_context";

pub(super) fn seccomp(
    context: &proto::LinuxContainerSecurityContext,
) -> Result<SeccompRequest, ConvertError> {
    if let Some(profile) = &context.seccomp {
        let field = format!("{AT}.seccomp");
        return match profile_type(&field, profile)? {
            ProfileType::RuntimeDefault => Ok(SeccompRequest::RuntimeDefault),
            ProfileType::Unconfined => Ok(SeccompRequest::Unconfined),
            ProfileType::Localhost => {
                let reference = format!("{field}.localhost_ref");
                // The deprecated field had this prefix; containerd accepts it here too.
                let path = profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref);
                absolute(&reference, path.to_owned()).map(SeccompRequest::Localhost)
            }
        };
    }
    // The deprecated field: kubelet no longer sends it, older clients do.
    let field = format!("{AT}.seccomp_profile_path");
    #[expect(deprecated, reason = "older clients send it")]
    let path = &context.seccomp_profile_path;
    match path.as_str() {
        "" | "unconfined" => Ok(SeccompRequest::Unconfined),
        "runtime/default" | "docker/default" => Ok(SeccompRequest::RuntimeDefault),
        other => match other.strip_prefix("localhost/") {
            Some(path) => absolute(&field, path.to_owned()).map(SeccompRequest::Localhost),
            None => Err(invalid(field, format!("{other:?} is not a seccomp profile"))),
        },
    }
}

pub(super) fn apparmor(
    context: &proto::LinuxContainerSecurityContext,
) -> Result<AppArmorRequest, ConvertError> {
    let localhost = |field: String, name: &str| match name {
        "" => Err(invalid(field, "empty")),
        name => Ok(AppArmorRequest::Localhost(name.to_owned())),
    };
    if let Some(profile) = &context.apparmor {
        let field = format!("{AT}.apparmor");
        return match profile_type(&field, profile)? {
            ProfileType::RuntimeDefault => Ok(AppArmorRequest::RuntimeDefault),
            ProfileType::Unconfined => Ok(AppArmorRequest::Unconfined),
            ProfileType::Localhost => {
                let name = profile.localhost_ref.trim_start_matches("localhost/");
                localhost(format!("{field}.localhost_ref"), name)
            }
        };
    }
    #[expect(deprecated, reason = "older clients send it")]
    let profile = context.apparmor_profile.as_str();
    let field = format!("{AT}.apparmor_profile");
    match profile {
        "" => Ok(AppArmorRequest::Unspecified),
        "runtime/default" => Ok(AppArmorRequest::RuntimeDefault),
        "unconfined" => Ok(AppArmorRequest::Unconfined),
        other => match other.strip_prefix("localhost/") {
            Some(name) => localhost(field, name),
            None => Err(invalid(field, format!("{other:?} is not an AppArmor profile"))),
        },
    }
}

fn profile_type(field: &str, profile: &proto::SecurityProfile) -> Result<ProfileType, ConvertError> {
    ProfileType::try_from(profile.profile_type).map_err(|_| {
        invalid(
            format!("{field}.profile_type"),
            format!("{} is not a value of this enum", profile.profile_type),
        )
    })
}
