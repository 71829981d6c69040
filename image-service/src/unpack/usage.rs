//! What a tree takes up on disk.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes in allocated blocks, and inodes, of `root` and everything in it; a file with several names
/// counts once.
pub(crate) fn measure(root: &Path) -> io::Result<(u64, u64)> {
    let mut seen = HashSet::new();
    let mut folders = vec![root.to_owned()];
    let metadata = fs::symlink_metadata(root)?;
    let (mut bytes, mut inodes) = (metadata.blocks() * 512, 1);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.nlink() > 1 && !seen.insert(metadata.ino()) {
                continue;
            }
            bytes += metadata.blocks() * 512;
            inodes += 1;
        }
    }
    Ok((bytes, inodes))
}
