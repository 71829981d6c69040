//! Exchanges two folders, also on file systems that cannot do that in one step.
//!
//! ```text
//!   one step:     new <──> old
//!   three steps:  old ──> old.old     new ──> old     old.old ──> new
//! ```
//!
//! If the server dies between two steps, the next one finds `<name>.old`: it puts the folder back if its
//! place is free, and otherwise keeps it aside, because containers may run on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crisp_operation::fault;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::layout;

/// Puts `new` in the place of `old`; `old` is then at the former path of `new`. Only renames if `old` does
/// not exist.
pub(super) fn exchange_or_rename(new: &Path, old: &Path) -> io::Result<()> {
    match exchange(new, old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(new, old),
        done => done,
    }
}

/// Exchanges two folders, in one step if the file system supports that.
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

/// Fault points for tests: they end an exchange like the death of the server, or forbid the single step.
fn fault_at(step: &str, old: &Path) -> io::Result<()> {
    fault::point("exchange_folders", step, &old.to_string_lossy()).map_err(io::Error::other)
}

/// Completes exchanges in `folder` that an earlier server left halfway; `aside` gives the new path of a
/// folder whose place is taken.
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
