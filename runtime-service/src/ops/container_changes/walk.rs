//! The comparison itself: walks through the upper folder, and where it hides the layers through those.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, openat, statat};
use rustix::io::Errno;

use super::{Change, Kind};
use crate::pieces::Undelivered;

/// Directories nested deeper than this are not entered: each open one takes a descriptor.
const MAX_DEPTH: usize = 256;
/// Changes in one piece, and bytes of their paths.
const PIECE: (usize, usize) = (500, 256 << 10);
/// Bytes of names that are sorted, in all open directories together: a container can make millions of files. A name
/// takes this many more in the list.
const MAX_SORTED: usize = 16 << 20;
const LISTED: usize = 32;

/// Takes a piece of the list.
pub(super) type Take<'a> = &'a dyn Fn(Vec<Change>) -> Result<(), Undelivered>;

/// Why a comparison ends early.
#[derive(Debug)]
pub(super) enum Unfinished {
    Kernel(Errno),
    Client(Undelivered),
}

impl From<Errno> for Unfinished {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

pub(super) struct Walk {
    upper: OwnedFd,
    layers: OwnedFd,
    /// Mount points.
    hidden: BTreeSet<PathBuf>,
    /// Parents of the directory that is being read; they are shown only when something in them is.
    pending: Vec<Change>,
    piece: Vec<Change>,
    /// Of the paths in the piece.
    bytes: usize,
    /// Bytes of names that may still be sorted.
    room: usize,
}

impl Walk {
    pub(super) fn new(upper: OwnedFd, layers: OwnedFd, hidden: BTreeSet<PathBuf>) -> Self {
        Self { upper, layers, hidden, pending: Vec::new(), piece: Vec::new(), bytes: 0, room: MAX_SORTED }
    }

    /// Returns the last piece.
    pub(super) fn run(&mut self, take: Take<'_>) -> Result<Vec<Change>, Unfinished> {
        let upper = open_directory(&self.upper, c".")?;
        let layers = open_directory(&self.layers, c".")?;
        self.directory(&upper, Some(&layers), Path::new("/"), 0, take)?;
        Ok(std::mem::take(&mut self.piece))
    }

    fn add(&mut self, path: PathBuf, kind: Kind, take: Take<'_>) -> Result<(), Unfinished> {
        self.piece.append(&mut self.pending);
        self.bytes += path.as_os_str().len();
        self.piece.push(Change { path, kind });
        if self.piece.len() < PIECE.0 && self.bytes < PIECE.1 {
            return Ok(());
        }
        self.bytes = 0;
        take(std::mem::take(&mut self.piece)).map_err(Unfinished::Client)
    }

    /// Reads one directory. `below` is the same directory in the layers, if it exists there.
    fn directory(
        &mut self,
        upper: &OwnedFd,
        below: Option<&OwnedFd>,
        path: &Path,
        depth: usize,
        take: Take<'_>,
    ) -> Result<(), Unfinished> {
        let hides = below.filter(|_| is_opaque(upper));
        if let Some(all) = sorted(&[Some(upper), hides], self.room)? {
            let size = all.iter().map(size_of_name).sum::<usize>();
            self.room -= size;
            for name in all {
                self.named(upper, below, &name, path, depth, take)?;
            }
            self.room += size;
            return Ok(());
        }
        for name in names(upper)? {
            self.named(upper, below, &name?, path, depth, take)?;
        }
        for name in hides.map(names).transpose()?.into_iter().flatten() {
            let name = name?;
            // The others were there.
            if stat_of(upper, &name)?.is_none() {
                self.named(upper, below, &name, path, depth, take)?;
            }
        }
        Ok(())
    }

    fn named(
        &mut self,
        upper: &OwnedFd,
        below: Option<&OwnedFd>,
        name: &CStr,
        path: &Path,
        depth: usize,
        take: Take<'_>,
    ) -> Result<(), Unfinished> {
        let place = path.join(OsStr::from_bytes(name.to_bytes()));
        if self.hidden.contains(&place) {
            return Ok(());
        }
        self.entry(upper, below, name, place, depth, take)
    }

    fn entry(
        &mut self,
        upper: &OwnedFd,
        below: Option<&OwnedFd>,
        name: &CStr,
        place: PathBuf,
        depth: usize,
        take: Take<'_>,
    ) -> Result<(), Unfinished> {
        let before = below.map(|below| stat_of(below, name)).transpose()?.flatten();
        match (stat_of(upper, name)?, before) {
            (None, None) => Ok(()),
            (None, Some(_)) => self.add(place, Kind::Deleted, take),
            (Some(now), before) if is_whiteout(&now) => match before {
                Some(_) => self.add(place, Kind::Deleted, take),
                None => Ok(()),
            },
            (Some(now), before) if kind(&now).is_dir() => {
                let before = before.filter(|before| kind(before).is_dir());
                self.shown(&now, before.as_ref(), place.clone(), take)?;
                let inner = open_directory(upper, name)?;
                let below = before.and(below).map(|below| open_directory(below, name)).transpose()?;
                let above = self.pending.len();
                if depth < MAX_DEPTH {
                    self.directory(&inner, below.as_ref(), &place, depth + 1, take)?;
                }
                // Nothing in it was shown.
                self.pending.truncate(above.saturating_sub(1));
                Ok(())
            }
            (Some(_), Some(_)) => self.add(place, Kind::Modified, take),
            (Some(_), None) => self.add(place, Kind::Added, take),
        }
    }

