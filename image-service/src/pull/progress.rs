//! How far a pull is, for whoever draws bars.

use std::sync::Arc;

use tokio::sync::watch;

use super::error::PullStage;
use crate::digest::Digest;

/// How far a pull is. Receivers see the newest state, not every step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The complete reference.
    pub reference: String,
    /// What is being done.
    pub stage: PullStage,
    /// Bottom first; empty until the manifest has been read.
    pub layers: Vec<LayerProgress>,
}

/// How far one layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Of the compressed layer.
    pub digest: Digest,
    /// Compressed bytes.
    pub total: u64,
    /// Compressed bytes received.
    pub received: u64,
    /// What is being done with it.
    pub state: LayerState,
}

/// What is being done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Waits for its turn, or for another pull that fetches the same layer.
    Waiting,
    /// Is received and unpacked as it comes.
    Receiving,
    /// All is received, the rest of it is being unpacked.
    Unpacking,
    /// Is in the store.
    Done,
    /// Was in the store already.
    Present,
}

/// Where a pull writes its progress. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Board(Arc<watch::Sender<PullProgress>>);

impl Board {
    pub(crate) fn new(reference: String) -> Self {
        Self(Arc::new(watch::Sender::new(PullProgress {
            reference,
            stage: PullStage::Endpoints,
            layers: Vec::new(),
        })))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<PullProgress> {
        self.0.subscribe()
    }

    pub(crate) fn stage(&self, stage: PullStage) {
        self.0.send_modify(|p| p.stage = stage);
    }

    pub(crate) fn layers(&self, layers: impl Iterator<Item = (Digest, u64)>) {
        let layers = layers
            .map(|(digest, total)| LayerProgress { digest, total, received: 0, state: LayerState::Waiting })
            .collect();
        self.0.send_modify(|p| {
            p.stage = PullStage::Layer(None);
            p.layers = layers;
        });
    }

    pub(crate) fn layer(&self, index: usize, change: impl FnOnce(&mut LayerProgress)) {
        self.0.send_modify(|p| {
            if let Some(layer) = p.layers.get_mut(index) {
                change(layer);
            }
        });
    }
}
