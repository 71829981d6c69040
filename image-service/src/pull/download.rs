//! One blob, wherever its bytes come from: resumed after a cut, continued at the next endpoint in the
//! middle of a layer, and believed only when the digest of all of it is right.

use std::time::Instant;

use tokio::sync::mpsc;

use super::bridge::Piece;
use super::error::AllFailed;
use super::sources::{Need, Rounds, Sources};
use crate::digest::{Digest, Hasher};
use crate::registry::EndpointError;

/// An endpoint that gave this much before it failed gets its full number of tries again. A few bytes at a
/// time are no progress: they could go on for ever.
const PROGRESS: u64 = 64 << 10;

/// How a download ended without success.
pub(crate) enum DownloadError {
    /// No endpoint has anything more to give.
    AllFailed(AllFailed),
    /// All bytes came and are not what the digest says; those that sent them are out. Worth another try
    /// while [`Rounds::order`] is not empty.
    Corrupt,
}

/// One try at a blob.
pub(crate) struct Download<'a, 'b> {
    rounds: &'a mut Rounds<'b>,
    sources: &'b Sources,
    digest: &'a Digest,
    size: u64,
    hasher: Hasher,
    offset: u64,
    /// Who sent something of what has been received.
    senders: Vec<usize>,
    /// Nobody reads any more; the rest is received only to learn whose fault that is.
    unread: bool,
}

impl<'a, 'b> Download<'a, 'b> {
    pub(crate) fn new(
        sources: &'b Sources,
        rounds: &'a mut Rounds<'b>,
        digest: &'a Digest,
        size: u64,
    ) -> Self {
        let hasher = Hasher::new(digest.algorithm());
        Self { rounds, sources, digest, size, hasher, offset: 0, senders: Vec::new(), unread: false }
    }

    /// Receives the whole blob into `pieces`; `received` is told how far it is.
    pub(crate) async fn run(
        mut self,
        pieces: &mpsc::Sender<Piece>,
        received: &impl Fn(u64),
    ) -> Result<(), DownloadError> {
        loop {
            for index in self.rounds.order() {
                let before = self.offset;
                let started = Instant::now();
                let outcome = self.receive_from(index, pieces, received).await;
                self.sources.list[index].metrics.received(self.offset - before, started.elapsed());
                if self.offset - before >= PROGRESS {
                    self.rounds.progressed();
                }
                match outcome {
                    Ok(()) => return self.verify(pieces).await,
                    Err(error) => self.rounds.failed(index, error),
                }
            }
            self.rounds.pause().await.map_err(DownloadError::AllFailed)?;
        }
    }

    async fn receive_from(
        &mut self,
        index: usize,
        pieces: &mpsc::Sender<Piece>,
        received: &impl Fn(u64),
    ) -> Result<(), EndpointError> {
        let source = &self.sources.list[index].source;
        let mut stream = source.open_blob(self.digest, self.size, self.offset).await?;
        loop {
            let data = match stream.next().await {
                Ok(Some(data)) => data,
                Ok(None) => return Ok(()),
                // All is there; that the connection did not end well afterwards changes nothing.
                Err(e) if self.offset == self.size && e.is_transient() => return Ok(()),
                Err(e) => return Err(e),
            };
            if self.senders.last() != Some(&index) {
                self.senders.push(index);
            }
            self.hasher.update(&data);
            self.offset += data.len() as u64;
            received(self.offset);
            if !self.unread && pieces.send(Piece::Data(data)).await.is_err() {
                self.unread = true;
            }
        }
    }

    async fn verify(self, pieces: &mpsc::Sender<Piece>) -> Result<(), DownloadError> {
        let found = self.hasher.finish();
        if found == *self.digest {
            // The reader may be gone; then its own error tells.
            let _ = pieces.send(Piece::End).await;
            return Ok(());
        }
        let several = self.senders.len() > 1;
        for index in self.senders {
            let what = if several { "a blob, with others," } else { "a blob" }.to_owned();
            let error = EndpointError::Digest { what, found: found.clone(), expected: self.digest.clone() };
            self.rounds.banish(index, error);
        }
        Err(DownloadError::Corrupt)
    }
}

impl<'b> Rounds<'b> {
    /// The rounds for one blob.
    pub(crate) fn for_blob(sources: &'b Sources) -> Self {
        Self::new(sources, Need::Pull)
    }
}
