//! Downloads one blob: resumes after a disconnect, continues at the next endpoint in the middle of a layer,
//! and uses the result only if the digest of the whole is right.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::error::AllFailed;
use super::failover::Failover;
use super::pipe::Piece;
use super::sources::Sources;
use crate::digest::{Digest, Hasher};
use crate::registry::{EndpointError, Pace};

/// The failure of a download.
pub(crate) enum DownloadError {
    /// No endpoint has more bytes.
    AllFailed(AllFailed),
    /// The bytes do not match the digest, or cannot be continued. Another try from the start may succeed
    /// while the [`Failover`] is not over.
    StartAgain,
}

/// A report of a running download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DownloadEvent {
    /// This many bytes of the blob are received.
    Received(u64),
    /// Whether it waits for the reader instead of the network.
    WaitsForReader(bool),
}

/// One try at a blob.
pub(crate) struct Download<'a, 'b> {
    failover: &'a mut Failover<'b>,
    sources: &'b Sources,
    digest: &'a Digest,
    size: u64,
    hasher: Hasher,
    offset: u64,
    /// The endpoints that sent a part of the received bytes.
    senders: Vec<usize>,
    /// Endpoints that were left because they were slow.
    slow: Vec<usize>,
    /// The starting point of the measured speed, across disconnects and pauses.
    measured: (Instant, u64),
    /// The reader is gone; the rest is received only to find out whether the bytes or the content are wrong.
    unread: bool,
}

impl<'a, 'b> Download<'a, 'b> {
    pub(crate) fn new(
        sources: &'b Sources,
        failover: &'a mut Failover<'b>,
        digest: &'a Digest,
        size: u64,
    ) -> Self {
        Self {
            failover,
            sources,
            digest,
            size,
            hasher: Hasher::new(digest.algorithm()),
            offset: 0,
            senders: Vec::new(),
            slow: Vec::new(),
            measured: (Instant::now(), 0),
            unread: false,
        }
    }

    /// Receives the whole blob into `pieces`.
    pub(crate) async fn run(
        mut self,
        pieces: &mpsc::Sender<Piece>,
        events: &impl Fn(DownloadEvent),
    ) -> Result<(), DownloadError> {
        loop {
            for index in self.failover.order() {
                if !self.can_continue_at(index) {
                    continue;
                }
                let (before, started) = (self.offset, Instant::now());
                let outcome = self.receive_from(index, pieces, events).await;
                let received = self.offset - before;
                self.sources.list[index].metrics.received(received, started.elapsed());
                if received > 0 {
                    self.failover.progressed();
                    self.failover.served(index);
                }
                match outcome {
                    Ok(()) => return self.verify(pieces).await,
                    Err(error) => self.failed(index, error),
                }
            }
            if self.is_too_slow() {
                return Err(DownloadError::AllFailed(self.failover.all_failed()));
            }
            if let Err(failed) = self.failover.pause().await {
                return Err(self.given_up(failed));
            }
        }
    }

    /// If bytes of several endpoints together had a wrong digest, a blob comes from only one of them, so that
    /// the one with wrong bytes is found.
    fn can_continue_at(&self, index: usize) -> bool {
        !self.failover.is_unmixed() || self.senders.first().is_none_or(|sender| *sender == index)
    }

    async fn receive_from(
        &mut self,
        index: usize,
        pieces: &mpsc::Sender<Piece>,
        events: &impl Fn(DownloadEvent),
    ) -> Result<(), EndpointError> {
        let source = &self.sources.list[index].source;
        let mut stream = source.open_blob(self.digest, self.size, self.offset, self.pace(index)).await?;
        loop {
            let data = match stream.next().await {
                Ok(Some(data)) => data,
                Ok(None) => return Ok(()),
                // All bytes are there; an error after them does not matter.
                Err(e) if self.offset == self.size && e.is_transient() => return Ok(()),
                Err(e) => return Err(e),
            };
            if self.senders.last() != Some(&index) {
                self.senders.push(index);
            }
            self.hasher.update(&data);
            self.offset += data.len() as u64;
            events(DownloadEvent::Received(self.offset));
            if !self.unread {
                self.unread = !hand_on(pieces, data, events).await;
            }
        }
    }

    /// The required speed of an endpoint: higher while there is another one that has not been slow.
    fn pace(&self, index: usize) -> Pace {
        let pace = self.sources.pace;
        let is_other = |other: usize| other != index && !self.slow.contains(&other);
        let other =
            self.failover.order().into_iter().any(|other| is_other(other) && self.can_continue_at(other));
        if other && !self.slow.contains(&index) {
            Pace { bytes: pace.bytes.max(self.sources.retry.slow_bytes), ..pace }
        } else {
            pace
        }
    }

    fn failed(&mut self, index: usize, error: EndpointError) {
        if matches!(error, EndpointError::Slow { .. } | EndpointError::Stalled { .. }) {
            self.slow.push(index);
        }
        self.failover.failed(index, error);
    }

    /// Limits a download that never stalls and never ends: from endpoints that send little and disconnect.
    fn is_too_slow(&mut self) -> bool {
        let (since, from) = self.measured;
        let elapsed = since.elapsed();
        if elapsed < self.sources.retry.patience {
            return false;
        }
        self.measured = (Instant::now(), self.offset);
        let pace = self.sources.pace;
        let windows = elapsed.as_secs_f64() / pace.window.max(Duration::from_millis(1)).as_secs_f64();
        ((self.offset - from) as f64) < pace.bytes as f64 * windows
    }

    /// No further try from here; there may be one from the start at another endpoint.
    fn given_up(&mut self, failed: AllFailed) -> DownloadError {
        match self.senders.first() {
            Some(sender) if self.failover.is_unmixed() => {
                self.failover.exclude_failed(*sender);
                DownloadError::StartAgain
            }
            _ => DownloadError::AllFailed(failed),
        }
    }

    async fn verify(mut self, pieces: &mpsc::Sender<Piece>) -> Result<(), DownloadError> {
        let found = self.hasher.finish();
        if found == *self.digest {
            // If the reader is gone, its own error is reported.
            let _ = pieces.send(Piece::End).await;
            return Ok(());
        }
        self.senders.sort_unstable();
        self.senders.dedup();
        let expected = self.digest.clone();
        match self.senders.as_slice() {
            [only] => {
                let what = "a blob".to_owned();
                self.failover.exclude(*only, EndpointError::Digest { what, found, expected });
            }
            several => {
                for index in several {
                    let (what, found) = ("a blob, with others,".to_owned(), found.clone());
                    let error = EndpointError::Digest { what, found, expected: expected.clone() };
                    self.failover.suspect(*index, error);
                }
            }
        }
        Err(DownloadError::StartAgain)
    }
}

/// Returns false when the reader is gone.
async fn hand_on(pieces: &mpsc::Sender<Piece>, data: bytes::Bytes, events: &impl Fn(DownloadEvent)) -> bool {
    match pieces.try_send(Piece::Data(data)) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Closed(_)) => false,
        Err(mpsc::error::TrySendError::Full(piece)) => {
            events(DownloadEvent::WaitsForReader(true));
            let sent = pieces.send(piece).await.is_ok();
            events(DownloadEvent::WaitsForReader(false));
            sent
        }
    }
}
