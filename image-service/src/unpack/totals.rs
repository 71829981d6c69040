//! Counts what an archive has made so far, compares it with the limits, and computes its checksum.

use super::space::Space;
use super::{Limits, UnpackFault};
use crate::tree::{Attributes, Checksum};

/// Memory that the store keeps for a directory until the archive ends, beside its path.
const PER_DIRECTORY: usize = 96;

/// The sums over one archive.
pub(super) struct Totals<'a> {
    pub limits: &'a Limits,
    pub space: Space,
    pub entries: u64,
    /// Inodes made so far, including those that a later entry replaced.
    made: u64,
    /// Bytes of files and extended attributes written so far.
    written: u64,
    /// Bytes of memory for directories.
    memory: usize,
    implied: u64,
    implied_bytes: usize,
    /// Bytes on disk.
    pub bytes: u64,
    pub checksum: Checksum,
    /// An entry replaced another, or a path passed a link: the sums are wrong, and the finished tree must be
    /// measured.
    pub remeasure: bool,
}

impl<'a> Totals<'a> {
    pub(super) fn new(limits: &'a Limits, space: Space) -> Self {
        Self {
            limits,
            space,
            entries: 0,
            made: 0,
            written: 0,
            memory: 0,
            implied: 0,
            implied_bytes: 0,
            bytes: 0,
            checksum: Checksum::default(),
            remeasure: false,
        }
    }

    /// Counts an entry of the archive.
    pub(super) fn entry(&mut self) -> Result<(), UnpackFault> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            Err(UnpackFault::Entries(self.limits.entries))
        } else {
            Ok(())
        }
    }

    /// Counts an inode that is about to be made.
    pub(super) fn inode(&mut self) -> Result<(), UnpackFault> {
        self.made += 1;
        if self.made > self.limits.inodes {
            return Err(UnpackFault::Inodes(self.limits.inodes));
        }
        self.space.take(self.space.block)
    }

    /// Counts bytes that are to be written.
    pub(super) fn written(&mut self, bytes: u64) -> Result<(), UnpackFault> {
        self.written = self.written.saturating_add(bytes);
        if self.written > self.limits.bytes {
            return Err(UnpackFault::Bytes(self.limits.bytes));
        }
        self.space.announced(bytes)
    }

    /// Counts a directory whose path is remembered until the archive ends.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<(), UnpackFault> {
        self.memory = self.memory.saturating_add(path.len() + PER_DIRECTORY);
        let limit = self.limits.directory_memory;
        if self.memory > limit { Err(UnpackFault::DirectoryMemory(limit)) } else { Ok(()) }
    }

    /// Counts a directory that has had no entry so far.
    pub(super) fn implied(&mut self, path: &[u8]) -> Result<(), UnpackFault> {
        self.implied += 1;
        if self.implied > self.limits.implied {
            return Err(UnpackFault::Implied(self.limits.implied));
        }
        self.implied_bytes = self.implied_bytes.saturating_add(path.len());
        if self.implied_bytes > self.limits.implied_bytes {
            return Err(UnpackFault::ImpliedBytes(self.limits.implied_bytes));
        }
        self.inode()?;
        self.directory(path)
    }

    /// Inodes made so far: the same as on disk, as long as nothing was replaced.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// Adds a file's blocks.
    pub(super) fn file_blocks(&mut self, size: u64) {
        self.bytes += size.next_multiple_of(self.space.block);
    }

    /// Adds a name to the checksum.
    pub(super) fn name(&mut self, folder: &[u8], name: &[u8], attributes: &Attributes<'_>) {
        if folder.is_empty() {
            self.checksum.add_name(name, attributes);
        } else {
            self.checksum.add_name(&[folder, b"/", name].concat(), attributes);
        }
    }
}
