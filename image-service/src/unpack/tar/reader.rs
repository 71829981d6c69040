//! Reads an archive entry by entry.

use std::io::{self, BufRead};

use super::header::{BLOCK, Header};
use super::pax::Pax;
use super::{Entry, Kind, TarError};
use crate::unpack::Limits;

/// Reads entries from `source`. Unread content is skipped with the next entry.
pub struct TarReader<'a, R> {
    source: &'a mut R,
    limits: &'a Limits,
    /// Unread bytes of the current entry's content.
    left: u64,
    /// Zeros that pad the content to a whole block.
    padding: u64,
    /// Bytes that headers for the current entry may still have.
    extendable: u64,
    /// Bytes of all such headers.
    extended: u64,
    /// Bytes that made nothing.
    unused: u64,
    block: [u8; BLOCK],
}

/// A name or header that came before its entry.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Pax,
}

impl<'a, R: BufRead> TarReader<'a, R> {
    /// Reads an archive from its begin.
    pub fn new(source: &'a mut R, limits: &'a Limits) -> Self {
        let (left, padding, extendable, extended, unused) = (0, 0, 0, 0, 0);
        Self { source, limits, left, padding, extendable, extended, unused, block: [0; BLOCK] }
    }

    /// Reads the next entry into `entry`; false at the archive's end.
    ///
    /// An archive that ends where a header could begin is accepted: some writers leave out the zero blocks,
    /// and the content's digest shows truncation.
    ///
    /// # Errors
    /// [`TarError`], after which no further entry can be read.
    pub fn next(&mut self, entry: &mut Entry) -> Result<bool, TarError> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        self.extendable = self.limits.extended_header;
        loop {
            self.skip_rest()?;
            if !self.read_block()? {
                return if extended { Err(TarError::Truncated) } else { Ok(false) };
            }
            let block = self.block;
            let Some(header) = Header::read(&block)? else {
                return if extended { Err(TarError::Truncated) } else { self.check_end().map(|()| false) };
            };
            match header.kind() {
                b'L' => extensions.long_name = Some(self.long_text(&header, "name")?),
                b'K' => extensions.long_link = Some(self.long_text(&header, "link target")?),
                b'x' | b'X' => {
                    let records = self.extension(&header, "extended header", u64::MAX)?;
                    extensions.pax.read(&records)?;
                }
                // About the whole archive: git's commit id, a volume name.
                b'g' | b'V' => {
                    self.expect(header.size()?);
                    self.count_unused(BLOCK as u64)?;
                    continue;
                }
                _ => {
                    fill(entry, &header, extensions)?;
                    self.expect_content(entry);
                    return Ok(true);
                }
            }
            extended = true;
        }
    }

    /// The next piece of the current entry's content; empty at its end. Call [`consume`](Self::consume) after
    /// it.
    ///
    /// # Errors
    /// [`TarError::Truncated`].
    pub fn content(&mut self) -> Result<&[u8], TarError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = self.source.fill_buf().map_err(truncated)?;
        if piece.is_empty() {
            return Err(TarError::Truncated);
        }
        Ok(&piece[..piece.len().min(left)])
    }

    /// Marks `n` bytes of the piece as read.
    pub fn consume(&mut self, n: usize) {
        self.source.consume(n);
        self.left -= n as u64;
    }

    fn expect_content(&mut self, entry: &mut Entry) {
        if entry.kind != Kind::File {
            // Some writers give a size to links and directories; no content follows.
            entry.size = 0;
        }
        self.expect(entry.size);
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    /// Reads the rest after the archive's end.
    ///
    /// # Errors
    /// [`TarError::Unused`].
    pub fn read_to_end(&mut self) -> Result<(), TarError> {
        loop {
            let available = self.source.fill_buf().map_err(truncated)?.len();
            if available == 0 {
                return Ok(());
            }
            self.count_unused(available as u64)?;
            self.source.consume(available);
        }
    }

    fn count_unused(&mut self, bytes: u64) -> Result<(), TarError> {
        self.unused = self.unused.saturating_add(bytes);
        let limit = self.limits.unused;
        if self.unused > limit { Err(TarError::Unused(limit)) } else { Ok(()) }
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        self.count_unused(self.left)?;
        let mut skip = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        while skip > 0 {
            let available = self.source.fill_buf().map_err(truncated)?.len();
            if available == 0 {
                return Err(TarError::Truncated);
            }
            let n = available.min(usize::try_from(skip).unwrap_or(usize::MAX));
            self.source.consume(n);
            skip -= n as u64;
        }
        Ok(())
    }

    /// Fills `self.block`; returns false at the end of the stream.
    fn read_block(&mut self) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.source.fill_buf().map_err(truncated)?;
            if available.is_empty() {
                return if filled == 0 { Ok(false) } else { Err(TarError::Truncated) };
            }
            let n = available.len().min(BLOCK - filled);
            self.block[filled..filled + n].copy_from_slice(&available[..n]);
            self.source.consume(n);
            filled += n;
        }
        Ok(true)
    }

    /// A zero block must be followed by another one, or by the end.
    fn check_end(&mut self) -> Result<(), TarError> {
        if self.read_block()? && self.block != [0; BLOCK] { Err(TarError::LoneZeroBlock) } else { Ok(()) }
    }

    fn long_text(&mut self, header: &Header<'_>, what: &'static str) -> Result<Vec<u8>, TarError> {
        // One more for the final zero byte.
        let mut text = self.extension(header, what, self.limits.path as u64 + 1)?;
        while text.last() == Some(&0) {
            text.pop();
        }
        if text.contains(&0) { Err(TarError::ZeroByte(what)) } else { Ok(text) }
    }

    /// The content of an entry that describes another one.
    fn extension(
        &mut self,
        header: &Header<'_>,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, TarError> {
        let size = header.size()?;
        let limit = limit.min(self.extendable);
        if size > limit {
            return Err(TarError::TooLong { what, size, limit });
        }
        self.extendable -= size;
        self.extended = self.extended.saturating_add(size);
        if self.extended > self.limits.extended_headers {
            return Err(TarError::ExtendedHeaders(self.limits.extended_headers));
        }
        self.expect(size);
        // Grows with the received bytes, not with the size in the header.
        let mut bytes = Vec::new();
        while self.left > 0 {
            let piece = self.content()?;
            let n = piece.len();
            bytes.extend_from_slice(piece);
            self.consume(n);
        }
        Ok(bytes)
    }
}

