//! A tree of cgroups that a container made below its own: walked and removed at any depth and width, with any
//! names. It uses neither recursion nor paths (a few hundred levels exceed the limit for paths), and at most
//! three descriptors at a time.

use std::ffi::CString;
use std::time::Duration;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::dir::Dir;

/// Calls `visit` for `top` and every cgroup below it.
pub(super) fn walk<E: From<Errno>>(top: Dir, mut visit: impl FnMut(&Dir) -> Result<(), E>) -> Result<(), E> {
    visit(&top)?;
    let mut levels = vec![children(&top)?];
    let mut here = top;
    while let Some(siblings) = levels.last_mut() {
        match siblings.pop() {
            Some(name) => {
                let below = match here.child(&name) {
                    Ok(below) => below,
                    Err(Errno::NOENT | Errno::NODEV) => continue,
                    Err(errno) => return Err(errno.into()),
                };
                visit(&below)?;
                levels.push(children(&below)?);
                here = below;
            }
            None => {
                levels.pop();
                if !levels.is_empty() {
                    here = here.child(c"..")?;
                }
            }
        }
    }
    Ok(())
}

/// Removes every cgroup below `top`, the deepest first. A process that has just died keeps its cgroup
/// busy for a moment: waits 1, 2, 4 ... ms, a second in all.
#[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
pub(super) fn remove_below(top: Dir) -> Result<(), Errno> {
    let mut names: Vec<CString> = Vec::new();
    let mut here = top;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(name) = children(&here)?.pop() {
            match here.child(&name) {
                Ok(below) => {
                    here = below;
                    names.push(name);
                }
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => return Err(errno),
            }
            continue;
        }
        let Some(name) = names.pop() else { return Ok(()) };
        here = here.child(c"..")?;
        match unlinkat(here.fd(), &*name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            // Still in use, or with new cgroups below it: tried again.
            Err(Errno::BUSY) if pause < Duration::from_millis(1024) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// None when it is gone.
pub(super) fn children(dir: &Dir) -> Result<Vec<CString>, Errno> {
    match dir.children() {
        Err(Errno::NOENT | Errno::NODEV) => Ok(Vec::new()),
        other => other,
    }
}
