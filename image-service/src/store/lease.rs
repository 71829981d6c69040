//! Keeps layers from being collected.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::StoreError;
use super::{Inner, Store};
use crate::digest::DiffId;

/// Keeps layers, present or not, from being collected: a pull takes one before it calls [`Store::has_layer`].
/// When it is dropped the layers stay, because a failed pull is usually tried again, unless the disk is full
/// or their image was removed meanwhile.
#[derive(Debug)]
pub struct Hold {
    store: Arc<Inner>,
    layers: Vec<DiffId>,
}

/// Keeps the layers of a container from being collected, and has their paths.
#[derive(Debug)]
pub struct Lease {
    paths: Vec<PathBuf>,
    /// Always set, except while dropping.
    hold: Option<Hold>,
}

/// Keeps all layers from being collected, when the layers of a container are unknown because its record
/// cannot be read.
#[derive(Debug)]
pub struct KeepAll {
    store: Arc<Inner>,
}

impl Lease {
    /// The folders to mount, topmost layer first, without layers below one that hides everything.
    #[must_use]
    pub fn layer_paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl Store {
    /// Holds `layers` until the result is dropped.
    #[must_use]
    pub fn hold(&self, layers: &[DiffId]) -> Hold {
        let mut state = self.inner.state_mut();
        for diff in layers {
            *state.users.entry(diff.clone()).or_default() += 1;
        }
        Hold { store: Arc::clone(&self.inner), layers: layers.to_vec() }
    }

    /// Keeps every layer until the result is dropped. Postponed collections are done then.
    #[must_use]
    pub fn keep_all(&self) -> KeepAll {
        self.inner.state_mut().keep_all += 1;
        KeepAll { store: Arc::clone(&self.inner) }
    }

    /// Leases `layers`, given bottom first as in [`Image::lower`](super::Image::lower).
    ///
    /// # Errors
    /// [`StoreError::LayerMissing`] when one is not in the store.
    pub fn lease(&self, layers: &[DiffId]) -> Result<Lease, StoreError> {
        let hold = self.hold(layers);
        let state = self.inner.state();
        if let Some(missing) = layers.iter().find(|diff| !state.layers.contains_key(diff)) {
            let missing = missing.clone();
            // Dropping the hold needs the lock.
            drop(state);
            return Err(StoreError::LayerMissing(missing));
        }
        let visible = layers.iter().rposition(|diff| state.hides_below(diff)).unwrap_or(0);
        // Overlay refuses the same folder twice, and only the topmost one is visible.
        let mut paths: Vec<PathBuf> = Vec::new();
        for diff in layers.get(visible..).unwrap_or_default().iter().rev() {
            let path = self.inner.layout.layer(diff).tree();
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        drop(state);
        Ok(Lease { paths, hold: Some(hold) })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.store.state_mut();
        for diff in &self.layers {
            if let Some(count) = state.users.get_mut(diff) {
                *count -= 1;
                if *count == 0 {
                    state.users.remove(diff);
                }
            }
        }
        let postponed: Vec<DiffId> =
            self.layers.iter().filter(|diff| state.postponed.contains(*diff)).cloned().collect();
        let superseded = state.superseded.iter().any(|(diff, _)| self.layers.contains(diff));
        drop(state);
        if self.store.disk_full.load(Ordering::Relaxed) {
            Inner::collect_later(&self.store, std::mem::take(&mut self.layers));
        } else if superseded || !postponed.is_empty() {
            Inner::collect_later(&self.store, postponed);
        }
    }
}

impl Drop for KeepAll {
    fn drop(&mut self) {
        let postponed = {
            let mut state = self.store.state_mut();
            state.keep_all -= 1;
            if state.keep_all > 0 {
                return;
            }
            // Those that are held wait for their holds.
            let (held, free): (HashSet<DiffId>, HashSet<DiffId>) = std::mem::take(&mut state.postponed)
                .into_iter()
                .partition(|diff| state.users.contains_key(diff));
            state.postponed = held;
            free
        };
        // Also without layers: replaced damaged copies may have waited.
        Inner::collect_later(&self.store, postponed.into_iter().collect());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let (store, layers) = (Arc::clone(&hold.store), hold.layers.clone());
        drop(hold);
        let unwanted: Vec<DiffId> = {
            let state = store.state();
            layers.into_iter().filter(|diff| !state.needs(diff)).collect()
        };
        if !unwanted.is_empty() {
            Inner::collect_later(&store, unwanted);
        }
    }
}
