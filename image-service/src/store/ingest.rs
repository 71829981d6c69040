//! Adds a layer: decompresses, verifies, unpacks and publishes it.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::Ordering;

use super::Store;
use super::error::{IngestError, StoreError, is_disk_full};
use super::publish::Published;
use crate::digest::DiffId;
use crate::layout::{self, LayerFolder};
use crate::unpack::stream::{self, StreamError};
use crate::unpack::{self, UnpackFault, Unpacked};

/// The result for a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestedLayer {
    /// Bytes on disk.
    pub size: u64,
    /// Archive entries unpacked.
    pub entries: u64,
    /// Another pull had already published the layer; this copy was removed.
    pub duplicate: bool,
}

impl Store {
    /// Unpacks a layer from its compressed stream, up to the end of the stream, and publishes it when the
    /// content hashes to `diff`. On failure nothing of it is left. Its first bytes tell the compression
    /// (gzip, zstd, none).
    ///
    /// Blocks; a second thread decompresses. The reader must fail at its end when size or digest of the
    /// compressed bytes are wrong.
    ///
    /// # Errors
    /// [`IngestError`]: the reader's own failure, damaged or hostile content, a full disk.
    pub fn ingest_layer(
        &self,
        diff: &DiffId,
        compressed: impl Read + Send,
    ) -> Result<IngestedLayer, IngestError> {
        let inner = &self.inner;
        let folder = LayerFolder(layout::numbered(&inner.layout.unpacking(), inner.number()));
        let failures = inner.file_systems.failures();
        let unpacked = self.unpack_into(&folder, diff, compressed);
        let published = unpacked.and_then(|unpacked| {
            inner.discard(&folder.replaced(), &inner.layout.layer_trash())?;
            let duplicate = inner.publish(&folder, diff, &unpacked, failures)? == Published::Duplicate;
            Ok(IngestedLayer { size: unpacked.on_disk.bytes, entries: unpacked.entries, duplicate })
        });
        if !matches!(published, Ok(layer) if !layer.duplicate)
            && let Err(e) = inner.discard(folder.path(), &inner.layout.layer_trash())
        {
            tracing::warn!(layer = %diff, error = %e, "a half-unpacked layer stays until the next start");
        }
        self.note_whether_full(&published);
        published
    }

    /// When the disk is full, layers of failed pulls are deleted; those of running pulls are deleted when
    /// their holds end.
    fn note_whether_full(&self, published: &Result<IngestedLayer, IngestError>) {
        let full = matches!(
            published,
            Err(IngestError::DiskFull { .. }
                | IngestError::NoRoom { .. }
                | IngestError::Store(StoreError::DiskFull { .. }))
        );
        if full {
            self.disk_is_full();
        } else if published.is_ok() {
            self.inner.disk_full.store(false, Ordering::Relaxed);
        }
    }

    /// Removes layers that nothing needs now, and others when their holds end.
    pub(crate) fn disk_is_full(&self) {
        self.inner.disk_full.store(true, Ordering::Relaxed);
        if let Err(e) = self.collect_unused() {
            tracing::warn!(error = %e, "the disk is full and unused layers cannot be removed");
        }
    }

    fn unpack_into(
        &self,
        folder: &LayerFolder,
        diff: &DiffId,
        compressed: impl Read + Send,
    ) -> Result<Unpacked, IngestError> {
        let tree = folder.tree();
        fs::create_dir(folder.path())
            .and_then(|()| fs::create_dir(&tree))
            .map_err(StoreError::at("create", &tree))?;
        let unpacked = stream::run(compressed, diff.digest().algorithm(), |content| {
            unpack::unpack(content, &tree, &folder.replaced(), &self.inner.limits)
        });
        let (unpacked, actual) = unpacked.map_err(|e| ingest_error(e, diff, &tree))?;
        if &actual != diff.digest() {
            return Err(IngestError::DiffId { expected: diff.clone(), actual });
        }
        Ok(unpacked)
    }
}

/// Distinguishes the reader's failure, damaged content, and a full disk.
fn ingest_error(error: StreamError<unpack::UnpackError>, diff: &DiffId, tree: &Path) -> IngestError {
    let diff = diff.clone();
    let full = |source: &io::Error| is_disk_full(source);
    let path = |entry: &str| tree.join(entry.trim_start_matches('/'));
    match error {
        StreamError::Source(source) => IngestError::Source { diff, source },
        StreamError::Decompress(compression, source) => IngestError::Decompress { diff, compression, source },
        StreamError::Consumer(error) => match &error.fault {
            UnpackFault::Io { source, .. } if full(source) => {
                IngestError::DiskFull { diff, path: path(&error.entry) }
            }
            &UnpackFault::NoRoom { needed, free, kept } => {
                IngestError::NoRoom { diff, path: path(&error.entry), needed, free, kept }
            }
            _ => IngestError::Archive { diff, source: error },
        },
    }
}
