//! Converts mounts and devices.

use std::path::{Component, Path, PathBuf};

use crisp_proto::runtime::v1 as proto;

use super::{ConvertError, absolute, invalid, selinux, unsupported, user_namespace};
use crate::container::config::{Device, Mount, MountedImage, Propagation};

pub(super) fn mounts(values: Vec<proto::Mount>) -> Result<Vec<Mount>, ConvertError> {
    values.into_iter().enumerate().map(|(i, m)| mount(&format!("config.mounts[{i}]"), m)).collect()
}

fn mount(at: &str, value: proto::Mount) -> Result<Mount, ConvertError> {
    let field = |name: &str| format!("{at}.{name}");
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
    let options = options(&field("mount_options"), value.mount_options)?;
    let image = mounted_image(at, value.image, value.image_sub_path)?;
    let host_path = match &image {
        None => absolute(&field("host_path"), value.host_path)?,
        Some(_) if !value.host_path.is_empty() => {
            return Err(invalid(field("host_path"), "given beside an image, which takes its place"));
        }
        Some(_) if propagation != Propagation::Private => {
            return Err(invalid(field("propagation"), "an image can only have PROPAGATION_PRIVATE"));
        }
        Some(_) => PathBuf::new(),
    };
    Ok(Mount {
        container_path: absolute(&field("container_path"), value.container_path)?,
        host_path,
        readonly: value.readonly || image.is_some(),
        image,
        options,
        recursive_readonly: value.recursive_read_only,
        propagation,
        mappings: user_namespace::of_mount(at, &value.uid_mappings, &value.gid_mappings)?,
    })
}

fn mounted_image(
    at: &str,
    image: Option<proto::ImageSpec>,
    sub_path: String,
) -> Result<Option<MountedImage>, ConvertError> {
    let field = |name: &str| format!("{at}.{name}");
    let Some(image) = image.filter(|image| !image.image.is_empty()) else {
        if !sub_path.is_empty() {
            return Err(invalid(field("image_sub_path"), "given without an image"));
        }
        return Ok(None);
    };
    let below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if sub_path.contains('\0') || !Path::new(&sub_path).components().all(below) {
        return Err(invalid(field("image_sub_path"), format!("{sub_path:?} is not a path below the image")));
    }
    let request = super::image::request(&field("image"), image)?;
    Ok(Some(MountedImage { request, sub_path }))
}

/// Only options that restrict the files of a mount: the others have fields of their own.
fn options(field: &str, options: Vec<String>) -> Result<Vec<String>, ConvertError> {
    const KNOWN: [&str; 3] = ["noexec", "nodev", "nosuid"];
    match options.iter().find(|option| !KNOWN.contains(&option.as_str())) {
        None => Ok(options),
        Some(option) => {
            Err(unsupported(format!("{field}: {option:?}"), ": only noexec, nodev and nosuid are"))
        }
    }
}

/// The contract requires both fields with `recursive_read_only`: a client that sets it without them has
/// misunderstood it.
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
            (refused(|m| m.image = image("a")), "config.mounts[1].host_path: given beside an image"),
            (refused(|m| m.image_sub_path = "a".into()), "config.mounts[1].image_sub_path: given without"),
            (refused(|m| m.mount_options = vec!["ro".into()]), "config.mounts[1].mount_options: \"ro\""),
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

    fn image(name: &str) -> Option<proto::ImageSpec> {
        Some(proto::ImageSpec { image: name.into(), ..Default::default() })
    }

    #[test]
    fn an_image_is_mounted_read_only_and_no_path_leads_out_of_it() {
        let mounted = |sub_path: &str, propagation| {
            let sub_path = sub_path.to_owned();
            let value = proto::Mount {
                host_path: String::new(),
                image: image("a"),
                image_sub_path: sub_path,
                propagation,
                ..volume()
            };
            mounts(vec![value]).map(|mut mounts| mounts.remove(0)).map_err(|error| error.to_string())
        };
        let mount = mounted("sub/./path", 0).unwrap();
        assert!(mount.readonly && mount.host_path == Path::new(""));
        assert_eq!(mount.image.unwrap().sub_path, "sub/./path");
        for path in ["/sub", "..", "sub/../..", "a\0b"] {
            assert!(mounted(path, 0).unwrap_err().starts_with("config.mounts[0].image_sub_path: "), "{path}");
        }
        assert!(mounted("", 1).unwrap_err().starts_with("config.mounts[0].propagation: an image"));
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
