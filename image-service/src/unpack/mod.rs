//! Unpacking a layer's archive into a folder.
//!
//! ```text
//!   Content ──> tar::TarReader ──> Unpacker (one entry) ──> folders (by descriptor)
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
mod directory;
mod file;
mod finish;
mod folders;
#[cfg(feature = "fuzz")]
mod fuzz;
mod inherit;
mod link;
mod path;

mod replaced;
mod space;
pub(crate) mod stream;
pub mod tar;
mod totals;
mod unpacker;
mod whiteout;

use std::io::{self, BufRead};
use std::path::Path;

#[cfg(feature = "fuzz")]
pub(crate) use fuzz::{read_pax, read_tar, unpack_stream};
pub(crate) use inherit::inherit;
pub(crate) use space::Space;
pub use stream::Compression;
pub use tar::TarError;

use crate::excerpt::excerpt;
use crate::tree::Measured;
use tar::{Entry, TarReader};
use unpacker::Unpacker;

/// Limits for the archive of one layer. Images that are meant to be run stay far below the defaults.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Files, directories and links made, also those that an archive only implies or replaces later.
    pub inodes: u64,
    /// Bytes of all files and extended attributes together. Registries take layers of up to 200 GiB. Whatever
    /// this is, a layer or an archive of images leaves a tenth of what is free on the store's file system.
    pub bytes: u64,
    /// Directories used without being brought, whose names the store keeps.
    pub implied: u64,
    /// Bytes of their paths, which the store keeps in memory as long as it has the layer.
    pub implied_bytes: usize,
    /// Names looked up to give the directories implied by an image's layers the attributes of those below.
    pub inherit_lookups: u64,
    /// Bytes of memory for the paths of directories while the layer is unpacked.
    pub directory_memory: usize,
    /// Bytes in one path; the kernel takes 4095.
    pub path: usize,
    /// Bytes in all headers that extend one entry.
    pub extended_header: u64,
    /// Bytes in all such headers of the archive.
    pub extended_headers: u64,
    /// Bytes that make nothing: what follows the archive's end, global headers, content that is ignored.
    pub unused: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 16 << 20,
            inodes: 8 << 20,
            bytes: 256 << 30,
            implied: 100_000,
            implied_bytes: 16 << 20,
            inherit_lookups: 10_000_000,
            directory_memory: 256 << 20,
            path: 4095,
            extended_header: 1 << 20,
            extended_headers: 16 << 30,
            unused: 256 << 20,
        }
    }
}

/// The result of unpacking an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub entries: u64,
    pub on_disk: Measured,
    /// The archive hides the layers below.
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
    /// The reason.
    pub fault: UnpackFault,
}

/// The reason why an entry cannot be unpacked.
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
        /// The limit.
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
    /// The layer's own root is not a directory.
    #[error("only a directory can be the root of a layer")]
    RootNotDirectory,
    /// A whiteout that names nothing.
    #[error("the whiteout names nothing that could be in a layer")]
    Whiteout,
    /// The file system cannot keep it with the file.
    #[error("its extended attribute {name:?} of {size} bytes is larger than the store's file system takes")]
    XattrTooLarge {
        /// The name of the attribute.
        name: String,
        /// Bytes of its value.
        size: usize,
    },
    /// More entries than allowed.
    #[error("the archive has more than {0} entries, the limit for one layer")]
    Entries(u64),
    /// More inodes than allowed.
    #[error(
        "the archive makes more than {0} files and directories, the limit for one layer; raise \
         --max-layer-files if the image is trusted"
    )]
    Inodes(u64),
    /// More content than allowed.
    #[error(
        "the archive's files are larger than {0} bytes together, the limit for one layer; raise \
         --max-layer-bytes if the image is trusted"
    )]
    Bytes(u64),
    /// More content than the file system has room for.
    #[error("{needed} bytes more are needed, {free} are free, of which {kept} stay free")]
    NoRoom {
        /// Bytes.
        needed: u64,
        /// Bytes on the store's file system.
        free: u64,
        /// Bytes of them that no layer takes.
        kept: u64,
    },
    /// More directories implied than allowed.
    #[error(
        "the archive uses more than {0} directories without bringing them; build the layer with entries \
         for its directories"
    )]
    Implied(u64),
    /// The paths of the directories implied are too long together.
    #[error(
        "the paths of directories that the archive uses without bringing them have more than {0} bytes; build \
         the layer with entries for its directories"
    )]
    ImpliedBytes(usize),
    /// Too much memory for directories.
    #[error("the paths of the archive's directories need more than {0} bytes of memory")]
    DirectoryMemory(usize),
    /// The kernel refuses.
    #[error("cannot {doing}: {source}")]
    Io {
        /// The action.
        doing: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl UnpackFault {
    /// Adds the action.
    fn at<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { doing, source: source.into() }
    }
}

/// Unpacks the archive in `content` into the empty folder `root`. What follows the archive's end is read, as
/// the digest counts it, and ignored. Directories that the archive replaces are moved to `replaced`, which is made for them.
pub(crate) fn unpack(
    content: &mut impl BufRead,
    root: &Path,
    replaced: &Path,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let mut entry = Entry::default();
    let mut unpacked = || {
        let mut unpacker = Unpacker::new(root, replaced, limits)?;
        let mut archive = TarReader::new(content, limits);
        while archive.next(&mut entry)? {
            unpacker.unpack(&entry, &mut archive)?;
        }
        archive.read_to_end()?;
        unpacker.finish()
    };
    unpacked().map_err(|fault| UnpackError { entry: lossy(&entry.path), fault })
}

/// The begin of a name, for people.
fn lossy(path: &[u8]) -> String {
    excerpt(&String::from_utf8_lossy(path))
}
