//! The progress of a pull, for clients that show it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::digest::Digest;

/// The stages of a pull, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PullStage {
    /// Reads the request.
    Request,
    /// Finds the endpoints.
    Endpoints,
    /// Requests the present digest of the reference.
    Resolve,
    /// Reads manifests.
    Manifest,
    /// Reads the configuration.
    Config,
    /// Fetches and unpacks layers.
    Layers,
    /// Adds the image to the store.
    Commit,
}

impl PullStage {
    /// The name in metrics and in errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Endpoints => "endpoints",
            Self::Resolve => "resolve",
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::Layers => "layers",
            Self::Commit => "commit",
        }
    }
}

impl fmt::Display for PullStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The progress of a pull. Receivers see the newest state, not every step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The complete reference.
    pub reference: String,
    /// The stage under way.
    pub stage: PullStage,
    /// Bottom first; empty until the manifest has been read.
    pub layers: Vec<LayerProgress>,
}

/// The progress of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// The digest of the compressed layer.
    pub digest: Digest,
    /// Compressed bytes.
    pub total: u64,
    /// Compressed bytes received.
    pub received: u64,
    /// The state of the layer.
    pub state: LayerState,
}

/// The state of a layer in a pull.
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

/// Sends the progress of a pull. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ProgressSender(Arc<watch::Sender<PullProgress>>);

impl ProgressSender {
    pub(crate) fn new(reference: String) -> Self {
        let (stage, layers) = (PullStage::Endpoints, Vec::new());
        Self(Arc::new(watch::Sender::new(PullProgress { reference, stage, layers })))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<PullProgress> {
        self.0.subscribe()
    }

    pub(crate) fn stage(&self, stage: PullStage) {
        self.0.send_modify(|p| p.stage = stage);
    }

    pub(crate) fn layers(&self, layers: impl Iterator<Item = (Digest, u64)>) {
        let state = LayerState::Waiting;
        let layers =
            layers.map(|(digest, total)| LayerProgress { digest, total, received: 0, state }).collect();
        self.0.send_modify(|p| p.layers = layers);
    }

    pub(crate) fn layer(&self, index: usize, change: impl FnOnce(&mut LayerProgress)) {
        self.0.send_modify(|p| {
            if let Some(layer) = p.layers.get_mut(index) {
                change(layer);
            }
        });
    }
}
