//! Unpacking a layer's archive into a folder.
//!
//! ```text
//!   Content ──> tar::TarReader ──> place (one entry) ──> tree (folders by descriptor)
//!                                    ├─ file, link, device, directory
//!                                    └─ whiteout: .wh.NAME, .wh..wh..opq → overlay's own marks
//! ```
//!
//! Archives are hostile. Every path is resolved by the kernel below the layer's own folder
//! (`openat2` with `RESOLVE_IN_ROOT`), so that neither `..`, nor an absolute name, nor a link made by an
//! earlier entry leads out of it; the last component is never followed. Links within the layer work as
//! they would inside a container: `lib -> usr/lib` followed by `lib/x` makes `usr/lib/x`.
//!
//! An entry replaces what an earlier one put at its path, except that a directory stays with its content
//! and takes the later attributes. A hard link's target must be in the same layer, as layers are
//! unpacked without their parents.

mod attributes;
mod finish;
mod inherit;
mod link;
mod path;
mod place;
mod remove;
pub(crate) mod stream;
mod tar;
mod tree;
mod usage;
mod whiteout;

use std::io::{self, BufRead};
use std::path::Path;

pub(crate) use inherit::inherit;
pub use tar::TarError;

use place::Unpacker;
use tar::{Entry, TarReader};

/// What an archive may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes in one path; the kernel takes 4095.
    pub path: usize,
    /// Bytes in all headers that extend one entry.
    pub extended_header: u64,
    /// Bytes of all files together.
    pub bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 16 << 20, path: 4095, extended_header: 1 << 20, bytes: None }
    }
}

/// What an archive became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub entries: u64,
    /// On disk, whole blocks.
    pub bytes: u64,
    pub inodes: u64,
    /// Nothing below the layer shows through.
    pub opaque_root: bool,
    /// Directories that no entry brought, parents first. One whose name is not UTF-8 is left out: it
    /// keeps the attributes of a folder of root's.
    pub implied: Vec<String>,
}

/// An archive that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("{}{fault}", if entry.is_empty() { String::new() } else { format!("entry {entry:?}: ") })]
pub struct UnpackError {
    /// The entry's name as written, or the last one read where the next has none.
    pub entry: String,
    /// What is wrong with it.
    pub fault: UnpackFault,
}

/// Why an entry cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackFault {
    /// The archive is damaged.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name that leaves the layer.
    #[error("the name leads out of the layer with \"..\"")]
    DotDot,
    /// A hard link whose target leaves the layer.
    #[error("the hard link's target {0:?} leads out of the layer with \"..\"")]
    LinkDotDot(String),
    /// A path longer than the kernel takes.
    #[error("the name is {length} bytes long; {limit} are allowed")]
    PathTooLong {
        /// Bytes.
        length: usize,
        /// What is accepted.
        limit: usize,
    },
    /// A hard link to something not in this layer.
    #[error("the hard link's target {0:?} is not in this layer")]
    LinkTarget(String),
    /// A hard link to a directory.
    #[error("the hard link's target {0:?} is a directory")]
    LinkToDirectory(String),
    /// Something on the way is not a directory.
    #[error("{0:?} on its way is not a directory")]
    NotADirectory(String),
    /// Links that never end.
    #[error("too many symbolic links on its way")]
    LinkLoop,
    /// The layer's own root as something else.
    #[error("only a directory can be the root of a layer")]
    RootNotDirectory,
    /// A whiteout that names nothing.
    #[error("the whiteout names nothing that could be in a layer")]
    Whiteout,
    /// The file system cannot keep it with the file.
    #[error("its extended attribute {name:?} of {size} bytes is larger than the store's file system takes")]
    XattrTooLarge {
        /// Which attribute.
        name: String,
        /// Bytes of its value.
        size: usize,
    },
    /// More entries than allowed.
    #[error("the archive has more than {0} entries")]
    Entries(u64),
    /// More content than allowed.
    #[error("the archive's files are larger than {0} bytes together")]
    Bytes(u64),
    /// The kernel refuses.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl UnpackFault {
    /// Says what failed.
    fn at<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { doing, source: source.into() }
    }
}

/// Unpacks the archive in `content` into the empty folder `root`. What follows the archive's end is left
/// unread.
pub(crate) fn unpack(
    content: &mut impl BufRead,
    root: &Path,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let mut entry = Entry::default();
    let mut unpacked = || {
        let mut unpacker = Unpacker::new(root, limits)?;
        let mut archive = TarReader::new(content, limits);
        while archive.next(&mut entry)? {
            unpacker.place(&entry, &mut archive)?;
        }
        unpacker.finish()
    };
    unpacked().map_err(|fault| UnpackError { entry: lossy(&entry.path), fault })
}

/// A name for people.
fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
