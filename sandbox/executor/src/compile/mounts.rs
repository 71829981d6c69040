//! `mounts`: describes new file systems and opens the sources of binds.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::Mount;

use super::field::{c_string, container_path, invalid, unsupported};
use super::id_mappings::{self, Ids, Namespaces};
use super::options::{self, Idmap, MountOptions};
use super::{CompileError, Descriptors};
use crate::cgroup::{Cgroups, Mode};
use crate::plan::{self, MountKind};
use crate::source::{self, Options};
use crate::user_namespace::UserNamespace;

/// The other inputs of mounts.
pub(super) struct Context<'a> {
    pub cgroups: &'a Cgroups,
    /// Whether the container has its own cgroup namespace.
    pub cgroup_namespace: bool,
    pub pod_shm: bool,
    pub user: Option<&'a UserNamespace>,
    pub deadline: Duration,
}

/// `opened`: see [`Inputs::mounts`](super::Inputs::mounts).
pub(super) fn mounts(
    given: &[Mount],
    mut opened: Vec<(PathBuf, OwnedFd)>,
    context: &Context<'_>,
    fds: &mut Descriptors,
) -> Result<Vec<plan::Mount>, CompileError> {
    let mut planned = Vec::with_capacity(given.len());
    for (index, mount) in given.iter().enumerate() {
        let by_destination = |(destination, _): &(PathBuf, OwnedFd)| destination == mount.destination();
        let opened = opened.iter().position(by_destination).map(|position| opened.swap_remove(position).1);
        planned.push(plan_one(index, mount, opened, context)?);
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
    let mut namespaces = Namespaces { pod: context.user, made: Vec::new() };
    let mut mounts = Vec::with_capacity(planned.len());
    for (index, planned) in planned.into_iter().enumerate() {
        if let (Kind::Bind { .. }, Some((ids, what))) = (&planned.kind, &planned.ids) {
            let source =
                sources.as_slice().first().ok_or_else(|| invalid("mounts", "a source was not opened"))?;
            map_ids(
                index,
                &given[index],
                source,
                namespaces.of(ids, &format!("mounts[{index}].uidMappings"))?,
                *what,
            )?;
        }
        mounts.push(finish(planned, &mut sources, fds)?);
    }
    Ok(mounts)
}

fn map_ids(
    index: usize,
    mount: &Mount,
    source: &source::Source,
    user: BorrowedFd<'_>,
    what: Idmap,
) -> Result<(), CompileError> {
    let path = mount.source().clone().unwrap_or_default();
    source::map_ids(source, &path, user, what == Idmap::Tree).map_err(|source| {
        let field = format!("mounts[{index}] at {:?}", mount.destination());
        CompileError::Source { field, source }
    })
}

struct Planned {
    target: CString,
    attributes: u64,
    kind: Kind,
    ids: Option<(Ids, Idmap)>,
}

enum Kind {
    Bind { source: PathBuf, options: Options },
    Opened(source::Source),
    New(MountKind),
}

fn finish(
    planned: Planned,
    sources: &mut impl Iterator<Item = source::Source>,
    fds: &mut Descriptors,
) -> Result<plan::Mount, CompileError> {
    let Planned { target, attributes, kind, .. } = planned;
    let kind = match kind {
        Kind::New(kind) => kind,
        Kind::Opened(source) => MountKind::Bind { file: source.file, source: fds.add(source.mount)? },
        Kind::Bind { .. } => {
            let source = sources.next().ok_or_else(|| invalid("mounts", "a source was not opened"))?;
            MountKind::Bind { file: source.file, source: fds.add(source.mount)? }
        }
    };
    Ok(plan::Mount { target, kind, attributes })
}

fn plan_one(
    index: usize,
    mount: &Mount,
    opened: Option<OwnedFd>,
    context: &Context<'_>,
) -> Result<Planned, CompileError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let target = container_path(|| field("destination"), mount.destination())?;
    if target.as_bytes() == b"/" {
        return Err(invalid(field("destination"), "nothing can be mounted over the root itself"));
    }
    let options = options::parse(index, mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or_default();
    let attributes = options.attributes;
    let mappings = id_mappings::mappings(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
    let ids = match (mappings, options.idmap) {
        (Some(mappings), what) => Some((Ids::Own(mappings), what.unwrap_or(Idmap::Mount))),
        (None, Some(what)) => Some((Ids::Pod, what)),
        (None, None) => None,
    };
    let is_bind = options.bind || kind == "bind";
    if ids.is_some() && (opened.is_some() || !is_bind) {
        return Err(unsupported(field("uidMappings"), "they are for bind mounts of host paths"));
    }
    let kind = match opened {
        Some(source) => self::opened(index, mount, source, &options)?,
        None if is_bind => bind(index, mount, &options, context)?,
        None if is_cgroup(kind) => cgroup(index, &options, context)?,
        None => {
            check_new(index, &options)?;
            Kind::New(new(index, kind, &target, options, context)?)
        }
    };
    Ok(Planned { target, attributes, kind, ids })
}

fn bind(
    index: usize,
    mount: &Mount,
    options: &MountOptions,
    context: &Context<'_>,
) -> Result<Kind, CompileError> {
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
    let options = of_bind(index, options, context.user.is_some())?;
    Ok(Kind::Bind { source, options })
}

fn opened(
    index: usize,
    mount: &Mount,
    source: OwnedFd,
    options: &MountOptions,
) -> Result<Kind, CompileError> {
    let name = mount.source().clone().unwrap_or_default();
    source::of_mount(source, &name, of_bind(index, options, false)?).map(Kind::Opened).map_err(|source| {
        let field = format!("mounts[{index}] at {:?}", mount.destination());
        CompileError::Source { field, source }
    })
}

fn of_bind(index: usize, options: &MountOptions, has_user: bool) -> Result<Options, CompileError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let propagation = options.propagation.unwrap_or_default();
    if propagation == source::Propagation::Bidirectional && has_user {
        let hint = "in a pod with a user namespace: the kernel keeps its mounts from the host";
        return Err(unsupported(format!("{}: rshared", field("options")), hint));
    }
    if options.recursive_readonly && (!options.recursive || propagation != source::Propagation::Private) {
        // A mount that arrives later would be writable, which would break the promise.
        return Err(invalid(field("options"), "rro needs rbind and private propagation"));
    }
    Ok(Options {
        readonly: options.readonly(),
        recursive_readonly: options.recursive_readonly,
        recursive: options.recursive,
        propagation,
        create: options.create_source,
        attributes: options.attributes,
    })
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

/// The modes are fixed: the usual ones, which work for all users.
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

fn is_cgroup(kind: &str) -> bool {
    matches!(kind, "cgroup" | "cgroup2")
}

/// The mount point of cgroup v2 on the host.
const HOST_CGROUPS: &str = "/sys/fs/cgroup";

/// Options of the one file system behind all mounts of cgroup v2: the host's mount decides them.
const OF_CGROUP2: [&str; 6] = [
    "nsdelegate",
    "memory_recursiveprot",
    "memory_localevents",
    "memory_hugetlb_accounting",
    "pids_localevents",
    "favordynmods",
];

/// Without its own cgroup namespace a container gets a copy of the host's mount: a new one would remove these
/// options for the whole host.
fn cgroup(index: usize, options: &MountOptions, context: &Context<'_>) -> Result<Kind, CompileError> {
    check_new(index, options)?;
    if let Some(data) = options.data.iter().find(|data| !OF_CGROUP2.contains(&data.as_str())) {
        return Err(unsupported(format!("mounts[{index}].options: {data:?}"), ""));
    }
    let mode = context.cgroups.mode();
    if mode == Mode::V2 && context.cgroup_namespace {
        return Ok(Kind::New(MountKind::Cgroup2));
    }
    if mode == Mode::V2 {
        let options =
            Options { readonly: options.readonly(), attributes: options.attributes, ..Options::default() };
        return Ok(Kind::Bind { source: PathBuf::from(HOST_CGROUPS), options });
    }
    let names = context.cgroups.v1_hierarchies();
    let hierarchies = names.iter().map(|name| c_string(|| "mounts: cgroup".to_owned(), name.as_bytes()));
    Ok(Kind::New(MountKind::Cgroup1 {
        hierarchies: hierarchies.collect::<Result<_, _>>()?,
        unified: mode == Mode::Hybrid && context.cgroup_namespace,
    }))
}