    /// A directory that is new or differs is shown at once. Others are shown only with changes in them: mount
    /// points, and directories that were copied up for a file in them.
    fn shown(
        &mut self,
        now: &Stat,
        before: Option<&Stat>,
        place: PathBuf,
        take: Take<'_>,
    ) -> Result<(), Unfinished> {
        let kind = if before.is_some() { Kind::Modified } else { Kind::Added };
        let waits = match before {
            Some(before) => attributes(before) == attributes(now),
            None => self.hidden.iter().any(|hidden| hidden.starts_with(&place)),
        };
        if waits {
            self.pending.push(Change { path: place, kind });
            return Ok(());
        }
        self.add(place, kind, take)
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn attributes(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 1];
    matches!(fgetxattr(directory, "trusted.overlay.opaque", &mut value), Ok(1) if value == *b"y")
}

/// None if it does not exist.
fn stat_of(directory: &OwnedFd, name: &CStr) -> Result<Option<Stat>, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        found => found.map(Some),
    }
}

fn open_directory(directory: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// The names of these directories, each once; None if there is no room for them.
fn sorted(directories: &[Option<&OwnedFd>], room: usize) -> Result<Option<BTreeSet<CString>>, Errno> {
    let (mut all, mut size) = (BTreeSet::new(), 0);
    for directory in directories.iter().flatten() {
        for name in names(directory)? {
            let name = name?;
            size += size_of_name(&name);
            if size > room {
                return Ok(None);
            }
            all.insert(name);
        }
    }
    Ok(Some(all))
}

fn size_of_name(name: &CString) -> usize {
    name.as_bytes().len() + LISTED
}

/// The names in the kernel's order.
fn names(directory: &OwnedFd) -> Result<impl Iterator<Item = Result<CString, Errno>>, Errno> {
    let all = Dir::read_from(directory)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    Ok(all.filter(|name| !name.as_ref().is_ok_and(|name| matches!(name.to_bytes(), b"." | b".."))))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use rustix::fs::{XattrFlags, setxattr};

    use super::*;

    fn walk(upper: &Path, layers: &Path) -> Walk {
        let open = |path: &Path| OwnedFd::from(fs::File::open(path).unwrap());
        Walk::new(open(upper), open(layers), BTreeSet::new())
    }

    /// The changes, each with the letter of its kind, and the number of pieces.
    fn run(mut walk: Walk) -> (Vec<String>, usize) {
        let pieces = RefCell::new(Vec::new());
        let rest = walk.run(&|piece| {
            pieces.borrow_mut().push(piece);
            Ok(())
        });
        let mut pieces = pieces.into_inner();
        pieces.push(rest.unwrap());
        let of = |change: &Change| format!("{:?} {}", change.kind, change.path.display());
        (pieces.iter().flatten().map(of).collect(), pieces.len())
    }

    #[test]
    fn a_directory_with_too_many_names_is_compared_without_all_of_them_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let (upper, layers) = (folder.path().join("upper"), folder.path().join("layers"));
        for (tree, names) in [(&upper, 0..60), (&layers, 40..80)] {
            fs::create_dir_all(tree.join("d/inner")).unwrap();
            names.for_each(|n| fs::write(tree.join(format!("d/{n:03}")), "").unwrap());
        }
        fs::write(upper.join("d/inner/new"), "").unwrap();
        let (sorted, _) = run(walk(&upper, &layers));
        assert_eq!(sorted.len(), 63, "{sorted:?}");
        assert!(sorted.is_sorted_by_key(|line| line.split(' ').next_back().map(str::to_owned)), "{sorted:?}");
        // The small directories above and below are sorted.
        let mut few = walk(&upper, &layers);
        few.room = 200;
        let (mut unsorted, _) = run(few);
        unsorted.sort();
        let mut expected = sorted;
        expected.sort();
        assert_eq!(unsorted, expected);
    }

    #[test]
    fn what_an_opaque_directory_hides_is_deleted_however_much_it_is() {
        crisp_skip::needs!();
        let folder = tempfile::tempdir().unwrap();
        let (upper, layers) = (folder.path().join("upper"), folder.path().join("layers"));
        for (tree, names) in [(&upper, 0..3), (&layers, 2..5)] {
            fs::create_dir_all(tree.join("d")).unwrap();
            names.for_each(|n| fs::write(tree.join(format!("d/{n}")), "").unwrap());
        }
        setxattr(upper.join("d"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        for room in [MAX_SORTED, 40] {
            let mut walk = walk(&upper, &layers);
            walk.room = room;
            let (mut all, _) = run(walk);
            all.sort();
            let expected =
                ["Added /d/0", "Added /d/1", "Deleted /d/3", "Deleted /d/4", "Modified /d", "Modified /d/2"];
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn pieces_are_short_also_with_long_paths() {
        let folder = tempfile::tempdir().unwrap();
        let (upper, layers) = (folder.path().join("upper"), folder.path().join("layers"));
        fs::create_dir_all(&layers).unwrap();
        let deep = (0..12).fold(upper.clone(), |path, _| path.join("n".repeat(200)));
        fs::create_dir_all(&deep).unwrap();
        (0..300).for_each(|n| fs::write(deep.join(n.to_string()), "").unwrap());
        let (all, pieces) = run(walk(&upper, &layers));
        assert_eq!((all.len(), pieces), (312, 3));
    }
}
