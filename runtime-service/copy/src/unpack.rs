//! Unpacks a tar archive into files.

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

/// Makes the files of an archive, which is read to its end. An existing file is replaced, completely or not
/// at all. An existing directory keeps its content; a file never replaces a directory, nor a directory a
/// file. Of a mounted file the content is replaced.
///
/// When `root` belongs to a pod with a user namespace, the calling thread acts as the root of that namespace
/// from then on and must do nothing else afterwards.
///
/// # Errors
/// [`CopyError`], with the file. Files that were made before the error stay.
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
    // Directories get their own modes at the end also when the copy fails.
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
            // The sender must not fail to write data after the end marker, so it is read too.
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
