//! The disk usage of volumes, for `crisp system df`.

use std::fs;
use std::path::Path;

use super::volumes::Volumes;
use crate::cli::Client;

/// The disk usage of volumes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub total: usize,
    pub active: usize,
    pub bytes: u64,
    pub reclaimable: u64,
}

/// The disk usage of the volumes.
///
/// # Errors
/// The server does not report its root.
pub async fn usage(client: &mut Client) -> anyhow::Result<Usage> {
    let volumes = Volumes::load(client).await?;
    let mut usage = Usage::default();
    for name in volumes.names()? {
        let bytes = bytes_below(&volumes.path_of(&name));
        let is_used = volumes.is_used(&name);
        usage.total += 1;
        usage.active += usize::from(is_used);
        usage.bytes += bytes;
        usage.reclaimable += if is_used { 0 } else { bytes };
    }
    Ok(usage)
}

/// Follows no link; files that cannot be read do not count.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let (mut waiting, mut bytes) = (vec![folder.to_owned()], 0);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(there) = entry.metadata() else { continue };
            bytes += there.blocks() * 512;
            if there.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    bytes
}
