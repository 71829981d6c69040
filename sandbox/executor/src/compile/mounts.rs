//! `mounts`: new file systems are described, sources of binds are opened.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::Mount;

use super::field::{c_string, container_path, invalid, unsupported};
use super::options::{self, MountOptions};
use super::{CompileError, Descriptors};
use crate::cgroup::{Cgroups, Mode};
use crate::plan::{self, MountKind};
use crate::source::{self, Options};

/// What mounts depend on besides themselves.
pub(super) struct Context<'a> {
    pub cgroups: &'a Cgroups,
    pub pod_shm: bool,
    pub deadline: Duration,
}

pub(super) fn mounts(
    given: &[Mount],
    context: &Context<'_>,
    fds: &mut Descriptors,
) -> Result<Vec<plan::Mount>, CompileError> {
    let mut planned = Vec::with_capacity(given.len());
    for (index, mount) in given.iter().enumerate() {
        planned.push(plan_one(index, mount, context)?);
    }
    // All sources together: one thread and one deadline.
    let mut requests = Vec::new();
    let mut positions = Vec::new();
    for (index, planned) in planned.iter_mut().enumerate() {
        if let Kind::Bind { source, options } = &mut planned.kind {
            requests.push((std::mem::take(source), *options));
            positions.push(index);
        }
    }
    let sources = source::open_all(requests, context.deadline).map_err(|(position, source)| {
        let index = positions[position];
        let field = format!("mounts[{index}] at {:?}", given[index].destination());
        CompileError::Source { field, source }
    })?;
    let mut sources = sources.into_iter();
    planned.into_iter().map(|planned| finish(planned, &mut sources, fds)).collect()
}

struct Planned {
    target: CString,
    attributes: u64,
    kind: Kind,
}

enum Kind {
    Bind { source: PathBuf, options: Options },
    New(MountKind),
}

fn finish(
    planned: Planned,
    sources: &mut impl Iterator<Item = source::Source>,
    fds: &mut Descriptors,
) -> Result<plan::Mount, CompileError> {
    let Planned { target, attributes, kind } = planned;
    let kind = match kind {
        Kind::New(kind) => kind,
        Kind::Bind { .. } => {
            let source = sources.next().ok_or_else(|| invalid("mounts", "a source was not opened"))?;
            MountKind::Bind { file: source.file, source: fds.add(source.mount)? }
        }
    };
    Ok(plan::Mount { target, kind, attributes })
}

fn plan_one(index: usize, mount: &Mount, context: &Context<'_>) -> Result<Planned, CompileError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let mapped = |m: &Option<Vec<_>>| {
        m.as_ref().is_some_and(|m: &Vec<oci_spec::runtime::LinuxIdMapping>| !m.is_empty())
    };
    if mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) {
        return Err(unsupported(field("uidMappings"), "user namespaces"));
    }
    let target = container_path(|| field("destination"), mount.destination())?;
    if target.as_bytes() == b"/" {
        return Err(invalid(field("destination"), "nothing can be mounted over the root itself"));
    }
    let options = options::parse(index, mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or_default();
    let attributes = options.attributes;
    let kind = if options.bind || kind == "bind" {
        bind(index, mount, &options)?
    } else {
        check_new(index, &options)?;
        Kind::New(new(index, kind, &target, options, context)?)
    };
    Ok(Planned { target, attributes, kind })
}

fn bind(index: usize, mount: &Mount, options: &MountOptions) -> Result<Kind, CompileError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    if let Some(data) = options.data.first() {
        return Err(unsupported(format!("{}: {data:?}", field("options")), "for a bind mount"));
    }
    let source = match mount.source() {
        Some(path) if path.is_absolute() => path.clone(),
        Some(path) if !path.as_os_str().is_empty() => {
            return Err(invalid(field("source"), format!("{path:?} is not absolute")));
        }
        _ => return Err(invalid(field("source"), "empty: a bind mount needs a host path")),
    };
    c_string(|| field("source"), std::os::unix::ffi::OsStrExt::as_bytes(source.as_os_str()))?;
    let propagation = options.propagation.unwrap_or_default();
    if options.recursive_readonly && (!options.recursive || propagation != source::Propagation::Private) {
        // A mount that arrives later would be writable: what was promised could not be kept.
        return Err(invalid(field("options"), "rro needs rbind and private propagation"));
    }
    let options = Options {
        readonly: options.readonly(),
        recursive_readonly: options.recursive_readonly,
        recursive: options.recursive,
        propagation,
        create: options.create_source,
        attributes: options.attributes,
    };
    Ok(Kind::Bind { source, options })
}

