//! The last steps, after all entries are in place.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{self, On};
use super::tar::Time;
use super::unpacker::Unpacker;
use super::{UnpackFault, Unpacked, whiteout};
use crate::tree::{self, Attributes, Depth, Measured, ReadRate};

impl Unpacker<'_> {
    /// Finishes directories, which change as long as entries are added to them.
    pub fn finish(mut self) -> Result<Unpacked, UnpackFault> {
        for path in std::mem::take(&mut self.opaque) {
            if let Some(directory) = self.still_there(&path)?
                && whiteout::remove_all(&directory)? > 0
            {
                self.totals.remeasure = true;
            }
        }
        let implied = self.finish_directories()?;
        let on_disk = if self.totals.remeasure || self.folders.passed_link {
            let paths: HashSet<&[u8]> = implied.iter().map(String::as_bytes).collect();
            tree::measure(&self.root, Depth::Content, &paths, &mut ReadRate::unlimited())
                .map_err(UnpackFault::at("measure the layer"))?
        } else {
            let totals = &self.totals;
            Measured { bytes: totals.bytes, inodes: totals.made() + 1, checksum: totals.checksum }
        };
        Ok(Unpacked { entries: self.totals.entries, on_disk, opaque_root: self.opaque_root, implied })
    }

    /// Sets the remaining attributes of directories, counts them, and returns those without an entry.
    fn finish_directories(&mut self) -> Result<Vec<String>, UnpackFault> {
        let mut seen = HashSet::new();
        // A directory may have several entries, also through a link: the last one counts.
        for directory in std::mem::take(&mut self.directories).into_iter().rev() {
            if let Some((open, stat)) = self.unfinished(&directory.path, &mut seen)? {
                if let Some(mode) = directory.mode {
                    rustix::fs::fchmod(&open, Mode::from_raw_mode(mode))
                        .map_err(UnpackFault::at("set its mode"))?;
                }
                attributes::touch(On::Open(open.as_fd()), directory.modified)?;
                let mode = directory.mode.map_or(stat.st_mode, |mode| stat.st_mode & !0o7777 | mode);
                self.add_to_checksum(&directory.path, &open, mode, &stat)?;
            }
        }
        let mut names = Vec::new();
        for path in std::mem::take(&mut self.folders.implied) {
            if let Some((open, stat)) = self.unfinished(&path, &mut seen)? {
                attributes::touch(On::Open(open.as_fd()), Time::default())?;
                match String::from_utf8(path) {
                    Ok(name) => {
                        self.totals.checksum.add_implied(name.as_bytes());
                        names.push(name);
                    }
                    // A record cannot store its name, so it keeps its attributes.
                    Err(e) => self.add_to_checksum(&e.into_bytes(), &open, stat.st_mode, &stat)?,
                }
            }
        }
        Ok(names)
    }

    /// Opens a directory that was not seen yet. None also when it was removed or replaced.
    fn unfinished(
        &mut self,
        path: &[u8],
        seen: &mut HashSet<u64>,
    ) -> Result<Option<(OwnedFd, Stat)>, UnpackFault> {
        let Some(open) = self.still_there(path)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&open).map_err(UnpackFault::at("look at a directory"))?;
        if !seen.insert(stat.st_ino) {
            return Ok(None);
        }
        self.totals.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        Ok(Some((open, stat)))
    }

    /// Opens a directory that an entry made; None when a later entry replaced it.
    fn still_there(&self, path: &[u8]) -> Result<Option<OwnedFd>, UnpackFault> {
        match self.folders.open_folder(path, OFlags::NOFOLLOW) {
            Ok(open) => Ok(Some(open)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(UnpackFault::at("finish a directory")(errno)),
        }
    }

    fn add_to_checksum(
        &mut self,
        path: &[u8],
        open: &OwnedFd,
        mode: u32,
        stat: &Stat,
    ) -> Result<(), UnpackFault> {
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        let attributes = Attributes { mode, uid, gid, size: 0, device: 0, target: b"" };
        self.totals.checksum.add_name(path, &attributes);
        let xattrs = tree::xattrs_of(open.as_fd()).map_err(UnpackFault::at("look at a directory"))?;
        if xattrs != 0 {
            self.totals.checksum.add_content(0, xattrs);
        }
        Ok(())
    }
}
