//! Adds the edits of CDI devices to a spec.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crisp_executor::hook::Kind;
use oci_spec::runtime::{Hook, Hooks, LinuxDevice, LinuxDeviceType, Mount};

use super::SpecError;
use super::devices::{self, Devices};
use super::mounts::same_place;
use crate::cdi::{self, DeviceNode, HostMount};
use crate::container::User;

/// Adds device nodes, which replace others at the same paths. `user` is their owner if the CDI spec names
/// none.
///
/// # Errors
/// A host device is missing.
pub(super) fn add_nodes(devices: &mut Devices, nodes: &[DeviceNode], user: &User) -> Result<(), SpecError> {
    for node in nodes {
        let described = describe(node, user)?;
        if described.typ() != LinuxDeviceType::P {
            let (major, minor) = (Some(described.major()), Some(described.minor()));
            devices.rules.push(devices::rule(true, described.typ(), major, minor, &node.permissions));
        }
        devices.nodes.push(described);
    }
    devices::dedupe(&mut devices.nodes);
    Ok(())
}

fn describe(node: &DeviceNode, user: &User) -> Result<LinuxDevice, SpecError> {
    let known = match node.kind {
        Some('p') => Some((LinuxDeviceType::P, (0, 0))),
        Some('b') => node.numbers.map(|numbers| (LinuxDeviceType::B, numbers)),
        Some(_) => node.numbers.map(|numbers| (LinuxDeviceType::C, numbers)),
        None => None,
    };
    let (typ, (major, minor), mode) = match known {
        Some((typ, numbers)) => (typ, numbers, node.mode),
        None => {
            let host = fs::metadata(&node.host_path).map_err(|source| missing(node, source))?;
            let (typ, numbers) = of_host(&host).ok_or_else(|| SpecError::NotADevice {
                field: FIELD.to_owned(),
                path: node.host_path.clone(),
            })?;
            (typ, node.numbers.unwrap_or(numbers), node.mode.or(Some(host.mode() & 0o7777)))
        }
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(node.container_path.clone())
        .set_typ(typ)
        .set_major(major)
        .set_minor(minor)
        .set_file_mode(mode)
        .set_uid(Some(node.uid.unwrap_or(user.uid)))
        .set_gid(Some(node.gid.unwrap_or(user.gid)));
    Ok(device)
}

const FIELD: &str = "config.CDI_devices";

fn missing(node: &DeviceNode, source: std::io::Error) -> SpecError {
    SpecError::Device { field: FIELD.to_owned(), path: node.host_path.clone(), source }
}

fn of_host(host: &Metadata) -> Option<(LinuxDeviceType, (i64, i64))> {
    let kind = host.file_type();
    let typ = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => LinuxDeviceType::C,
        (_, true) => LinuxDeviceType::B,
        _ => return None,
    };
    Some((typ, devices::numbers(host)))
}

/// Adds mounts, which replace others at the same targets.
pub(super) fn add_mounts(mounts: &mut Vec<Mount>, added: &[HostMount]) {
    if added.is_empty() {
        return;
    }
    for new in added {
        mounts.retain(|mount| !same_place(mount.destination(), &new.container_path));
        mounts.push(mount(new));
    }
    mounts.sort_by_key(|mount| mount.destination().components().count());
}

fn mount(new: &HostMount) -> Mount {
    let mut options = new.options.clone();
    let kind = if new.kind.is_empty() {
        if !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.push("rbind".to_owned());
        }
        "bind"
    } else {
        &new.kind
    };
    let mut mount = Mount::default();
    mount
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(new.host_path.clone()))
        .set_destination(Path::new("/").join(&new.container_path))
        .set_options(Some(options));
    mount
}

/// The hooks of a spec. None for an empty list.
pub(crate) fn hooks(added: &[cdi::Hook]) -> Option<Hooks> {
    if added.is_empty() {
        return None;
    }
    let of = |kind: Kind| -> Option<Vec<Hook>> {
        let hooks: Vec<Hook> = added.iter().filter(|hook| hook.kind == kind).map(hook).collect();
        (!hooks.is_empty()).then_some(hooks)
    };
    let mut hooks = Hooks::default();
    hooks
        .set_prestart(of(Kind::Prestart))
        .set_create_runtime(of(Kind::CreateRuntime))
        .set_create_container(of(Kind::CreateContainer))
        .set_start_container(of(Kind::StartContainer))
        .set_poststart(of(Kind::Poststart))
        .set_poststop(of(Kind::Poststop));
    Some(hooks)
}

fn hook(added: &cdi::Hook) -> Hook {
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let mut hook = Hook::default();
    hook.set_path(added.path.clone())
        .set_args(list(&added.args))
        .set_env(list(&added.env))
        .set_timeout(added.timeout);
    hook
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device_node(path: &str) -> DeviceNode {
        DeviceNode {
            container_path: path.into(),
            host_path: "/dev/zero".into(),
            kind: None,
            numbers: None,
            mode: None,
            permissions: "rw".into(),
            uid: None,
            gid: None,
        }
    }

    #[test]
    fn a_node_is_the_hosts_where_nothing_else_is_said() {
        let user = User { uid: 7, gid: 8, ..Default::default() };
        let mut devices = Devices::default();
        let given =
            DeviceNode { kind: Some('b'), numbers: Some((9, 1)), uid: Some(3), ..device_node("/dev/b") };
        add_nodes(&mut devices, &[device_node("/dev/a"), device_node("/dev/b"), given], &user).unwrap();
        let [of_host, given] = &devices.nodes[..] else { panic!("{:?}", devices.nodes) };
        assert_eq!((of_host.typ(), of_host.major(), of_host.minor()), (LinuxDeviceType::C, 1, 5));
        assert_eq!((of_host.file_mode(), of_host.uid(), of_host.gid()), (Some(0o666), Some(7), Some(8)));
        assert_eq!((given.typ(), given.major(), given.minor()), (LinuxDeviceType::B, 9, 1));
        assert_eq!((given.uid(), devices.rules.len()), (Some(3), 3));
        let none = DeviceNode { host_path: "/dev/no-such".into(), ..device_node("/dev/a") };
        let error = add_nodes(&mut devices, &[none], &user).unwrap_err().to_string();
        assert!(error.starts_with("config.CDI_devices: \"/dev/no-such\""), "{error}");
    }

    #[test]
    fn mounts_take_the_places_of_others_and_parents_come_first() {
        let new = |path: &str, kind: &str, options: &[&str]| HostMount {
            container_path: path.into(),
            host_path: "/lib".into(),
            kind: kind.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let mut mounts = vec![mount(&new("/lib/deep/x", "", &[])), mount(&new("/lib/x", "tmpfs", &[]))];
        add_mounts(&mut mounts, &[new("/lib/x", "", &["ro"]), new("/lib", "", &["bind"])]);
        let shown = |mount: &Mount| format!("{} {:?}", mount.destination().display(), mount.options());
        let shown: Vec<String> = mounts.iter().map(shown).collect();
        assert_eq!(
            shown,
            ["/lib Some([\"bind\"])", "/lib/x Some([\"ro\", \"rbind\"])", "/lib/deep/x Some([\"rbind\"])"]
        );
    }
}
