//! Reading tar archives: ustar, GNU long names, and pax extended headers.
//!
//! It is our own because an image's archive is hostile input: every size is checked before memory is
//! allocated, an invalid field is an error instead of a guess, and entries are read from the decompressor's
//! buffers without a copy.
//! Formats: pax(1) of POSIX.1-2024, and the "Basic Tar Format" chapter of the GNU tar manual.

mod header;
mod pax;
mod reader;

pub use reader::TarReader;

/// Whether `records` are a valid pax extended header.
#[cfg(feature = "fuzz")]
pub(crate) fn check_pax(records: &[u8]) -> Result<(), TarError> {
    pax::Pax::default().read(records)
}

/// The kind of file that an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A regular file with `size` bytes following.
    #[default]
    File,
    /// Another name for the file `link`.
    HardLink,
    /// A symbolic link to `link`.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Before 1970 negative.
    pub seconds: i64,
    /// Below a billion.
    pub nanoseconds: u32,
}

/// One entry's header with all extensions. Reused from entry to entry.
#[derive(Debug, Default)]
pub struct Entry {
    /// As written.
    pub path: Vec<u8>,
    /// As written; only for links.
    pub link: Vec<u8>,
    /// The kind of file.
    pub kind: Kind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// When the content last changed.
    pub modified: Time,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, as written.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An error in an archive, apart from the content of its entries.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The content ends inside an entry.
    #[error("the archive is truncated")]
    Truncated,
    /// Not a header.
    #[error("the header is damaged: its checksum does not match (is this a tar archive?)")]
    Checksum,
    /// A number that is not valid or too large.
    #[error("the header's {0} is not a number that fits")]
    Number(&'static str),
    /// A pax record that does not follow the format.
    #[error("the extended header is malformed")]
    Pax,
    /// A name with a zero byte.
    #[error("the {0} contains a zero byte")]
    ZeroByte(&'static str),
    /// Longer than any path can be, or a header bomb.
    #[error("the {what} is {size} bytes long; {limit} are allowed")]
    TooLong {
        /// The part.
        what: &'static str,
        /// The size in the header.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Many long headers.
    #[error("the extended headers are longer than {0} bytes together, the limit for one archive")]
    ExtendedHeaders(u64),
    /// Too many bytes that make no file.
    #[error(
        "more than {0} bytes of the archive make no file (what follows its end, global headers, ignored \
         entries), the limit for one archive"
    )]
    Unused(u64),
    /// A kind of entry that has no place in an image layer.
    #[error("entries of type {:?} are not supported", char::from(*.0))]
    Type(u8),
    /// A file with holes in GNU's own encodings.
    #[error("sparse files are not supported: write the archive without --sparse")]
    Sparse,
    /// Something other than zeros where the archive ends.
    #[error("a single zero block is followed by more entries")]
    LoneZeroBlock,
    /// A link that leads nowhere.
    #[error("the link has no target")]
    NoTarget,
    /// An entry without a name.
    #[error("the name is empty")]
    NoName,
}
