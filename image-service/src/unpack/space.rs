//! How much of the store's file system a layer may take.
//!
//! A full disk stops every container of the node that writes to it. So a layer leaves a part of what is free when
//! it begins, however much its archive brings. Other layers are unpacked at the same time, and containers write:
//! the file system is asked again on the way, so that all of them together end before it is full.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::StatVfs;

use super::UnpackFault;

/// The part of what is free that stays free: one of so many.
const KEPT: u64 = 10;
/// Bytes between two looks at the file system, at most. Where less is free they are closer together, so that what
/// others write in the meantime is not larger than what stays free.
const STEP: u64 = 64 << 20;
/// Steps in what stays free.
const STEPS: u64 = 4;

/// The space on the file system of one layer's folder.
pub(super) struct Space {
    root: Rc<OwnedFd>,
    /// Bytes of a block.
    pub(super) block: u64,
    /// Bytes that stay free.
    kept: u64,
    /// Bytes that may be written before the next look.
    headroom: u64,
}

impl Space {
    /// That of the file system that has `root`.
    pub(super) fn of(root: Rc<OwnedFd>) -> Result<Self, UnpackFault> {
        let stat = look(&root)?;
        let (block, kept) = (stat.f_bsize.max(512), free(&stat) / KEPT);
        Ok(Self { root, block, kept, headroom: 0 })
    }

    /// Refuses what is announced and cannot be written, before a byte of it is.
    pub(super) fn announced(&self, bytes: u64) -> Result<(), UnpackFault> {
        if bytes <= self.headroom { Ok(()) } else { self.room_for(bytes).map(drop) }
    }

    /// Counts bytes that are about to be written.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), UnpackFault> {
        if bytes > self.headroom {
            let step = STEP.min(self.kept / STEPS).max(bytes);
            self.headroom = self.room_for(bytes)?.min(step);
        }
        self.headroom -= bytes;
        Ok(())
    }

    /// What may be taken now, which is not less than `bytes`.
    fn room_for(&self, bytes: u64) -> Result<u64, UnpackFault> {
        let free = free(&look(&self.root)?);
        let room = free.saturating_sub(self.kept);
        if bytes > room {
            Err(UnpackFault::NoRoom { needed: bytes, free, kept: self.kept })
        } else {
            Ok(room)
        }
    }
}

fn look(root: &OwnedFd) -> Result<StatVfs, UnpackFault> {
    rustix::fs::fstatvfs(root).map_err(UnpackFault::at("ask for the free space"))
}

/// Bytes, without those that the file system keeps for root. One that says nothing of its size has no limit.
fn free(stat: &StatVfs) -> u64 {
    if stat.f_blocks == 0 { u64::MAX } else { stat.f_bavail.saturating_mul(stat.f_frsize) }
}
