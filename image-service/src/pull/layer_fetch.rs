//! One layer: downloaded and unpacked at the same time, once for all images that wait for it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crisp_operation::{Cancel, Interrupted, Stage};

use super::error::PullCause;
use super::layer_share::{FetchPermit, LayerShare, LayerShares};
use super::progress::{LayerState, ProgressSender};
use crate::digest::DiffId;
use crate::manifest::Layer;
use crate::mirror::{Download, DownloadError, DownloadEvent, Failover, Sources, pipe};
use crate::store::{IngestError, IngestedLayer, Store};

/// The shared part of all layers of one pull.
pub(super) struct LayerFetch {
    pub(super) store: Store,
    pub(super) sources: Sources,
    pub(super) progress: ProgressSender,
    pub(super) shares: Arc<LayerShares>,
    /// See [`PullOptions::layer_patience`](super::PullOptions::layer_patience).
    pub(super) patience: Duration,
    pub(super) stage: Stage<PullCause>,
    /// Cancelled when another layer of the image has failed, or the pull is cancelled.
    pub(super) cancel: Cancel,
}

impl LayerFetch {
    /// Ensures that the layer is in the store.
    pub(super) async fn run(&self, index: usize, layer: &Layer, diff: &DiffId) -> Result<(), PullCause> {
        let state = self.fetch_missing(index, layer, diff).await?;
        self.progress.layer(index, |l| l.state = state);
        Ok(())
    }

    async fn fetch_missing(
        &self,
        index: usize,
        layer: &Layer,
        diff: &DiffId,
    ) -> Result<LayerState, PullCause> {
        self.cancel.check()?;
        if self.store.has_layer(diff) {
            return Ok(LayerState::Present);
        }
        let share = self.shares.share(diff);
        let permit = tokio::select! {
            permit = share.permit(self.patience) => permit,
            () = self.cancel.cancelled() => return Err(Interrupted::Cancelled.into()),
        };
        if self.store.has_layer(diff) {
            return Ok(LayerState::Present);
        }
        tokio::select! {
            fetched = self.fetch(index, layer, diff, &share, &permit) => fetched?,
            // Another pull fetched the layer beside this one and was faster.
            () = share.stored() => return Ok(LayerState::Present),
        }
        share.set_stored();
        Ok(LayerState::Done)
    }

    async fn fetch(
        &self,
        index: usize,
        layer: &Layer,
        diff: &DiffId,
        share: &LayerShare,
        permit: &FetchPermit,
    ) -> Result<(), PullCause> {
        let mut failover = Failover::for_blob(&self.sources);
        let events = |event| {
            permit.report(share, event, layer.blob.size);
            if let DownloadEvent::Received(received) = event {
                self.progress.layer(index, |l| {
                    l.received = received;
                    l.state = if received == l.total { LayerState::Unpacking } else { LayerState::Receiving };
                });
            }
        };
        loop {
            events(DownloadEvent::Received(0));
            match self.attempt(layer, diff, &mut failover, &events).await? {
                Attempt::Done => return Ok(()),
                Attempt::StartAgain if failover.is_over() => return Err(failover.all_failed().into()),
                Attempt::StartAgain => {}
            }
        }
    }

    async fn attempt<'s>(
        &'s self,
        layer: &Layer,
        diff: &DiffId,
        failover: &mut Failover<'s>,
        events: &impl Fn(DownloadEvent),
    ) -> Result<Attempt, PullCause> {
        let (pieces, reader) = pipe();
        let (store, diff) = (self.store.clone(), diff.clone());
        let ingest = move |_: &Cancel| Ok(store.ingest_layer(&diff, reader));
        let mut ingest = pin!(self.stage.own_thread("crisp-unpack", ingest));
        let download = Download::new(&self.sources, failover, &layer.blob.digest, layer.blob.size);
        let (downloaded, ingested) = self.both(download.run(&pieces, events), ingest.as_mut()).await?;
        // Ends the unpacking thread, which waits for more.
        drop(pieces);
        let ingested = match ingested {
            Some(ingested) => ingested,
            None => ingest.await?,
        };
        blame(downloaded, ingested)
    }

    /// Waits for the download, and for the unpacking only if it ends first.
    async fn both(
        &self,
        download: impl Future<Output = Downloaded>,
        mut ingest: std::pin::Pin<&mut impl Future<Output = Result<Ingested, PullCause>>>,
    ) -> Result<(Option<Downloaded>, Option<Ingested>), PullCause> {
        let mut download = pin!(download);
        let mut ingested = None;
        loop {
            tokio::select! {
                downloaded = &mut download => return Ok((Some(downloaded), ingested)),
                early = ingest.as_mut(), if ingested.is_none() => {
                    let early = early?;
                    // Wrong content may have been damaged during the transfer: the rest is received, and the
                    // digest shows that. If the disk is full, the rest does not matter.
                    let hopeless = early.as_ref().is_err_and(is_local);
                    ingested = Some(early);
                    if hopeless {
                        return Ok((None, ingested));
                    }
                }
                () = self.cancel.cancelled() => return Ok((None, ingested)),
            }
        }
    }
}

type Downloaded = Result<(), DownloadError>;
type Ingested = Result<IngestedLayer, IngestError>;

enum Attempt {
    Done,
    /// The content does not match the digest; the endpoints that sent it are excluded or suspected.
    StartAgain,
}

/// Decides which side's failure is reported. The unpacking always fails when the download does, so the
/// download's failure takes precedence.
fn blame(downloaded: Option<Downloaded>, ingested: Ingested) -> Result<Attempt, PullCause> {
    match (downloaded, ingested) {
        (_, Err(error)) if is_local(&error) => Err(error.into()),
        (None, _) => Err(Interrupted::Cancelled.into()),
        (Some(Err(DownloadError::AllFailed(failed))), _) => Err(failed.into()),
        (Some(Err(DownloadError::StartAgain)), _) => Ok(Attempt::StartAgain),
        (Some(Ok(())), Ok(_)) => Ok(Attempt::Done),
        // The bytes match the manifest, so no other endpoint has better ones.
        (Some(Ok(())), Err(error)) => Err(error.into()),
    }
}

/// A failure of this machine, which another endpoint cannot solve.
fn is_local(error: &IngestError) -> bool {
    match error {
        IngestError::DiskFull { .. } | IngestError::NoRoom { .. } | IngestError::Store(_) => true,
        IngestError::Source { .. }
        | IngestError::Decompress { .. }
        | IngestError::Archive { .. }
        | IngestError::DiffId { .. } => false,
    }
}
