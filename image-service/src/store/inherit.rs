//! Layers put in order: what a layer left unsaid about its directories comes from the layers below.

use std::path::PathBuf;

use super::error::StoreError;
use super::{Inner, Store, record};
use crate::digest::DiffId;
use crate::unpack;

impl Inner {
    /// Completes directories that layers, given bottom first, use without bringing them. The first image
    /// that has a parent for such a directory decides; images that share a layer share its parents, too,
    /// but for contrived cases. The caller holds `writing`.
    pub(super) fn inherit(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        for (at, diff) in layers.iter().enumerate().skip(1) {
            let Some(mut record) = self.state().layers.get(diff).cloned() else { continue };
            if record.implied.is_empty() || record.opaque_root {
                continue;
            }
            let tree = self.layout.layer(diff).tree();
            let below = self.visible_below(&layers[..at]);
            let left = unpack::inherit(&tree, &below, &record.implied)
                .map_err(StoreError::at("complete the directories of", &tree))?;
            if left.len() != record.implied.len() {
                record.implied = left;
                record::replace(&self.layout.layer(diff).record(), &record)?;
                self.state_mut().layers.insert(diff.clone(), record);
            }
        }
        Ok(())
    }

    /// The trees of `layers`, topmost first, down to one that hides the rest.
    fn visible_below(&self, layers: &[DiffId]) -> Vec<PathBuf> {
        let state = self.state();
        let last = layers.iter().rposition(|diff| Store::hides_below(&state, diff)).unwrap_or(0);
        layers[last..].iter().rev().map(|diff| self.layout.layer(diff).tree()).collect()
    }
}