/// The stream itself reports its source's failure; here it only means the end.
fn truncated(_: io::Error) -> TarError {
    TarError::Truncated
}

fn fill(entry: &mut Entry, header: &Header<'_>, extensions: Extensions) -> Result<(), TarError> {
    let Extensions { long_name, long_link, pax } = extensions;
    entry.path.clear();
    match pax.path.or(long_name) {
        Some(path) => entry.path = path,
        None => header.path(&mut entry.path),
    }
    if entry.path.is_empty() {
        return Err(TarError::NoName);
    }
    entry.kind = kind(header.kind(), &entry.path)?;
    entry.link.clear();
    if matches!(entry.kind, Kind::HardLink | Kind::Symlink) {
        match pax.link.or(long_link) {
            Some(link) => entry.link = link,
            None => entry.link.extend_from_slice(header.link()),
        }
        if entry.link.is_empty() {
            return Err(TarError::NoTarget);
        }
    }
    let device = matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice);
    entry.device = if device { header.device()? } else { (0, 0) };
    entry.mode = header.mode()?;
    entry.uid = pax.uid.map_or_else(|| header.uid(), Ok)?;
    entry.gid = pax.gid.map_or_else(|| header.gid(), Ok)?;
    entry.size = pax.size.map_or_else(|| header.size(), Ok)?;
    entry.modified = pax.modified.map_or_else(|| header.modified(), Ok)?;
    entry.xattrs = pax.xattrs;
    Ok(())
}

fn kind(kind: u8, path: &[u8]) -> Result<Kind, TarError> {
    Ok(match kind {
        // Before ustar, a directory was a file whose name ends with a slash.
        b'\0' | b'0' if path.ends_with(b"/") => Kind::Directory,
        b'\0' | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => return Err(TarError::Sparse),
        other => return Err(TarError::Type(other)),
    })
}
