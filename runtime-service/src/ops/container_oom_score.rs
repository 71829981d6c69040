//! Changes the OOM score of the running processes of a container.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

use crisp_executor::cgroup::{Cgroup, CgroupError};
use crisp_operation::Cancel;
use rustix::io::Errno;

/// Maximum number of times that the processes are listed: each finds those that were forked during the last.
const ROUNDS: usize = 20;
/// Files that are open at the same time.
const AT_ONCE: usize = 64;

/// The scores of a change.
pub(super) struct Scores {
    /// The score that the container had by its record.
    pub(super) recorded: i32,
    /// The first process.
    pub(super) first: i32,
    pub(super) new: i32,
}

/// Gives the new score to all processes that have the recorded one. A process that has chosen another score
/// keeps that. Without CAP_SYS_RESOURCE the kernel lowers no score below the one that a process has started
/// with: then it is set as low as possible, as for a start.
///
/// The limits are in force and recorded already: a score that cannot be set is no reason to take them back.
pub(super) fn change(cgroup: &Cgroup, scores: &Scores, cancel: &Cancel) {
    let mut problems = Problems::default();
    let old = old_scores(scores);
    for _ in 0..ROUNDS {
        match change_once(cgroup, &old, scores.new, &mut problems) {
            Ok(true) if !cancel.is_cancelled() => {}
            Ok(_) => break,
            Err(error) => {
                tracing::warn!(%error, "processes of a container keep their OOM scores");
                return;
            }
        }
    }
    if let Some(error) = problems.last {
        let (score, count) = (scores.new, problems.count);
        tracing::warn!(oom_score_adj = score, count, %error, "processes of a container keep a higher OOM score");
    }
}

/// A start without CAP_SYS_RESOURCE may have left the processes with a score that is not as low as the recorded
/// one.
fn old_scores(scores: &Scores) -> Vec<i32> {
    let first = || Scored::open(scores.first).and_then(|process| process.score()).ok();
    let first = if scores.recorded < 0 { first() } else { None };
    let all = [Some(scores.recorded), first];
    all.into_iter().flatten().filter(|score| *score != scores.new).collect()
}

#[derive(Default)]
struct Problems {
    count: usize,
    last: Option<io::Error>,
}

/// Returns whether a score was changed.
fn change_once(cgroup: &Cgroup, old: &[i32], new: i32, problems: &mut Problems) -> Result<bool, CgroupError> {
    let mut is_changed = false;
    *problems = Problems::default();
    for pids in cgroup.pids()?.chunks(AT_ONCE) {
        let opened: Vec<_> = pids.iter().filter_map(|pid| Scored::open(*pid).ok()).collect();
        // The number of a process may belong to another one as soon as it has ended: they are listed again once
        // their files are open. The list is sorted.
        let now = cgroup.pids()?;
        for process in opened.iter().filter(|process| now.binary_search(&process.pid).is_ok()) {
            if !process.score().is_ok_and(|score| old.contains(&score)) {
                continue;
            }
            match process.set(new) {
                Ok(()) => is_changed = true,
                Err(error) if has_ended(&error) => {}
                Err(error) => {
                    problems.count += 1;
                    problems.last = Some(error);
                }
            }
        }
    }
    Ok(is_changed)
}

/// A process with its file `oom_score_adj`, which stays that of the same process.
struct Scored {
    pid: i32,
    file: File,
}

impl Scored {
    fn open(pid: i32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/oom_score_adj");
        Ok(Self { pid, file: fs::OpenOptions::new().read(true).write(true).open(path)? })
    }

    fn score(&self) -> io::Result<i32> {
        let mut text = [0; 16];
        let length = self.file.read_at(&mut text, 0)?;
        let score = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok());
        score.ok_or_else(|| ErrorKind::InvalidData.into())
    }

    fn set(&self, score: i32) -> io::Result<()> {
        let refused = match self.write(score) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => error,
            done => return done,
        };
        // To the score that processes have by default, if that is lower and permitted.
        if score < 0 && self.score()? > 0 {
            let _ = self.write(0);
        }
        Err(refused)
    }

    fn write(&self, score: i32) -> io::Result<()> {
        self.file.write_all_at(score.to_string().as_bytes(), 0)
    }
}

fn has_ended(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}
