//! Changes the OOM score of the running processes of a container.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crisp_executor::cgroup::Cgroup;
use rustix::io::Errno;

use crate::cause::Cause;

/// Maximum number of times that the processes are listed: each finds those that were forked during the last.
const ROUNDS: usize = 20;

/// Gives the score to all processes that have the score of the first one, and returns the score that it had. A
/// process that has chosen another score keeps that. Without CAP_SYS_RESOURCE the kernel lowers no score below
/// the one that a process has started with: then it is set as low as possible, as for a start.
///
/// # Errors
/// [`Cause::File`] and [`Cause::Cgroup`]. Some processes may have the new score then.
pub(super) fn change(cgroup: &Cgroup, first: i32, score: i32) -> Result<i32, Cause> {
    // One that has ended has nothing to change.
    let Some(old) = Scored::open(first)?.map(|process| process.score()).transpose()?.flatten() else {
        return Ok(score);
    };
    if score == old {
        return Ok(old);
    }
    let mut is_refused = false;
    for _ in 0..ROUNDS {
        let mut is_changed = false;
        for process in processes(cgroup)? {
            if process.score()? == Some(old) {
                let set = process.set(score)?;
                is_changed |= set == Set::Done;
                is_refused |= set == Set::Refused;
            }
        }
        if !is_changed {
            break;
        }
    }
    if is_refused {
        tracing::warn!(
            oom_score_adj = score,
            "a process kept a higher OOM score: lowering it is not permitted without CAP_SYS_RESOURCE"
        );
    }
    Ok(old)
}

/// The processes of the cgroup. A number of a process may belong to another one as soon as it has ended: they
/// are listed again once their files are open.
fn processes(cgroup: &Cgroup) -> Result<Vec<Scored>, Cause> {
    let opened: Vec<_> = cgroup
        .pids()?
        .into_iter()
        .filter_map(|pid| Scored::open(pid).transpose())
        .collect::<Result<_, _>>()?;
    let now = cgroup.pids()?;
    Ok(opened.into_iter().filter(|process| now.contains(&process.pid)).collect())
}

/// A process with its file `oom_score_adj`, which stays that of the same process.
struct Scored {
    pid: i32,
    path: PathBuf,
    file: File,
}

#[derive(Debug, PartialEq, Eq)]
enum Set {
    Done,
    /// Not or not wholly.
    Refused,
    /// The process has ended.
    Gone,
}

impl Scored {
    /// None if there is no such process.
    fn open(pid: i32) -> Result<Option<Self>, Cause> {
        let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
        let opened = fs::OpenOptions::new().read(true).write(true).open(&path);
        let opened = unless_gone(opened).map_err(Cause::file(&path))?;
        Ok(opened.map(|file| Self { pid, path, file }))
    }

    /// None if it has ended.
    fn score(&self) -> Result<Option<i32>, Cause> {
        let mut text = [0; 16];
        let Some(length) = unless_gone(self.file.read_at(&mut text, 0)).map_err(Cause::file(&self.path))?
        else {
            return Ok(None);
        };
        let score = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok());
        let not_a_number = || io::Error::new(ErrorKind::InvalidData, "not a number");
        score.map(Some).ok_or_else(not_a_number).map_err(Cause::file(&self.path))
    }

    fn set(&self, score: i32) -> Result<Set, Cause> {
        match self.write(score) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                // To the score that processes have by default, if that is lower and permitted.
                if score < 0 && self.score()?.is_some_and(|now| now > 0) {
                    let _ = self.write(0);
                }
                Ok(Set::Refused)
            }
            Err(error) => Err(Cause::file(&self.path)(error)),
            Ok(None) => Ok(Set::Gone),
            Ok(Some(())) => Ok(Set::Done),
        }
    }

    /// None if it has ended.
    fn write(&self, score: i32) -> io::Result<Option<()>> {
        unless_gone(self.file.write_all_at(score.to_string().as_bytes(), 0))
    }
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        result => result.map(Some),
    }
}
