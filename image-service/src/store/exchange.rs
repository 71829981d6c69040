//! Exchanging two folders, also on file systems that cannot do that in one step.
//!
//! ```text
//!   one step:     new <──> old
//!   three steps:  old ──> old.old     new ──> old     old.old ──> new
//! ```
//!
//! A server that dies between two of the steps leaves `<name>.old`, which the next one finds: the
//! folder is put back where nothing took its place, and kept apart where something did, as containers may
//! run on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crisp_operation::fault;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::layout;

/// Puts `new` in the place of `old`, which is then where `new` was, or nowhere if it was not there.
pub(super) fn exchange_or_rename(new: &Path, old: &Path) -> io::Result<()> {
    match exchange(new, old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(new, old),
        done => done,
    }
}

/// Exchanges two folders, in one step where the file system can.
pub(super) fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    if fault_at("one_step", old).is_err() {
        return in_steps(new, old);
    }
    match rustix::fs::renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS) => in_steps(new, old),
        done => Ok(done?),
    }
}

fn in_steps(new: &Path, old: &Path) -> io::Result<()> {
    let between = layout::interim(old);
    fs::rename(old, &between)?;
    fault_at("old_away", old)?;
    let put_back = |_: &io::Error| drop(fs::rename(&between, old));
    fs::rename(new, old).inspect_err(put_back)?;
    fault_at("new_placed", old)?;
    fs::rename(&between, new).inspect_err(|error| {
        let _ = fs::rename(old, new);
        put_back(error);
    })
}

/// Where tests stop an exchange as the end of the server would, or forbid to do it in one step.
fn fault_at(step: &str, old: &Path) -> io::Result<()> {
    fault::point("exchange_folders", step, &old.to_string_lossy()).map_err(io::Error::other)
}

/// Ends exchanges in `folder` that an earlier server left halfway; `aside` is where a folder goes whose
/// place is taken.
pub(super) fn finish_interrupted(folder: &Path, names: &[String], aside: impl Fn(&str) -> PathBuf) {
    for name in names {
        let Some(published) = layout::interim_of(name) else { continue };
        let home = layout::published(folder, published);
        let between = layout::interim(&home);
        let to = if home.exists() { aside(published) } else { home };
        match fs::rename(&between, &to) {
            Ok(()) => {
                tracing::warn!(path = %between.display(), to = %to.display(), "ended a half-done exchange")
            }
            Err(error) => {
                tracing::error!(path = %between.display(), %error, "cannot end a half-done exchange")
            }
        }
    }
}
