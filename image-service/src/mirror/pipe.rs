//! Passes data from the download's task to the unpacking thread: a bounded channel that is read like a file.
//!
//! The end of the data is a separate message, sent after the digest has been verified. If the sender is
//! dropped without it, the reader fails, so that unverified data never looks complete.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Pieces in flight. Together with the client's read buffer this limits the memory of one layer to about 2
/// MiB.
const PIECES: usize = 8;

pub(crate) enum Piece {
    Data(Bytes),
    /// All data was sent and verified.
    End,
}

/// The reader's side; reading blocks.
pub(crate) struct PieceReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

pub(crate) fn pipe() -> (mpsc::Sender<Piece>, PieceReader) {
    let (sender, pieces) = mpsc::channel(PIECES);
    (sender, PieceReader { pieces, current: Bytes::new(), ended: false })
}

impl Read for PieceReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download ended early"));
                }
            }
        }
        let n = self.current.len().min(into.len());
        self.current.copy_to_slice(&mut into[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(pieces: Vec<Piece>) -> io::Result<Vec<u8>> {
        let (sender, mut reader) = pipe();
        for piece in pieces {
            sender.try_send(piece).ok().unwrap();
        }
        drop(sender);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn the_data_ends_only_with_the_end_message() {
        let data = |text: &'static str| Piece::Data(Bytes::from_static(text.as_bytes()));
        assert_eq!(read_all(vec![data("ab"), data(""), data("c"), Piece::End]).unwrap(), b"abc");
        assert!(read_all(vec![data("ab")]).is_err());
        assert!(read_all(vec![]).is_err());
    }
}
