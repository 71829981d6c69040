//! Mount options of mount(8) and the OCI spec, in one list for all kinds of mounts.

use rustix::mount::MountAttrFlags as Attr;

use super::CompileError;
use super::field::{invalid, unsupported};
use crate::source::Propagation;

/// The option by which a missing source of a bind mount is made as a folder. mount(8) and other runtimes
/// ignore it, like all options that begin with `x-`.
pub const CREATE_SOURCE: &str = "x-crisp.create-source";

/// The options of one mount, sorted by where they are applied.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// Whether the options contain `bind` or `rbind`.
    pub bind: bool,
    pub recursive: bool,
    pub recursive_readonly: bool,
    /// Whether the options contain [`CREATE_SOURCE`].
    pub create_source: bool,
    pub idmap: Option<Idmap>,
    /// MOUNT_ATTR_ bits.
    pub attributes: u64,
    pub propagation: Option<Propagation>,
    /// Options of the file system: `size=64k`.
    pub data: Vec<String>,
}

/// The part of a bind mount that has the ids of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idmap {
    /// The mount alone: `idmap`.
    Mount,
    /// Including the mounts below it: `ridmap`.
    Tree,
}

impl MountOptions {
    pub(super) fn readonly(&self) -> bool {
        self.attributes & bits(Attr::MOUNT_ATTR_RDONLY) != 0
    }
}

fn bits(flags: Attr) -> u64 {
    flags.bits().into()
}

pub(super) fn parse(index: usize, options: &[String]) -> Result<MountOptions, CompileError> {
    let mut parsed = MountOptions::default();
    for option in options {
        if !attribute(&mut parsed.attributes, option) {
            other(&mut parsed, index, option)?;
        }
    }
    Ok(parsed)
}

/// Handles options that are flags of a mount; returns true when `option` is one.
fn attribute(attributes: &mut u64, option: &str) -> bool {
    let atime = bits(Attr::MOUNT_ATTR__ATIME);
    let (set, clear) = match option {
        "ro" => (bits(Attr::MOUNT_ATTR_RDONLY), 0),
        "rw" => (0, bits(Attr::MOUNT_ATTR_RDONLY)),
        "nosuid" => (bits(Attr::MOUNT_ATTR_NOSUID), 0),
        "suid" => (0, bits(Attr::MOUNT_ATTR_NOSUID)),
        "nodev" => (bits(Attr::MOUNT_ATTR_NODEV), 0),
        "dev" => (0, bits(Attr::MOUNT_ATTR_NODEV)),
        "noexec" => (bits(Attr::MOUNT_ATTR_NOEXEC), 0),
        "exec" => (0, bits(Attr::MOUNT_ATTR_NOEXEC)),
        "nosymfollow" => (bits(Attr::MOUNT_ATTR_NOSYMFOLLOW), 0),
        "symfollow" => (0, bits(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
        "nodiratime" => (bits(Attr::MOUNT_ATTR_NODIRATIME), 0),
        "diratime" => (0, bits(Attr::MOUNT_ATTR_NODIRATIME)),
        // The kernel's default is relatime, which has no bits.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, atime),
        "noatime" => (bits(Attr::MOUNT_ATTR_NOATIME), atime),
        "strictatime" => (bits(Attr::MOUNT_ATTR_STRICTATIME), atime),
        "defaults" => (0, 0),
        _ => return false,
    };
    *attributes = *attributes & !clear | set;
    true
}

fn other(parsed: &mut MountOptions, index: usize, option: &str) -> Result<(), CompileError> {
    let field = || format!("mounts[{index}].options");
    match option {
        "bind" => parsed.bind = true,
        "rbind" => (parsed.bind, parsed.recursive) = (true, true),
        CREATE_SOURCE => parsed.create_source = true,
        "rro" => parsed.recursive_readonly = true,
        "idmap" => parsed.idmap = Some(Idmap::Mount),
        "ridmap" => parsed.idmap = Some(Idmap::Tree),
        "private" | "rprivate" => parsed.propagation = Some(Propagation::Private),
        "slave" | "rslave" => parsed.propagation = Some(Propagation::HostToContainer),
        "shared" | "rshared" => parsed.propagation = Some(Propagation::Bidirectional),
        "unbindable" | "runbindable" | "tmpcopyup" | "remount" | "sync" | "dirsync" | "mand" | "iversion"
        | "lazytime" | "rnosuid" | "rnodev" | "rnoexec" | "rnoatime" | "rnosymfollow" => {
            return Err(unsupported(format!("{}: {option:?}", field()), ""));
        }
        "" => return Err(invalid(field(), "an option is empty")),
        data => parsed.data.push(data.to_owned()),
    }
    Ok(())
}
