//! The index of a spooled archive: the position of each file.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

use super::ArchiveError;
use super::spool::Spool;
use crate::digest::Digest;
use crate::excerpt::excerpt;
use crate::unpack::Limits;
use crate::unpack::tar::{Entry, Kind, TarReader};

/// Limit for entries of an archive of images: there are some for each layer.
const MAX_ENTRIES: usize = 20_000;
/// Limit for the bytes of all names and link targets, which are kept in memory. A usual name has fewer than 150.
const MAX_NAMES: usize = 16 << 20;
/// Limit for a document in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Limit for links on the way to a file.
const MAX_LINKS: usize = 8;

/// Files of the archive, by their paths.
pub(super) struct Entries {
    spool: Spool,
    locations: HashMap<String, Location>,
}

enum Location {
    File {
        offset: u64,
        size: u64,
    },
    /// An older `docker save` stores equal layers once and links to them.
    Link(String),
}

impl Entries {
    /// # Errors
    /// The spooled file is not an archive, or has too many entries or too long names.
    pub(super) fn read(spool: Spool, limits: &Limits) -> Result<Self, ArchiveError> {
        let mut source = Counting { inner: BufReader::new(spool.open()?), consumed: 0 };
        let (mut locations, mut entry) = (HashMap::new(), Entry::default());
        let (mut count, mut names) = (0, 0);
        loop {
            let mut reader = TarReader::new(&mut source, limits);
            // A new reader for each entry: its count of read bytes is exact between two entries.
            if !reader.next(&mut entry)? {
                break;
            }
            count += 1;
            if count > MAX_ENTRIES {
                return Err(ArchiveError::TooMany { what: "entries", limit: MAX_ENTRIES });
            }
            names += entry.path.len() + entry.link.len();
            if names > MAX_NAMES {
                return Err(ArchiveError::TooMany { what: "bytes of names", limit: MAX_NAMES });
            }
            let path = normal(&entry.path);
            match entry.kind {
                Kind::File => {
                    locations.insert(path, Location::File { offset: source.consumed, size: entry.size });
                }
                Kind::Symlink | Kind::HardLink => {
                    let target = linked(&path, &entry);
                    locations.insert(path, Location::Link(target));
                }
                Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {}
            }
            source.skip(entry.size.next_multiple_of(512))?;
        }
        Ok(Self { spool, locations })
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.locations.contains_key(path)
    }

    fn find(&self, path: &str) -> Result<(u64, u64), ArchiveError> {
        let mut name = normal(path.as_bytes());
        for _ in 0..MAX_LINKS {
            match self.locations.get(&name) {
                Some(Location::File { offset, size }) => return Ok((*offset, *size)),
                Some(Location::Link(target)) => name.clone_from(target),
                None => break,
            }
        }
        Err(ArchiveError::Missing(excerpt(path)))
    }

    /// A small file.
    pub(super) fn document(&self, path: &str) -> Result<Vec<u8>, ArchiveError> {
        let (offset, size) = self.find(path)?;
        if size > MAX_DOCUMENT {
            let why = format!("{size} bytes; at most {MAX_DOCUMENT} are accepted");
            return Err(ArchiveError::Document { name: excerpt(path), why });
        }
        let mut bytes = Vec::new();
        let mut part = self.spool.part(offset, size)?;
        part.read_to_end(&mut bytes).map_err(ArchiveError::io("read a temporary file"))?;
        Ok(bytes)
    }

    /// A file of any size, and its size.
    pub(super) fn content(&self, path: &str) -> Result<(impl Read + Send + use<>, u64), ArchiveError> {
        let (offset, size) = self.find(path)?;
        Ok((self.spool.part(offset, size)?, size))
    }
}

/// The path of a blob of an OCI layout.
pub(super) fn blob(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Removes `./` and slashes at the ends.
fn normal(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let parts = text.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<_>>().join("/")
}

/// The target of a link, as a path in the archive.
fn linked(path: &str, entry: &Entry) -> String {
    let link = String::from_utf8_lossy(&entry.link);
    if entry.kind == Kind::HardLink || link.starts_with('/') {
        return normal(link.as_bytes());
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

struct Counting<R> {
    inner: R,
    consumed: u64,
}

impl<R: BufRead> Counting<R> {
    fn skip(&mut self, mut bytes: u64) -> Result<(), ArchiveError> {
        while bytes > 0 {
            let there = self.fill_buf().map_err(ArchiveError::io("read a temporary file"))?.len();
            if there == 0 {
                return Err(crate::unpack::TarError::Truncated.into());
            }
            let step = there.min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.consume(step);
            bytes -= step as u64;
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Counting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.consumed += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counting<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.consumed += bytes as u64;
        self.inner.consume(bytes);
    }
}
