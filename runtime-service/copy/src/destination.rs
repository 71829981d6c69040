//! Finds the place for an archive's files by the rules of `docker cp`.
//!
//! | destination | a file | a directory | the content of a directory (`SRC/.`) |
//! |---|---|---|---|
//! | a directory | goes into it | goes into it | goes into it |
//! | a file | replaces it | refused | refused |
//! | does not exist, its parent does | gets that name | gets that name | a new directory of that name |
//! | does not exist, ends with a slash | refused | gets that name | a new directory of that name |

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, fstat, readlinkat};

use crate::CopyError;
use crate::root::{self, Root};

/// The kernel follows the same number of links.
const LINKS: usize = 40;

/// The destination of an archive.
#[derive(Debug, Clone, Copy)]
pub enum Destination<'a> {
    /// One file or directory, to this path.
    Named(&'a str),
    /// All entries, by their own names, into this directory.
    Into(&'a str),
}

/// The directory in which the archive's top is made.
pub(crate) struct BaseFolder {
    pub(crate) folder: OwnedFd,
    /// The path of the folder, for messages.
    pub(crate) path: String,
    /// The name of the archive's top in `folder`. None when the entries keep their own names in `folder`.
    pub(crate) name: Option<OsString>,
}

impl BaseFolder {
    /// Finds the folder. `top` is the first name in the archive; None when it is `.`.
    pub(crate) fn find(
        root: &Root,
        destination: Destination<'_>,
        top: Option<&OsStr>,
        is_directory: bool,
    ) -> Result<Self, CopyError> {
        match destination {
            Destination::Into(path) => {
                let folder = root.open(path, OFlags::PATH | OFlags::DIRECTORY)?;
                Ok(Self { folder, path: path.to_owned(), name: None })
            }
            Destination::Named(path) => Self::named(root, path, top, is_directory),
        }
    }

    fn named(root: &Root, path: &str, top: Option<&OsStr>, is_directory: bool) -> Result<Self, CopyError> {
        let not_a_directory = || CopyError::NotADirectory { path: path.to_owned() };
        match root.open(path, OFlags::PATH) {
            Ok(found) if is_a(&found, FileType::Directory) => {
                return Ok(Self { folder: found, path: path.to_owned(), name: top.map(OsStr::to_owned) });
            }
            Ok(_) if is_directory => return Err(not_a_directory()),
            Ok(_) => {}
            Err(CopyError::Missing { path }) if path.ends_with('/') && !is_directory => {
                return Err(CopyError::Missing { path });
            }
            Err(CopyError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        Self::by_its_parent(root, path)
    }

    /// Follows a link at the path: the target of the link is replaced or made, not the link.
    fn by_its_parent(root: &Root, path: &str) -> Result<Self, CopyError> {
        let mut path = path.trim_end_matches('/').to_owned();
        for _ in 0..LINKS {
            let (parent, name) = path.rsplit_once('/').unwrap_or((".", &path));
            if matches!(name, "" | "." | "..") {
                return Err(CopyError::Missing { path: path.clone() });
            }
            let parent = if parent.is_empty() { "/" } else { parent };
            let folder = root.open(parent, OFlags::PATH | OFlags::DIRECTORY)?;
            let Ok(target) = readlinkat(&folder, name, Vec::new()) else {
                return Ok(Self { folder, path: parent.to_owned(), name: Some(name.into()) });
            };
            let target = target.to_string_lossy();
            path = if target.starts_with('/') { target.into_owned() } else { format!("{parent}/{target}") };
        }
        Err(CopyError::at(&path)(rustix::io::Errno::LOOP))
    }
}

fn is_a(found: &OwnedFd, kind: FileType) -> bool {
    fstat(found).is_ok_and(|stat| root::kind(&stat) == kind)
}
