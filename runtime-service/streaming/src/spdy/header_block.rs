//! Header blocks: lists of names and values, compressed with one zlib stream per direction of a connection.

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// The longest inflated block. Those of a kubelet have about 100 bytes.
const MAX_INFLATED: usize = 16 << 10;
/// The largest number of headers in one block.
const MAX_HEADERS: u32 = 64;

/// A block that cannot be decoded. It ends the connection, because both sides share the state of the
/// compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("a header block is not compressed with zlib and the dictionary of SPDY/3")]
    Compression,
    #[error("a header block is longer than {MAX_INFLATED} bytes or has more than {MAX_HEADERS} headers")]
    TooLong,
    #[error("a header block is cut short or not text")]
    Malformed,
}

/// The headers of one stream, with names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    #[must_use]
    pub fn new(headers: &[(&str, &str)]) -> Self {
        Self(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The first value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Decodes the header blocks of one connection, in their order.
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    /// # Errors
    /// [`HeaderError`], after which no further block can be read.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        let inflated = self.inflate(block)?;
        parse(&inflated).ok_or(HeaderError::Malformed)?
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut inflated = Vec::with_capacity(512);
        let mut rest = block;
        let mut has_dictionary = false;
        loop {
            let (read, written) = (self.0.total_in(), inflated.len());
            let status = self.0.decompress_vec(rest, &mut inflated, FlushDecompress::Sync);
            let used = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            rest = rest.get(used..).unwrap_or_default();
            match status {
                Ok(Status::StreamEnd) => return Err(HeaderError::Compression),
                Ok(_) if inflated.len() > MAX_INFLATED => return Err(HeaderError::TooLong),
                // The output has room left, so everything in the block was written.
                Ok(_) if rest.is_empty() && inflated.len() < inflated.capacity() => return Ok(inflated),
                Ok(_) if inflated.len() == inflated.capacity() => inflated.reserve(inflated.capacity()),
                Ok(_) if used == 0 && inflated.len() == written => return Err(HeaderError::Compression),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() && !has_dictionary => {
                    has_dictionary = true;
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| HeaderError::Compression)?;
                }
                Err(_) => return Err(HeaderError::Compression),
            }
        }
    }
}

/// Returns None when the block is cut short.
fn parse(block: &[u8]) -> Option<Result<Headers, HeaderError>> {
    let mut rest = block;
    let count = number(&mut rest)?;
    if count > MAX_HEADERS {
        return Some(Err(HeaderError::TooLong));
    }
    let mut headers = Headers::default();
    for _ in 0..count {
        let (name, value) = (text(&mut rest)?, text(&mut rest)?);
        headers.0.push((name.to_ascii_lowercase(), value));
    }
    Some(Ok(headers))
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_be_bytes(*number))
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

/// Encodes the header blocks of one connection, in their order.
///
/// The blocks have the format of zlib but are not compressed: one stream without a dictionary, of stored
/// blocks (RFC 1951 section 3.2.4). A server sends very few headers, and a compressor for them would take a
/// quarter of a megabyte per session. Each block ends with an empty one, as a flush does: the inflater of Go
/// returns its output only after that.
#[derive(Default)]
pub(super) struct Deflater {
    begun: bool,
}

impl Deflater {
    /// The head of a zlib stream: deflate, no dictionary, a valid check sum.
    const HEAD: [u8; 2] = [0x78, 0x01];
    /// A stored block of length 0 that is not the last one.
    const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

    pub(super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let mut block = Vec::new();
        let number = |count: usize, block: &mut Vec<u8>| {
            block.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
        };
        number(headers.0.len(), &mut block);
        for (name, value) in &headers.0 {
            for text in [name, value] {
                number(text.len(), &mut block);
                block.extend_from_slice(text.as_bytes());
            }
        }
        let mut deflated = Vec::with_capacity(block.len() + 16);
        if !self.begun {
            deflated.extend_from_slice(&Self::HEAD);
            self.begun = true;
        }
        for piece in block.chunks(u16::MAX.into()) {
            let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            // A stored block that is not the last one.
            deflated.push(0);
            deflated.extend_from_slice(&length.to_le_bytes());
            deflated.extend_from_slice(&(!length).to_le_bytes());
            deflated.extend_from_slice(piece);
        }
        deflated.extend_from_slice(&Self::FLUSH);
        deflated
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digits).collect()
    }

    #[test]
    fn blocks_are_read_as_written_one_after_the_other() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for number in 0..200 {
            let port = number.to_string();
            let headers = Headers::new(&[("streamtype", "data"), ("port", &port), ("requestid", "7")]);
            let block = deflater.write(&headers);
            assert_eq!(inflater.read(&block).as_ref(), Ok(&headers), "{number}");
        }
        assert_eq!(inflater.read(&deflater.write(&Headers::default())), Ok(Headers::default()));
    }

    #[test]
    fn blocks_of_another_implementation_are_read() {
        // Written by compress/zlib of Go 1.26 with its best compression, which kubectl uses, one block after
        // the other.
        let error = hex("78f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff");
        let data = hex("02a5470c295029930829b08bc079c3c2c0c280818181b30812c199a084cf6800000000ffff");
        let mut inflater = Inflater::default();
        assert_eq!(inflater.read(&error), Ok(Headers::new(&[("streamtype", "error")])));
        let headers = Headers::new(&[("streamtype", "data"), ("port", "8080"), ("requestid", "0")]);
        assert_eq!(inflater.read(&data), Ok(headers));
    }

    #[test]
    fn a_header_bomb_is_refused_before_it_inflates() {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&DICTIONARY).unwrap();
        let mut block = Vec::with_capacity(1 << 20);
        compress.compress_vec(&vec![0; 64 << 20], &mut block, FlushCompress::Sync).unwrap();
        assert!(block.len() < 100_000);
        assert_eq!(Inflater::default().read(&block), Err(HeaderError::TooLong));
    }

    #[test]
    fn damaged_blocks_are_refused() {
        let block = Deflater::default().write(&Headers::new(&[("streamtype", "stdin")]));
        assert!(block.ends_with(&Deflater::FLUSH), "Go's inflater waits for it");
        for end in 0..block.len() - Deflater::FLUSH.len() {
            assert!(Inflater::default().read(&block[..end]).is_err(), "{end}");
        }
        assert_eq!(Inflater::default().read(b"GET / HTTP/1.1"), Err(HeaderError::Compression));
        let other = Compress::new(Compression::fast(), true);
        let mut plain = Vec::with_capacity(100);
        { other }.compress_vec(b"\0\0\0\0", &mut plain, FlushCompress::Sync).unwrap();
        // Compressed without the dictionary. zlib does not notice, and an empty list does not use the
        // dictionary.
        assert_eq!(Inflater::default().read(&plain), Ok(Headers::default()));
    }

    #[test]
    fn absurd_counts_and_lengths_are_refused() {
        assert_eq!(parse(b"\xff\xff\xff\xff"), Some(Err(HeaderError::TooLong)));
        assert_eq!(parse(b"\0\0\0\x01\xff\xff\xff\xffabc"), None);
        assert_eq!(parse(b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0"), None);
    }
}
