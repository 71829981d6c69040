//! One layer: fetched and unpacked at the same time, once, however many images wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

use super::bridge::bridge;
use super::download::{Download, DownloadError};
use super::error::PullCause;
use super::progress::{Board, LayerState};
use super::sources::{Rounds, Sources};
use crate::digest::DiffId;
use crate::manifest::Layer;
use crate::store::{IngestError, IngestedLayer, Store};

/// What all layers of one pull share.
pub(crate) struct LayerPull {
    pub(crate) store: Store,
    pub(crate) sources: Sources,
    pub(crate) board: Board,
    pub(crate) turns: Arc<LayerTurns>,
    /// Becomes true when another layer of the image has failed.
    pub(crate) cancelled: watch::Sender<bool>,
}

impl LayerPull {
    /// Makes sure that the layer is in the store.
    pub(crate) async fn run(&self, index: usize, layer: &Layer, diff: &DiffId) -> Result<(), PullCause> {
        if self.store.has_layer(diff) {
            self.board.layer(index, |l| l.state = LayerState::Present);
            return Ok(());
        }
        let mut cancelled = self.cancelled.subscribe();
        let _turn = tokio::select! {
            turn = self.turns.take(diff) => turn,
            _ = cancelled.wait_for(|c| *c) => return Err(PullCause::Cancelled),
        };
        if self.store.has_layer(diff) {
            self.board.layer(index, |l| l.state = LayerState::Present);
            return Ok(());
        }
        let mut rounds = Rounds::for_blob(&self.sources);
        loop {
            self.board.layer(index, |l| {
                l.received = 0;
                l.state = LayerState::Receiving;
            });
            match self.attempt(index, layer, diff, &mut rounds).await? {
                Attempt::Done => break,
                Attempt::Corrupt if rounds.order().is_empty() => return Err(rounds.all_failed().into()),
                Attempt::Corrupt => {}
            }
        }
        self.board.layer(index, |l| l.state = LayerState::Done);
        Ok(())
    }

    async fn attempt<'s>(
        &'s self,
        index: usize,
        layer: &Layer,
        diff: &DiffId,
        rounds: &mut Rounds<'s>,
    ) -> Result<Attempt, PullCause> {
        let (pieces, reader) = bridge();
        let (store, diff, compression) = (self.store.clone(), diff.clone(), layer.compression);
        let mut ingest = tokio::task::spawn_blocking(move || store.ingest_layer(&diff, reader, compression));
        let size = layer.blob.size;
        let received = |offset: u64| {
            self.board.layer(index, |l| {
                l.received = offset;
                if offset == size {
                    l.state = LayerState::Unpacking;
                }
            });
        };
        let download = Download::new(&self.sources, rounds, &layer.blob.digest, size);
        let (downloaded, ingested) = self.both(download.run(&pieces, &received), &mut ingest).await?;
        // Without this the unpacking thread would wait for more.
        drop(pieces);
        let ingested = match ingested {
            Some(ingested) => ingested,
            None => ingest.await.map_err(|_| PullCause::Lost)?,
        };
        judge(downloaded, ingested)
    }

    /// Waits for the download, and for the unpacking side only where it ends before.
    async fn both(
        &self,
        download: impl Future<Output = Downloaded>,
        ingest: &mut JoinHandle<Ingested>,
    ) -> Result<(Option<Downloaded>, Option<Ingested>), PullCause> {
        let mut cancelled = self.cancelled.subscribe();
        let mut download = std::pin::pin!(download);
        let mut ingested = None;
        loop {
            tokio::select! {
                downloaded = &mut download => return Ok((Some(downloaded), ingested)),
                early = &mut *ingest, if ingested.is_none() => {
                    let early = early.map_err(|_| PullCause::Lost)?;
                    // Damage may be the wire's fault: the rest is received to know by its digest.
                    // Of a full disk nothing more can be learnt.
                    let hopeless = early.as_ref().is_err_and(is_our_own_fault);
                    ingested = Some(early);
                    if hopeless {
                        return Ok((None, ingested));
                    }
                }
                _ = cancelled.wait_for(|c| *c) => return Ok((None, ingested)),
            }
        }
    }
}

type Downloaded = Result<(), DownloadError>;
type Ingested = Result<IngestedLayer, IngestError>;

/// Whom to blame. The unpacking side fails whenever the download does, so the download is heard first.
fn judge(downloaded: Option<Downloaded>, ingested: Ingested) -> Result<Attempt, PullCause> {
    match (downloaded, ingested) {
        (_, Err(error)) if is_our_own_fault(&error) => Err(PullCause::Ingest(Arc::new(error))),
        (None, _) => Err(PullCause::Cancelled),
        (Some(Err(DownloadError::AllFailed(failed))), _) => Err(failed.into()),
        (Some(Err(DownloadError::Corrupt)), _) => Ok(Attempt::Corrupt),
        (Some(Ok(())), Ok(_)) => Ok(Attempt::Done),
        // The bytes are what the manifest names, so no other endpoint has better ones.
        (Some(Ok(())), Err(error)) => Err(PullCause::Ingest(Arc::new(error))),
    }
}

fn is_our_own_fault(error: &IngestError) -> bool {
    match error {
        IngestError::DiskFull { .. } | IngestError::Store(_) => true,
        IngestError::Source { .. }
        | IngestError::Decompress { .. }
        | IngestError::Archive { .. }
        | IngestError::DiffId { .. } => false,
    }
}

enum Attempt {
    Done,
    /// What came was not what the digest says; whoever sent it is out.
    Corrupt,
}

/// One layer is fetched by one pull at a time; the others wait and then find it in the store, or try
/// themselves, with their own endpoints and credentials.
#[derive(Default)]
pub(crate) struct LayerTurns(Mutex<HashMap<DiffId, Arc<tokio::sync::Mutex<()>>>>);

impl LayerTurns {
    async fn take(&self, diff: &DiffId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(diff.clone()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[tokio::test]
    async fn turns_are_per_layer_and_leave_nothing() {
        let turns = LayerTurns::default();
        let (a, b) = (DiffId::from(Digest::sha256(b"a")), DiffId::from(Digest::sha256(b"b")));
        let first = turns.take(&a).await;
        let _other = turns.take(&b).await;
        let second = turns.take(&a);
        tokio::pin!(second);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), &mut second).await.is_err());
        drop(first);
        drop(second.await);
        let _again = turns.take(&b);
        drop(turns.take(&a).await);
        assert!(turns.0.lock().unwrap().len() <= 2);
    }
}
