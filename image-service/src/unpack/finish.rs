//! What can only be done once every entry is in its place.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::fs::OFlags;

use super::attributes::{self, On};
use super::place::Unpacker;
use super::tar::Time;
use super::usage::measure;
use super::{UnpackFault, Unpacked, whiteout};

impl Unpacker<'_> {
    /// Finishes directories, which change as long as something is put into them.
    pub fn finish(mut self) -> Result<Unpacked, UnpackFault> {
        for path in std::mem::take(&mut self.opaque) {
            if let Ok(directory) = self.tree.open_folder(&path, OFlags::NOFOLLOW) {
                let removed = whiteout::remove_all(&directory)?;
                self.inodes = self.inodes.saturating_sub(removed);
            }
        }
        let implied = self.finish_directories()?;
        let (bytes, inodes) = if self.recount {
            measure(&self.root).map_err(UnpackFault::at("measure the layer"))?
        } else {
            (self.bytes, self.inodes + 1)
        };
        Ok(Unpacked { entries: self.entries, bytes, inodes, opaque_root: self.opaque_root, implied })
    }

    /// Sets the times of directories, counts them, and names those that no entry brought.
    fn finish_directories(&mut self) -> Result<Vec<String>, UnpackFault> {
        let implied = std::mem::take(&mut self.tree.implied);
        self.inodes += implied.len() as u64;
        let mut unnamed = Vec::new();
        for path in implied {
            if let Some(inode) = self.finish_directory(&path, Time::default())? {
                unnamed.push((inode, path));
            }
        }
        let mut brought = HashSet::new();
        for (path, modified) in std::mem::take(&mut self.directories) {
            brought.extend(self.finish_directory(&path, modified)?);
        }
        unnamed.retain(|(inode, _)| !brought.contains(inode));
        Ok(unnamed.into_iter().filter_map(|(_, path)| String::from_utf8(path).ok()).collect())
    }

    /// None for one that is gone again, or was replaced by something else.
    fn finish_directory(&mut self, path: &[u8], modified: Time) -> Result<Option<u64>, UnpackFault> {
        let Ok(directory) = self.tree.open_folder(path, OFlags::NOFOLLOW) else { return Ok(None) };
        attributes::touch(On::Open(directory.as_fd()), modified)?;
        let stat = rustix::fs::fstat(&directory).map_err(UnpackFault::at("look at a directory"))?;
        if self.counted.insert(stat.st_ino) {
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        }
        Ok(Some(stat.st_ino))
    }
}
