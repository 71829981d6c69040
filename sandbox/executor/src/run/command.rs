//! Finds a program by its name, and runs it.

use std::ffi::{CStr, CString};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::diagnose;
use super::error::{Quoted, Stage, StageError};
use crate::plan::Process;
use crate::sys::{self, Strings};

/// The default PATH: the one that images expect.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with everything that its exec needs, so that nothing must be allocated under the process's own
/// limits and filter.
pub(crate) struct Command<'a> {
    name: &'a CStr,
    candidates: Vec<CString>,
    /// The folders of PATH, if the name was searched in them.
    searched: Option<Vec<u8>>,
    args: Strings<'a>,
    env: Strings<'a>,
    uid: u32,
}

impl<'a> Command<'a> {
    pub(crate) fn new(process: &'a Process) -> Result<Self, StageError> {
        let none = || StageError::explained(Stage::Exec, Errno::INVAL, "\"\": the command is empty");
        let name = process.args.first().filter(|name| !name.is_empty()).ok_or_else(none)?;
        let searched = (!name.to_bytes().contains(&b'/')).then(|| path_of(&process.env).to_vec());
        let candidates = match &searched {
            None => vec![name.clone()],
            Some(path) => path.split(|&b| b == b':').filter_map(|folder| in_folder(folder, name)).collect(),
        };
        let (args, env) = (Strings::new(&process.args), Strings::new(&process.env));
        Ok(Self { name, candidates, searched, args, env, uid: process.uid })
    }

    /// Whether there is a program with that name, as far as that can be checked without running it.
    pub(crate) fn find(&self) -> Result<(), StageError> {
        if self.candidates.iter().any(|path| exists(path)) {
            return Ok(());
        }
        Err(match &self.searched {
            Some(_) => self.not_found(),
            None => self.failed(self.name, Errno::NOENT),
        })
    }

    /// Becomes the program. Returns only with the reason of a failure.
    pub(crate) fn run(&self) -> StageError {
        let mut first: Option<(&CStr, Errno)> = None;
        for path in &self.candidates {
            let errno = sys::execve(path, &self.args, &self.env);
            match errno {
                // The kernel returns the same when the program exists but its interpreter does not.
                Errno::NOENT | Errno::NOTDIR if self.searched.is_some() && !exists(path) => {}
                // As in every shell: continues, because a later folder of the path may have an executable
                // one.
                Errno::ACCESS if self.searched.is_some() => first = first.or(Some((path, errno))),
                errno => return self.failed(path, errno),
            }
        }
        match first {
            Some((path, errno)) => self.failed(path, errno),
            None => self.not_found(),
        }
    }

    fn failed(&self, path: &CStr, errno: Errno) -> StageError {
        let why = format!("{}: {}", Quoted(path), diagnose::explain(path, errno, self.uid));
        StageError::explained(Stage::Exec, errno, why)
    }

    fn not_found(&self) -> StageError {
        let path = String::from_utf8_lossy(self.searched.as_deref().unwrap_or_default());
        let why = format!("{}: executable file not found in $PATH ({path})", Quoted(self.name));
        StageError::explained(Stage::Exec, Errno::NOENT, why)
    }
}

fn exists(path: &CStr) -> bool {
    accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}

fn path_of(env: &[CString]) -> &[u8] {
    env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH)
}

/// An empty entry means the working directory, as in POSIX.
fn in_folder(folder: &[u8], name: &CStr) -> Option<CString> {
    let folder = if folder.is_empty() { b"." } else { folder };
    CString::new([folder, b"/", name.to_bytes()].concat()).ok()
}
