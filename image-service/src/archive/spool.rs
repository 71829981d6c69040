//! An archive on disk, because it is read in another order than it arrives.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use super::ArchiveError;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::layout;
use crate::store::{Store, is_disk_full};
use crate::unpack::stream::{self, StreamError};
use crate::unpack::{Space, UnpackFault};

/// Bytes of one write.
const BUFFER: usize = 256 << 10;

/// A file in the store's folder for temporary files; removed when dropped.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    path: PathBuf,
    digest: Digest,
    size: u64,
}

impl Spool {
    /// Receives an archive and decompresses it.
    ///
    /// # Errors
    /// It is incomplete, damaged or larger than `limit`, or there is no room for it on the disk.
    pub fn receive(store: &Store, archive: impl Read + Send, limit: u64) -> Result<Self, ArchiveError> {
        let (mut spool, mut file) = Self::create(store)?;
        let received = stream::run(archive, Algorithm::Sha256, |content| copy(content, &mut file, limit));
        let received = received.map_err(|error| match error {
            StreamError::Source(source) => ArchiveError::Received(source),
            StreamError::Decompress(as_what, source) => {
                ArchiveError::Compressed(format!("{as_what}: {source}"))
            }
            StreamError::Consumer(error) => error,
        });
        (spool.size, spool.digest) = collect_if_full(store, received)?;
        Ok(spool)
    }

    /// Stores the output of `write`.
    ///
    /// # Errors
    /// The error of `write`, or there is no room for it on the disk.
    pub fn written(
        store: &Store,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Self, ArchiveError> {
        let (mut spool, mut file) = Self::create(store)?;
        let mut measured = Measured::new(io::BufWriter::with_capacity(BUFFER, &mut file));
        let written = write(&mut measured).and_then(|()| measured.flush());
        let (digest, size) = measured.finish();
        let written = written.map_err(|error| file.error("write the layer's archive", error));
        collect_if_full(store, written)?;
        (spool.size, spool.digest) = (size, digest);
        Ok(spool)
    }

    fn create(store: &Store) -> Result<(Self, SpoolFile), ArchiveError> {
        let folder = store.temporary_folder()?;
        let path = layout::spooled(&folder);
        let spool = Self { folder, path, digest: Digest::sha256(b""), size: 0 };
        let make = "make a temporary file";
        let file = File::create_new(&spool.path).map_err(ArchiveError::io(make))?;
        let descriptor: OwnedFd = file.try_clone().map_err(ArchiveError::io(make))?.into();
        let space = Space::of(Rc::new(descriptor)).map_err(ArchiveError::of_space)?;
        Ok((spool, SpoolFile { file, space, refused: None }))
    }

    /// The digest of its bytes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Opens the whole file.
    ///
    /// # Errors
    /// The disk's error.
    pub fn open(&self) -> Result<File, ArchiveError> {
        File::open(&self.path).map_err(ArchiveError::io("read a temporary file"))
    }

    /// A reader for a part of it.
    pub(super) fn part(&self, offset: u64, size: u64) -> Result<impl Read + Send + use<>, ArchiveError> {
        let mut file = self.open()?;
        file.seek(SeekFrom::Start(offset)).map_err(ArchiveError::io("read a temporary file"))?;
        Ok(BufReader::with_capacity(BUFFER, file.take(size)))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "a temporary folder stays until the next start");
        }
    }
}

/// A full disk is a reason to delete layers that nothing needs.
fn collect_if_full<T>(store: &Store, result: Result<T, ArchiveError>) -> Result<T, ArchiveError> {
    if matches!(result, Err(ArchiveError::DiskFull | ArchiveError::NoRoom { .. })) {
        store.disk_is_full();
    }
    result
}

/// The file of a [`Spool`]. It leaves a part of the free space free.
struct SpoolFile {
    file: File,
    space: Space,
    /// The reason why a write was refused: those who write lose the type of its error.
    refused: Option<UnpackFault>,
}

impl SpoolFile {
    fn error(&mut self, doing: &'static str, error: io::Error) -> ArchiveError {
        match self.refused.take() {
            Some(fault) => ArchiveError::of_space(fault),
            None if is_disk_full(&error) => ArchiveError::DiskFull,
            None => ArchiveError::io(doing)(error),
        }
    }
}

impl Write for SpoolFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(fault) = self.space.take(bytes.len() as u64) {
            self.refused = Some(fault);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn copy(content: &mut stream::Content, file: &mut SpoolFile, limit: u64) -> Result<u64, ArchiveError> {
    let mut size = 0;
    loop {
        let piece = content.fill_buf().map_err(ArchiveError::Received)?;
        let length = piece.len();
        if length == 0 {
            return Ok(size);
        }
        size += length as u64;
        if size > limit {
            return Err(ArchiveError::TooLarge(limit));
        }
        file.write_all(piece).map_err(|error| file.error("write a temporary file", error))?;
        content.consume(length);
    }
}

/// Counts and hashes the bytes that pass through.
pub(super) struct Measured<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Measured<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256), size: 0 }
    }

    pub(super) fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..taken]);
        self.size += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
