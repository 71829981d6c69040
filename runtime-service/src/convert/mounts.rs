//! Converts mounts and devices.

use crisp_proto::runtime::v1 as proto;

use super::{ConvertError, absolute, invalid, selinux, unsupported};
use crate::container::config::{Device, Mount, Propagation};

pub(super) fn mounts(values: Vec<proto::Mount>) -> Result<Vec<Mount>, ConvertError> {
    values.into_iter().enumerate().map(|(i, m)| mount(&format!("config.mounts[{i}]"), m)).collect()
}

fn mount(at: &str, value: proto::Mount) -> Result<Mount, ConvertError> {
    let field = |name: &str| format!("{at}.{name}");
    if value.image.as_ref().is_some_and(|image| !image.image.is_empty()) || !value.image_sub_path.is_empty() {
        return Err(unsupported(field("image"), " yet: image volumes"));
    }
    if !value.uid_mappings.is_empty() || !value.gid_mappings.is_empty() {
        return Err(unsupported(field("uidMappings"), " yet: idmapped mounts"));
    }
    if !value.mount_options.is_empty() {
        return Err(unsupported(field("mount_options"), " yet"));
    }
    selinux::check_relabel(&field("selinux_relabel"), value.selinux_relabel)?;
    let propagation = match proto::MountPropagation::try_from(value.propagation) {
        Ok(proto::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(proto::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(proto::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => {
            return Err(invalid(
                field("propagation"),
                format!("{} is not a value of this enum", value.propagation),
            ));
        }
    };
    if value.recursive_read_only {
        check_recursive(&field("recursive_read_only"), value.readonly, propagation)?;
    }
    Ok(Mount {
        container_path: absolute(&field("container_path"), value.container_path)?,
        host_path: absolute(&field("host_path"), value.host_path)?,
        readonly: value.readonly,
        recursive_readonly: value.recursive_read_only,
        propagation,
    })
}

/// The contract requires both fields with `recursive_read_only`: a client that sets it without them has
/// not understood what is protected.
fn check_recursive(field: &str, readonly: bool, propagation: Propagation) -> Result<(), ConvertError> {
    if !readonly {
        return Err(invalid(field, "needs readonly to be set too"));
    }
    if propagation != Propagation::Private {
        return Err(invalid(field, "needs the propagation to be PROPAGATION_PRIVATE"));
    }
    Ok(())
}

pub(super) fn devices(values: Vec<proto::Device>) -> Result<Vec<Device>, ConvertError> {
    values.into_iter().enumerate().map(|(i, d)| device(&format!("config.devices[{i}]"), d)).collect()
}

fn device(at: &str, value: proto::Device) -> Result<Device, ConvertError> {
    let host_path = absolute(&format!("{at}.host_path"), value.host_path)?;
    let container_path = match value.container_path.as_str() {
        "" => host_path.clone(),
        _ => absolute(&format!("{at}.container_path"), value.container_path)?,
    };
    let permissions = if value.permissions.is_empty() { "rwm".to_owned() } else { value.permissions };
    if !permissions.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(invalid(
            format!("{at}.permissions"),
            format!("{permissions:?} is not made of r, w and m"),
        ));
    }
    Ok(Device { container_path, host_path, permissions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> proto::Mount {
        proto::Mount { container_path: "/data".into(), host_path: "/srv".into(), ..Default::default() }
    }

    fn refused(change: impl FnOnce(&mut proto::Mount)) -> String {
        let mut value = volume();
        change(&mut value);
        mounts(vec![volume(), value]).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_mount() {
        let cases = [
            (refused(|m| m.container_path = "data".into()), "config.mounts[1].container_path: "),
            (refused(|m| m.host_path.clear()), "config.mounts[1].host_path: empty"),
            (refused(|m| m.propagation = 9), "config.mounts[1].propagation: 9"),
            (
                refused(|m| m.recursive_read_only = true),
                "config.mounts[1].recursive_read_only: needs readonly",
            ),
            (
                refused(|m| m.image = Some(proto::ImageSpec { image: "a".into(), ..Default::default() })),
                "config.mounts[1].image: not supported",
            ),
            (
                refused(|m| {
                    (m.recursive_read_only, m.readonly, m.propagation) = (true, true, 1);
                }),
                "config.mounts[1].recursive_read_only: needs the propagation",
            ),
        ];
        for (message, expected) in cases {
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_device_has_the_path_of_the_host_by_default() {
        let value = proto::Device { host_path: "/dev/fuse".into(), ..Default::default() };
        let device = devices(vec![value]).unwrap().remove(0);
        assert_eq!((device.container_path, device.permissions), ("/dev/fuse".into(), "rwm".into()));
        let value =
            proto::Device { host_path: "/dev/fuse".into(), permissions: "x".into(), ..Default::default() };
        assert!(devices(vec![value]).is_err());
    }
}
