//! Limits the space that a layer or an archive of images may use on the store's file system.
//!
//! A full disk stops every container of the node that writes to it. So each leaves free a part
//! of the space that is free at its start, whatever the size of its archive. Other layers are unpacked at the
//! same time, and containers write: the free space is read again on the way, so that all of them together stop
//! before the disk is full.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::StatVfs;

use super::UnpackFault;

/// One of so many parts of the free space stays free.
const KEPT: u64 = 10;
/// Limit for the bytes between two readings of the free space. The steps are smaller if less is free, so that
/// the writes of others in the meantime fit into the part that stays free.
const STEP: u64 = 64 << 20;
/// Steps in the part that stays free.
const STEPS: u64 = 4;

/// The space on the file system of one layer's folder, or of a spooled archive.
#[derive(Debug)]
pub(crate) struct Space {
    root: Rc<OwnedFd>,
    /// Bytes of a block.
    pub(super) block: u64,
    /// Bytes that stay free.
    kept: u64,
    /// Bytes that may be written before the free space is read again.
    headroom: u64,
}

impl Space {
    /// The space on the file system of `root`.
    pub(crate) fn of(root: Rc<OwnedFd>) -> Result<Self, UnpackFault> {
        let stat = stat_of(&root)?;
        let (block, kept) = (stat.f_bsize.max(512), free(&stat) / KEPT);
        Ok(Self { root, block, kept, headroom: 0 })
    }

    /// Refuses an announced size for which there is no room, before its first byte is written.
    pub(super) fn announced(&self, bytes: u64) -> Result<(), UnpackFault> {
        if bytes <= self.headroom { Ok(()) } else { self.room_for(bytes).map(drop) }
    }

    /// Counts bytes that are about to be written.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), UnpackFault> {
        if bytes > self.headroom {
            let step = STEP.min(self.kept / STEPS).max(bytes);
            self.headroom = self.room_for(bytes)?.min(step);
        }
        self.headroom -= bytes;
        Ok(())
    }

    /// The bytes that may be written now, at least `bytes`.
    fn room_for(&self, bytes: u64) -> Result<u64, UnpackFault> {
        let free = free(&stat_of(&self.root)?);
        let room = free.saturating_sub(self.kept);
        if bytes > room {
            Err(UnpackFault::NoRoom { needed: bytes, free, kept: self.kept })
        } else {
            Ok(room)
        }
    }
}

fn stat_of(root: &OwnedFd) -> Result<StatVfs, UnpackFault> {
    rustix::fs::fstatvfs(root).map_err(UnpackFault::at("ask for the free space"))
}

/// Bytes, without those that the file system keeps for root. One that says nothing of its size has no limit.
fn free(stat: &StatVfs) -> u64 {
    if stat.f_blocks == 0 { u64::MAX } else { stat.f_bavail.saturating_mul(stat.f_frsize) }
}
