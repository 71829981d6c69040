//! Files, devices and pipes.

use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::UnpackFault;
use super::attributes::{self, On};
use super::space::Space;
use super::tar::{Entry, TarReader};
use super::unpacker::{Destination, Unpacker};
use crate::tree::Attributes;

const SET_ID: u32 = 0o6000;
const REGULAR: u32 = 0o100_000;

impl Unpacker<'_> {
    pub(super) fn file<R: BufRead>(
        &mut self,
        at: Destination<'_>,
        entry: &Entry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<(), UnpackFault> {
        let xattrs: usize = entry.xattrs.iter().map(|(_, value)| value.len()).sum();
        self.totals.written(entry.size.saturating_add(xattrs as u64))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode);
        let file = self.create(at, "create it", || rustix::fs::openat(at.folder, at.name, flags, mode))?;
        let crc = write(&file, archive, &mut self.totals.space)?;
        self.totals.file_blocks(entry.size);
        // Writing may drop set-id bits, so they are set afterwards.
        let now = if entry.mode & SET_ID == 0 { entry.mode & !self.umask } else { 0 };
        let on = On::Open(file.as_fd());
        let xattrs = self.apply(on, entry, entry.mode, Some(now))?;
        attributes::touch(on, entry.modified)?;
        self.totals.name(at.parent, at.name, &attributes_of(entry, REGULAR, 0));
        self.totals.checksum.add_content(crc, xattrs);
        Ok(())
    }

    pub(super) fn special(
        &mut self,
        at: Destination<'_>,
        entry: &Entry,
        kind: FileType,
    ) -> Result<(), UnpackFault> {
        let mode = Mode::from_raw_mode(entry.mode);
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        self.create(at, "make it", || rustix::fs::mknodat(at.folder, at.name, kind, mode, device))?;
        let xattrs = self.apply(at.named(), entry, entry.mode, Some(entry.mode & !self.umask))?;
        attributes::touch(at.named(), entry.modified)?;
        self.totals.name(at.parent, at.name, &attributes_of(entry, kind.as_raw_mode(), device));
        if xattrs != 0 {
            self.totals.checksum.add_content(0, xattrs);
        }
        Ok(())
    }
}

/// The attributes that an entry's inode has once they are applied.
pub(super) fn attributes_of(entry: &Entry, kind: u32, device: u64) -> Attributes<'_> {
    let Entry { mode, uid, gid, size, .. } = *entry;
    Attributes { mode: kind | mode, uid, gid, size, device, target: b"" }
}

/// Writes an entry's content and returns its CRC-32.
fn write<R: BufRead>(
    file: &OwnedFd,
    archive: &mut TarReader<'_, R>,
    space: &mut Space,
) -> Result<u32, UnpackFault> {
    let mut crc = crc32fast::Hasher::new();
    loop {
        let piece = archive.content()?;
        if piece.is_empty() {
            return Ok(crc.finalize());
        }
        space.take(piece.len() as u64)?;
        let written = match rustix::io::write(file, piece) {
            Err(Errno::INTR) => continue,
            written => written.map_err(UnpackFault::at("write it"))?,
        };
        crc.update(&piece[..written]);
        archive.consume(written);
    }
}
