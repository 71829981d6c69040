//! A tar archive as files.

use std::ffi::{OsStr, OsString};
use std::io::Read;

use crisp_image_service::Limits;
use crisp_image_service::unpack::tar::{Entry, Kind, TarReader};

use crate::CopyError;
use crate::act;
use crate::attributes::Owner;
use crate::destination::{BaseFolder, Destination};
use crate::names::parts;
use crate::root::Root;
use crate::source::{Source, damaged};
use crate::tree::{Tree, Unpacked};

/// Makes files of an archive, which is read to its end. What is there already is replaced, whole or not at
/// all, except that a directory stays with what is in it, and no file takes the place of a directory or the
/// other way round. Where a file is mounted, its content is replaced.
///
/// Where `root` is of a pod with a user namespace the calling thread acts as the root of that from then on: it is
/// to do nothing else afterwards.
///
/// # Errors
/// [`CopyError`], with the file. What was made before stays.
pub fn unpack(
    archive: impl Read,
    root: &Root,
    destination: Destination<'_>,
    owner: Owner,
) -> Result<Unpacked, CopyError> {
    if let Some(users) = root.users() {
        act::as_root_of(users).map_err(|errno| CopyError::Users(errno.into()))?;
    }
    let (mut source, limits) = (Source::new(archive), Limits::default());
    let mut reader = TarReader::new(&mut source, &limits);
    let mut tree = None;
    let unpacked = entries(&mut reader, &mut tree, |top, is_directory| {
        Tree::new(root, BaseFolder::find(root, destination, top, is_directory)?, top, owner)
    });
    // Also of a copy that fails, directories get their own modes in the end.
    let made = tree.ok_or(CopyError::Empty).and_then(Tree::finish);
    match (unpacked, source.failure()) {
        (Err(CopyError::Damaged { .. }), Some(error)) => Err(CopyError::Archive(error)),
        (Err(error), _) => Err(error),
        (Ok(()), _) => made,
    }
}

fn entries<'a>(
    reader: &mut TarReader<'_, Source<impl Read>>,
    tree: &mut Option<Tree<'a>>,
    begin: impl FnOnce(Option<&OsStr>, bool) -> Result<Tree<'a>, CopyError>,
) -> Result<(), CopyError> {
    let (mut entry, mut begin) = (Entry::default(), Some(begin));
    loop {
        match reader.next(&mut entry) {
            Ok(true) => {}
            // The other side is to find a reader for what follows the end, too.
            Ok(false) => return reader.read_to_end().map_err(damaged(&entry)),
            Err(fault) => return Err(damaged(&entry)(fault)),
        }
        let parts = parts(&entry.path)?;
        if let Some(begin) = begin.take() {
            let top = parts.first().map(OsString::as_os_str);
            *tree = Some(begin(top, entry.kind == Kind::Directory)?);
        }
        if let Some(tree) = tree {
            tree.add(parts, &entry, reader)?;
        }
    }
}
