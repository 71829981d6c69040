//! Exit records: small files that outlive the monitor.

use crisp_monitor::wire::ExitRecord;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::Pod;

impl Pod {
    /// Best effort: the monitor itself has the exit as long as it lives.
    pub(crate) fn note_exit(&self, record: &ExitRecord) {
        if let Self::Open(open) = self
            && let Err(errno) = write(&open.exits, record)
        {
            crate::complain(&format!(
                "note the exit of {}: {}",
                record.container,
                std::io::Error::from(errno)
            ));
        }
    }

    pub(crate) fn remove_record(&self, name: &str) {
        if let Self::Open(open) = self {
            let _ = unlinkat(&open.exits, name, AtFlags::empty());
        }
    }
}

/// Writes the file atomically, by renaming.
fn write(folder: &OwnedFd, record: &ExitRecord) -> Result<(), Errno> {
    let name = ExitRecord::file_name(&record.container);
    let draft = format!(".{name}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, draft.as_str(), flags, Mode::from_raw_mode(0o600))?;
    let text = record.to_text();
    let written = rustix::io::write(&file, text.as_bytes())?;
    if written < text.len() {
        return Err(Errno::NOSPC);
    }
    renameat(folder, draft.as_str(), folder, name.as_str())
}
