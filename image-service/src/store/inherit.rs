//! Layers put in order: what a layer left unsaid about its directories comes from the layers below.

use std::collections::HashSet;
use std::path::PathBuf;

use super::error::StoreError;
use super::{Inner, record};
use crate::digest::DiffId;
use crate::unpack;

impl Inner {
    /// Completes directories that layers, given bottom first, use without bringing them. The first image
    /// that has a parent for such a directory decides; images that share a layer share its parents, too,
    /// but for contrived cases. The caller has locked `writing`.
    pub(super) fn inherit(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        let mut lookups = self.limits.inherit_lookups;
        for (at, diff) in layers.iter().enumerate().skip(1) {
            let Some(mut record) = self.state().layers.get(diff).map(|layer| layer.record.clone()) else {
                continue;
            };
            if record.implied.is_empty() || record.opaque_root {
                continue;
            }
            let tree = self.layout.layer(diff).tree();
            let below = self.visible_below(&layers[..at]);
            let left = unpack::inherit(&tree, &below, &record.implied, &mut lookups)
                .map_err(StoreError::at("complete the directories of", &tree))?;
            if left.len() != record.implied.len() {
                let implied = std::mem::replace(&mut record.implied, left);
                let left: HashSet<&String> = record.implied.iter().collect();
                record.inherited.extend(implied.into_iter().filter(|path| !left.contains(path)));
                record::replace(&self.layout.layer(diff).record(), &record)?;
                if let Some(layer) = self.state_mut().layers.get_mut(diff) {
                    layer.record = record;
                }
            }
        }
        Ok(())
    }

    /// Completes a layer that has just taken the place of a damaged one, as the images that are made of it
    /// have it already. The caller has locked `writing`.
    pub(super) fn inherit_in_images(&self, diff: &DiffId) {
        let images: Vec<Vec<DiffId>> = {
            let state = self.state();
            let with = state.images.values().filter(|stored| stored.record.layers.contains(diff));
            with.map(|stored| stored.record.layers.clone()).collect()
        };
        for layers in images {
            if let Err(error) = self.inherit(&layers) {
                tracing::warn!(layer = %diff, %error, "directories of a replaced layer are root's");
            }
        }
    }

    /// The trees of `layers`, topmost first, down to one that hides the rest.
    fn visible_below(&self, layers: &[DiffId]) -> Vec<PathBuf> {
        let state = self.state();
        let last = layers.iter().rposition(|diff| state.hides_below(diff)).unwrap_or(0);
        // An image may have a layer many times; only its topmost appearance can be seen.
        let mut seen = HashSet::new();
        let distinct = layers[last..].iter().rev().filter(|diff| seen.insert(*diff));
        distinct.map(|diff| self.layout.layer(diff).tree()).collect()
    }
}