fn check_new(index: usize, options: &MountOptions) -> Result<(), CompileError> {
    let field = format!("mounts[{index}].options");
    if options.recursive_readonly {
        return Err(unsupported(format!("{field}: \"rro\""), "it is for bind mounts"));
    }
    match options.propagation {
        None | Some(source::Propagation::Private) => Ok(()),
        Some(_) => Err(unsupported(format!("{field}: shared or slave"), "it is for bind mounts")),
    }
}

fn new(
    index: usize,
    kind: &str,
    target: &CString,
    options: MountOptions,
    context: &Context<'_>,
) -> Result<MountKind, CompileError> {
    let no_data = |kind| match options.data.first() {
        Some(data) => Err(unsupported(format!("mounts[{index}].options: {data:?}"), "")),
        None => Ok(kind),
    };
    match kind {
        "proc" => no_data(MountKind::Proc),
        "sysfs" => no_data(MountKind::Sysfs),
        "mqueue" => no_data(MountKind::Mqueue),
        "cgroup" | "cgroup2" => no_data(cgroup(context.cgroups)?),
        "devpts" => devpts(index, &options.data),
        "tmpfs" if context.pod_shm && target.as_c_str() == c"/dev/shm" => Ok(MountKind::PodShm),
        "tmpfs" => {
            let field = || format!("mounts[{index}].options");
            let options = options
                .data
                .iter()
                .map(|o| tmpfs_option(index, o).and_then(|o| c_string(field, o.as_bytes())));
            Ok(MountKind::Tmpfs { options: options.collect::<Result<_, _>>()? })
        }
        "" => Err(invalid(
            format!("mounts[{index}].type"),
            "empty, and the options are not those of a bind mount",
        )),
        other => Err(unsupported(format!("mounts[{index}].type: {other:?}"), "")),
    }
}

fn tmpfs_option(index: usize, option: &str) -> Result<&str, CompileError> {
    const KNOWN: [&str; 9] =
        ["size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "huge", "mpol", "noswap"];
    let name = option.split('=').next().unwrap_or_default();
    if KNOWN.contains(&name) || matches!(option, "inode32" | "inode64") {
        return Ok(option);
    }
    Err(unsupported(format!("mounts[{index}].options: {option:?}"), "for a tmpfs"))
}

/// The modes are fixed: the usual ones, and the only ones that work for all users.
fn devpts(index: usize, data: &[String]) -> Result<MountKind, CompileError> {
    let mut gid = 0;
    for option in data {
        let field = || format!("mounts[{index}].options: {option:?}");
        match option.split_once('=') {
            None if option == "newinstance" => {}
            Some(("ptmxmode", "0666" | "666")) | Some(("mode", "0620" | "620")) => {}
            Some(("gid", number)) => {
                gid = number.parse().map_err(|_| invalid(field(), "the gid is no number"))?
            }
            _ => return Err(unsupported(field(), "for devpts")),
        }
    }
    Ok(MountKind::Devpts { gid })
}

fn cgroup(cgroups: &Cgroups) -> Result<MountKind, CompileError> {
    let mode = cgroups.mode();
    if mode == Mode::V2 {
        return Ok(MountKind::Cgroup2);
    }
    let names = cgroups.v1_hierarchies();
    let hierarchies = names.iter().map(|name| c_string(|| "mounts: cgroup".to_owned(), name.as_bytes()));
    Ok(MountKind::Cgroup1 {
        hierarchies: hierarchies.collect::<Result<_, _>>()?,
        unified: mode == Mode::Hybrid,
    })
}
