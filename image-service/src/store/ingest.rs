//! Adding a layer: decompress, verify, unpack, publish.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::Ordering;

use crisp_operation::clock;

use super::Store;
use super::error::{IngestError, LayerCompression, StoreError, is_disk_full};
use super::record::{self, LayerRecord};
use crate::digest::DiffId;
use crate::layout::{self, LayerFolder};
use crate::unpack::stream::{self, StreamError};
use crate::unpack::{self, UnpackFault, Unpacked};

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestedLayer {
    /// Bytes on disk.
    pub size: u64,
    /// Archive entries unpacked.
    pub entries: u64,
    /// Another pull had already published the layer; this copy was dropped.
    pub duplicate: bool,
}

impl Store {
    /// Unpacks a layer from its compressed stream, to the stream's very end, and publishes it when the
    /// content hashes to `diff`. On failure nothing of it is left.
    ///
    /// Blocking; one more thread decompresses. The reader is expected to fail at its end when size or
    /// digest of the compressed bytes are wrong.
    ///
    /// # Errors
    /// [`IngestError`]: the reader's own failure, damaged or hostile content, a full disk.
    pub fn ingest_layer(
        &self,
        diff: &DiffId,
        compressed: impl Read + Send,
        compression: LayerCompression,
    ) -> Result<IngestedLayer, IngestError> {
        let inner = &self.inner;
        let folder = LayerFolder(layout::numbered(&inner.layout.unpacking(), inner.number()));
        let unpacked = self.unpack_into(&folder, diff, compressed, compression);
        let published = unpacked.and_then(|unpacked| {
            let duplicate = !self.publish(&folder, diff, &unpacked)?;
            Ok(IngestedLayer { size: unpacked.bytes, entries: unpacked.entries, duplicate })
        });
        if !matches!(published, Ok(layer) if !layer.duplicate)
            && let Err(e) = inner.discard(folder.path(), &inner.layout.layer_trash())
        {
            tracing::warn!(layer = %diff, error = %e, "a half-unpacked layer stays until the next start");
        }
        self.mind_the_disk(&published);
        published
    }

    /// On a full disk, what failed pulls left is what can be spared; the layers of pulls under way go with
    /// their holds.
    fn mind_the_disk(&self, published: &Result<IngestedLayer, IngestError>) {
        let full = matches!(
            published,
            Err(IngestError::DiskFull { .. } | IngestError::Store(StoreError::DiskFull { .. }))
        );
        if full {
            self.inner.tight.store(true, Ordering::Relaxed);
            if let Err(e) = self.collect_unused() {
                tracing::warn!(error = %e, "the disk is full and unused layers cannot be removed");
            }
        } else if published.is_ok() {
            self.inner.tight.store(false, Ordering::Relaxed);
        }
    }

    fn unpack_into(
        &self,
        folder: &LayerFolder,
        diff: &DiffId,
        compressed: impl Read + Send,
        compression: LayerCompression,
    ) -> Result<Unpacked, IngestError> {
        let tree = folder.tree();
        fs::create_dir(folder.path())
            .and_then(|()| fs::create_dir(&tree))
            .map_err(StoreError::at("create", &tree))?;
        let unpacked = stream::run(compressed, compression, diff.digest().algorithm(), |content| {
            unpack::unpack(content, &tree, &self.inner.limits)
        });
        let (unpacked, actual) = unpacked.map_err(|e| explain(e, diff, compression, &tree))?;
        if &actual != diff.digest() {
            return Err(IngestError::DiffId { expected: diff.clone(), actual });
        }
        Ok(unpacked)
    }

    /// Puts a verified layer in place. False when somebody was faster.
    fn publish(&self, folder: &LayerFolder, diff: &DiffId, unpacked: &Unpacked) -> Result<bool, StoreError> {
        let inner = &self.inner;
        let record = LayerRecord {
            diff_id: diff.clone(),
            bytes: unpacked.bytes,
            inodes: unpacked.inodes,
            opaque_root: unpacked.opaque_root,
            implied: unpacked.implied.clone(),
            boot_id: clock::boot_id().to_owned(),
        };
        record::write_new(&folder.record(), &record)?;
        let _writing = inner.writing();
        if self.has_layer(diff) {
            return Ok(false);
        }
        let home = inner.layout.layer(diff);
        // Not known, yet there: an earlier removal failed half way.
        inner.discard(home.path(), &inner.layout.layer_trash())?;
        fs::rename(folder.path(), home.path()).map_err(StoreError::at("publish", home.path()))?;
        inner.state_mut().layers.insert(diff.clone(), record);
        Ok(true)
    }
}

/// Tells apart whose fault it was.
fn explain(
    error: StreamError<unpack::UnpackError>,
    diff: &DiffId,
    compression: LayerCompression,
    tree: &Path,
) -> IngestError {
    let diff = diff.clone();
    let full = |source: &io::Error| is_disk_full(source);
    match error {
        StreamError::Source(source) => IngestError::Source { diff, source },
        StreamError::Decompress(source) => IngestError::Decompress { diff, compression, source },
        StreamError::Consumer(error) => match &error.fault {
            UnpackFault::Io { source, .. } if full(source) => {
                IngestError::DiskFull { diff, path: tree.join(error.entry.trim_start_matches('/')) }
            }
            _ => IngestError::Archive { diff, source: error },
        },
    }
}
