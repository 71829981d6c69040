//! Orders layers: attributes of directories that a layer's archive lacks come from the layers below.
//!
//! ```text
//!   layer        home/user/app                 needs home and home/user, which its archive lacks
//!   own layer    home (1000)  home/user (1000)   made here, with the attributes of the base
//!   layer        home/user/app                 unchanged, the same for all images
//!   base         home (1000)  home/user (1000)
//! ```
//!
//! No layer is modified: other images may have it above other directories. The new layer is identified by the
//! digest of its content, like any other, so it is the same wherever it is used.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use super::error::{IngestError, StoreError};
use super::{Hold, Inner, Store};
use crate::digest::{DiffId, Digest};
use crate::manifest::MAX_DISTINCT_LAYERS;
use crate::unpack;

/// The layers from which an image is mounted.
pub(super) struct Lower {
    /// Bottom first.
    pub layers: Vec<DiffId>,
    /// Holds of the layers that were made.
    _holds: Vec<Hold>,
}

impl Store {
    /// `layers`, bottom first, all present, with own layers above those whose archives lack directories that
    /// they use.
    pub(super) fn with_own_layers(&self, layers: &[DiffId]) -> Result<Lower, StoreError> {
        let inner = &self.inner;
        let mut lookups = inner.limits.inherit_lookups;
        let mut lower = Lower { layers: Vec::new(), _holds: Vec::new() };
        for diff in layers {
            let below = inner.visible(&lower.layers);
            lower.layers.push(diff.clone());
            let Some(record) = inner.state().layers.get(diff).map(|layer| layer.record.clone()) else {
                continue;
            };
            if record.opaque_root
                || below.is_empty()
                || record.implied.is_empty() && record.inherited.is_empty()
            {
                continue;
            }
            let tree = inner.layout.layer(diff).tree();
            let archive = unpack::inherit(&tree, &below, (&record.implied, &record.inherited), &mut lookups)
                .map_err(StoreError::at("complete the directories of", &tree))?;
            if let Some(archive) = archive {
                let made = DiffId::from(Digest::sha256(&archive));
                lower._holds.push(self.hold(std::slice::from_ref(&made)));
                if !self.has_layer(&made) {
                    self.ingest_layer(&made, &archive[..]).map_err(|error| match error {
                        IngestError::Store(error) => error,
                        error => {
                            StoreError::at("complete the directories of", &tree)(io::Error::other(error))
                        }
                    })?;
                }
                lower.layers.push(made);
            }
        }
        let distinct = lower.layers.iter().collect::<HashSet<_>>().len();
        if distinct > MAX_DISTINCT_LAYERS {
            let why = format!(
                "with those for its directories they are {distinct}, overlayfs stacks {MAX_DISTINCT_LAYERS} at most"
            );
            return Err(StoreError::at("stack the image's layers in", &inner.layout.layers())(
                io::Error::other(why),
            ));
        }
        Ok(lower)
    }
}

impl Inner {
    /// The trees of `layers`, topmost first, down to one that hides the rest.
    fn visible(&self, layers: &[DiffId]) -> Vec<PathBuf> {
        let state = self.state();
        let last = layers.iter().rposition(|diff| state.hides_below(diff)).unwrap_or(0);
        // An image may have a layer several times; only the topmost one is visible.
        let mut seen = HashSet::new();
        let distinct = layers[last..].iter().rev().filter(|diff| seen.insert(*diff));
        distinct.map(|diff| self.layout.layer(diff).tree()).collect()
    }
}
