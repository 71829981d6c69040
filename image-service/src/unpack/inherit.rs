//! Directories that an archive uses but lacks, such as `home` and `home/user` of an archive with only
//! `home/user/app`.
//!
//! In an overlay the topmost layer with a directory determines its owner and mode, so such a directory must
//! have the attributes of the one below it: otherwise the user's own home would belong to root. Layers are
//! unpacked without their parents, so this happens when an image orders them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crisp_operation::tree::{open_beneath, open_root};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

/// Limit for an archive of directories in bytes: it is made in memory.
const MAX_ARCHIVE: usize = 64 << 20;
/// The kernel's limit.
const MAX_XATTR: usize = 64 << 10;
/// The label that the kernel gives each file on some hosts.
const SELINUX: &str = "security.selinux";
/// The mode of a directory without one below it.
const NEW: u32 = 0o755;

/// Directories by their paths.
type Directories = BTreeMap<String, Attributes>;

/// Makes an archive of directories with the attributes for those in `implied` and `inherited` of `tree`: each
/// gets the attributes of the directory that it covers in `below`, nearest layer first. None if they have
/// them already. The attributes of `inherited` are those of some other image. Counts lookups down from
/// `lookups`, and fails at zero.
pub(crate) fn inherit(
    tree: &Path,
    below: &[PathBuf],
    (implied, inherited): (&[String], &[String]),
    lookups: &mut u64,
) -> io::Result<Option<Vec<u8>>> {
    let tree = open_root(tree)?;
    let below: Vec<OwnedFd> = below.iter().map(|layer| open_root(layer)).collect::<Result<_, _>>()?;
    let mut directories = Directories::new();
    let mut size = 0;
    for (path, is_inherited) in
        implied.iter().map(|path| (path, false)).chain(inherited.iter().map(|path| (path, true)))
    {
        let Lookup::Found { directory, hides_below } = look_up(&tree, path, lookups)? else { continue };
        let covered = if hides_below { None } else { covered(&below, path, lookups)? };
        let wanted = match covered {
            Some(covered) => Attributes::of(&covered)?,
            None if is_inherited => Attributes { mode: NEW, ..Attributes::default() },
            None => continue,
        };
        if is_inherited || !wanted.is_like(&Attributes::of(&directory)?) {
            size += path.len() + wanted.size();
            if size > MAX_ARCHIVE {
                return Err(too_many());
            }
            directories.insert(path.clone(), wanted);
        }
    }
    if directories.is_empty() {
        return Ok(None);
    }
    add_parents(&tree, &mut directories, lookups)?;
    archive(&tree, &directories).map(Some)
}

/// With their attributes in the layer: an archive that left them out would imply them.
fn add_parents(tree: &OwnedFd, directories: &mut Directories, lookups: &mut u64) -> io::Result<()> {
    let paths: Vec<String> = directories.keys().cloned().collect();
    for path in &paths {
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            if !directories.contains_key(parent)
                && let Lookup::Found { directory, .. } = look_up(tree, parent, lookups)?
            {
                directories.insert(parent.to_owned(), Attributes::of(&directory)?);
            }
        }
    }
    Ok(())
}

fn archive(tree: &OwnedFd, directories: &Directories) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    append(&mut archive, "./", &Attributes::of(tree)?)?;
    for (path, attributes) in directories {
        if archive.get_ref().len() > MAX_ARCHIVE {
            return Err(too_many());
        }
        append(&mut archive, path, attributes)?;
    }
    archive.into_inner()
}

fn append(archive: &mut Builder<Vec<u8>>, path: &str, attributes: &Attributes) -> io::Result<()> {
    if !attributes.xattrs.is_empty() {
        let keys: Vec<String> = attributes.xattrs.keys().map(|name| format!("SCHILY.xattr.{name}")).collect();
        let values = attributes.xattrs.values().map(Vec::as_slice);
        archive.append_pax_extensions(keys.iter().map(String::as_str).zip(values))?;
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(attributes.mode);
    header.set_uid(attributes.uid.into());
    header.set_gid(attributes.gid.into());
    header.set_mtime(attributes.modified);
    header.set_size(0);
    archive.append_data(&mut header, path, io::empty())
}

fn too_many() -> io::Error {
    io::Error::other("the image's layers use too many directories without bringing them")
}

/// The attributes that an overlay takes from the topmost directory.
#[derive(Debug, Default)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds since 1970.
    modified: u64,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl Attributes {
    fn of(directory: &OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(directory)?;
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: u64::try_from(stat.st_mtime).unwrap_or(0),
            xattrs: xattrs(directory)?,
        })
    }

    /// Compares everything except the time, which does not affect access.
    fn is_like(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid, &self.xattrs) == (other.mode, other.uid, other.gid, &other.xattrs)
    }

    fn size(&self) -> usize {
        512 + self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// Leaves out overlay's own marks.
fn xattrs(directory: &OwnedFd) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; MAX_XATTR];
    let length = match rustix::fs::flistxattr(directory, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if name.starts_with("trusted.overlay.") || name == SELINUX {
            continue;
        }
        let mut value = vec![0; MAX_XATTR];
        let length = rustix::fs::fgetxattr(directory, name, &mut value[..])?;
        value.truncate(length);
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

/// The directory that is visible at `path`.
fn covered(below: &[OwnedFd], path: &str, lookups: &mut u64) -> io::Result<Option<OwnedFd>> {
    for layer in below {
        match look_up(layer, path, lookups)? {
            Lookup::Found { directory, .. } => return Ok(Some(directory)),
            Lookup::Missing => {}
            Lookup::Hidden => return Ok(None),
        }
    }
    Ok(None)
}

/// The content of one layer at a path.
enum Lookup {
    /// A directory; it may hide the content of the layers below.
    Found { directory: OwnedFd, hides_below: bool },
    /// Nothing; the layers below are visible.
    Missing,
    /// Nothing, and the layers below are hidden: by a deletion, by another kind of file, or by an opaque
    /// directory above.
    Hidden,
}

fn look_up(layer: &OwnedFd, path: &str, lookups: &mut u64) -> io::Result<Lookup> {
    let mut directory = open_beneath(layer, ".")?;
    let mut hides_below = false;
    for component in path.split('/') {
        *lookups = lookups.checked_sub(1).ok_or_else(too_many)?;
        directory = match open_beneath(&directory, component) {
            Ok(next) => next,
            Err(Errno::NOENT) if !hides_below => return Ok(Lookup::Missing),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Lookup::Hidden),
            Err(e) => return Err(e.into()),
        };
        hides_below = hides_below || is_opaque(&directory)?;
    }
    Ok(Lookup::Found { directory, hides_below })
}

fn is_opaque(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(directory, "trusted.overlay.opaque", &mut value[..]) {
        Ok(length) => Ok(length == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(e) => Err(e),
    }
}
