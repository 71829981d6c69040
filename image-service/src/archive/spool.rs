//! An archive on disk, because it is read in another order than it arrives.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write};
use std::path::PathBuf;

use super::ArchiveError;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::layout;
use crate::store::Store;
use crate::unpack::stream::{self, StreamError};

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
    /// It is incomplete, damaged or larger than `limit`, or the disk is full.
    pub fn receive(store: &Store, archive: impl Read + Send, limit: u64) -> Result<Self, ArchiveError> {
        let (mut spool, mut file) = Self::create(store)?;
        let received = stream::run(archive, Algorithm::Sha256, |content| copy(content, &mut file, limit));
        let (size, digest) = received.map_err(|error| match error {
            StreamError::Source(source) => ArchiveError::Received(source),
            StreamError::Decompress(as_what, source) => {
                ArchiveError::Compressed(format!("{as_what}: {source}"))
            }
            StreamError::Consumer(error) => error,
        })?;
        (spool.size, spool.digest) = (size, digest);
        Ok(spool)
    }

    /// Stores the output of `write`.
    ///
    /// # Errors
    /// The error of `write`, or the disk's.
    pub fn written(
        store: &Store,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Self, ArchiveError> {
        let (mut spool, file) = Self::create(store)?;
        let mut file = Measured::new(io::BufWriter::with_capacity(BUFFER, file));
        write(&mut file)
            .and_then(|()| file.flush())
            .map_err(ArchiveError::io("write the layer's archive"))?;
        let (digest, size) = file.finish();
        (spool.size, spool.digest) = (size, digest);
        Ok(spool)
    }

    fn create(store: &Store) -> Result<(Self, File), ArchiveError> {
        let folder = store.temporary_folder()?;
        let path = layout::spooled(&folder);
        let spool = Self { folder, path, digest: Digest::sha256(b""), size: 0 };
        let file = File::create_new(&spool.path).map_err(ArchiveError::io("make a temporary file"))?;
        Ok((spool, file))
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

fn copy(content: &mut stream::Content, file: &mut File, limit: u64) -> Result<u64, ArchiveError> {
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
        file.write_all(piece).map_err(ArchiveError::io("write a temporary file"))?;
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
