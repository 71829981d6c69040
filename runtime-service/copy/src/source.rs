//! Buffers the bytes of an archive as they arrive.

use std::io::{self, BufRead, Read};

use crisp_image_service::TarError;
use crisp_image_service::unpack::tar::{Entry, TarReader};

use crate::CopyError;

/// Size of one read.
const PIECE: usize = 64 << 10;

/// Keeps the error of a failed read: the archive's reader only reports a missing end.
pub(crate) struct Source<R> {
    from: R,
    buffer: Vec<u8>,
    /// The part of the buffer that is not read yet.
    left: std::ops::Range<usize>,
    failure: Option<io::Error>,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, buffer: vec![0; PIECE], left: 0..0, failure: None }
    }

    pub(crate) fn failure(self) -> Option<io::Error> {
        self.failure
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.left.is_empty() {
            match self.from.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => self.left = 0..length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failure = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        Ok(&self.buffer[self.left.clone()])
    }

    fn consume(&mut self, length: usize) {
        self.left.start += length;
    }
}

/// Makes the error for a damaged archive; `entry` is the last one that could be read.
pub(crate) fn damaged(entry: &Entry) -> impl FnOnce(TarError) -> CopyError + '_ {
    |fault| CopyError::Damaged { after: String::from_utf8_lossy(&entry.path).into_owned(), fault }
}

/// Reads the content of the current entry into `take`, piece by piece.
pub(crate) fn content(
    reader: &mut TarReader<'_, Source<impl Read>>,
    entry: &Entry,
    mut take: impl FnMut(&[u8]) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    loop {
        let piece = reader.content().map_err(damaged(entry))?;
        if piece.is_empty() {
            return Ok(());
        }
        let length = piece.len();
        take(piece)?;
        reader.consume(length);
    }
}
