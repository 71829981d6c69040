//! Decompresses a stream and hashes its content, on two threads.
//!
//! ```text
//!   compressed ─> [decompressor thread] ─ buffers ─> [caller: hash, tar, files]
//!                          ^──────── empty buffers ───────┘
//! ```
//!
//! Decompressing is the slowest step for a big layer; hashing and writing files together take about as long.
//! A few buffers circulate: memory is bounded, and the faster side waits.
//!
//! The first bytes tell the compression, as in containerd: registries have layers with the media type of gzip
//! whose content is zstd or not compressed.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::bufread::MultiGzDecoder;

use crate::digest::{Algorithm, Digest, Hasher};

/// Bytes of content in one buffer.
const BUFFER: usize = 256 * 1024;
/// Number of buffers.
const BUFFERS: usize = 4;
/// Number of bytes that tell the compression.
const MAGIC: usize = 4;
/// Bytes of one compressed read.
const INPUT: usize = 128 * 1024;

/// The compression of a layer's archive, detected from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip, possibly of several members.
    Gzip,
    /// Zstandard, possibly of several frames.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "plain tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// The reason why a stream was not consumed to its end.
#[derive(Debug)]
pub(crate) enum StreamError<E> {
    /// The compressed stream's own failure.
    Source(io::Error),
    /// The bytes do not have the format that their first bytes announce.
    Decompress(Compression, io::Error),
    /// The consumer's failure.
    Consumer(E),
}

/// Decompresses `compressed` into `consume`, which reads to the end, so that the digest covers the whole
/// content and the reader sees its own end too.
pub(crate) fn run<T, E>(
    compressed: impl Read + Send,
    algorithm: Algorithm,
    consume: impl FnOnce(&mut Content) -> Result<T, E>,
) -> Result<(T, Digest), StreamError<E>> {
    let (full, content) = sync_channel(BUFFERS);
    let (returned, empty) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // Cannot fail: the channel has room for all of them.
        let _ = returned.send(Vec::new());
    }
    thread::scope(|scope| {
        let decompressor = thread::Builder::new()
            .name("crisp-inflate".into())
            .spawn_scoped(scope, move || decompress(compressed, &empty, &full))
            .map_err(StreamError::Source)?;
        let mut content =
            Content { content, returned, hasher: Hasher::new(algorithm), buffer: Vec::new(), at: 0 };
        let consumed = consume(&mut content);
        let hasher = content.close();
        // A panic there is a bug. It ends the server, as everywhere in a release; in tests it is reported as damage.
        let fed = decompressor
            .join()
            .unwrap_or_else(|_| Err(Fault::Source(io::Error::other("the decompressor failed"))));
        match fed {
            Err(Fault::Source(e)) => return Err(StreamError::Source(e)),
            // The archive looks truncated then, which is only a consequence of the damage.
            Err(Fault::Damage(compression, e)) => return Err(StreamError::Decompress(compression, e)),
            Ok(()) => {}
        }
        let value = consumed.map_err(StreamError::Consumer)?;
        Ok((value, hasher.finish()))
    })
}

/// The failure of the decompressing side.
enum Fault {
    Source(io::Error),
    Damage(Compression, io::Error),
}

/// Reads the source and keeps its error, which decompressors wrap or replace.
struct Source<'a, R> {
    inner: R,
    failure: &'a RefCell<Option<io::Error>>,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let kind = e.kind();
                    *self.failure.borrow_mut() = Some(e);
                    return Err(kind.into());
                }
                done => return done,
            }
        }
    }
}

fn decompress(
    compressed: impl Read,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Vec<u8>>,
) -> Result<(), Fault> {
    let failure = RefCell::new(None);
    let mut source = Source { inner: compressed, failure: &failure };
    let mut compression = Compression::None;
    let result = first_bytes(&mut source).and_then(|first| {
        compression = detect(&first);
        let source = BufReader::with_capacity(INPUT, (&first[..]).chain(source));
        match compression {
            Compression::None => pump(source, empty, full),
            Compression::Gzip => pump(MultiGzDecoder::new(source), empty, full),
            Compression::Zstd => zstd::stream::read::Decoder::with_buffer(source)
                .and_then(|decoder| pump(decoder, empty, full)),
        }
    });
    match (failure.take(), result) {
        (Some(e), _) => Err(Fault::Source(e)),
        (None, Err(e)) => Err(Fault::Damage(compression, e)),
        (None, Ok(())) => Ok(()),
    }
}

/// As many bytes as [`detect`] needs; fewer where the stream is shorter.
fn first_bytes(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(MAGIC);
    source.take(MAGIC as u64).read_to_end(&mut first)?;
    Ok(first)
}

/// RFC 1952, section 2.3.1; RFC 8878, sections 3.1.1 and 3.1.2 (a skippable frame may come first). No tar
/// archive begins like this, unless its first file has such a name.
fn detect(first: &[u8]) -> Compression {
    match first {
        [0x1f, 0x8b, 8, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Fills buffers until the content ends or the consumer has gone.
fn pump(mut content: impl Read, empty: &Receiver<Vec<u8>>, full: &SyncSender<Vec<u8>>) -> io::Result<()> {
    while let Ok(mut buffer) = empty.recv() {
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while filled < BUFFER {
            match content.read(&mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        let ended = filled < BUFFER;
        buffer.truncate(filled);
        if full.send(buffer).is_err() || ended {
            return Ok(());
        }
    }
    Ok(())
}

/// The decompressed content; every byte that is returned has been hashed.
pub(crate) struct Content {
    content: Receiver<Vec<u8>>,
    returned: SyncSender<Vec<u8>>,
    hasher: Hasher,
    buffer: Vec<u8>,
    at: usize,
}

impl Content {
    /// Ends the decompressor, if it still runs, by closing both channels.
    fn close(self) -> Hasher {
        self.hasher
    }
}

impl Read for Content {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let n = available.read(into)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Content {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len()
            && let Ok(next) = self.content.recv()
        {
            // Refused once the decompressor has ended.
            let _ = self.returned.send(std::mem::replace(&mut self.buffer, next));
            self.hasher.update(&self.buffer);
            self.at = 0;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}
