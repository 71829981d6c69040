//! A process between its clone and its exec, and the request that waits for it.

use crisp_executor::run::{Progress, Report, Stage, StageError};
use crisp_monitor::wire::Header;
use crisp_monitor::wire::request::WindowSize;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::poller::Key;

/// A request that gets its response later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requester {
    pub(crate) connection: Key,
    pub(crate) header: Header,
}

/// Limits for the reports of one process: others may trace it and report in its place.
const MAX_NOTES: usize = 64;
const MAX_REPORTS: u32 = 128;

pub(crate) struct Launch {
    pub(crate) report: Report,
    pub(crate) requester: Requester,
    /// It was cloned straight into the PID namespace of others.
    pub(crate) is_exposed: bool,
    pub(crate) reported: Reported,
    /// Set when it failed: it is reaped next, and then the response is sent.
    pub(crate) failed: Option<StageError>,
}

/// The reports of a process so far.
#[derive(Default)]
pub(crate) struct Reported {
    pub(crate) notes: Vec<StageError>,
    pub(crate) terminal: Option<OwnedFd>,
    wants_terminal: bool,
    count: u32,
}

/// The state of a launch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Launched {
    NotYet,
    Running,
    Failed,
}

impl Launch {
    pub(crate) fn new(report: Report, requester: Requester, wants_terminal: bool, is_exposed: bool) -> Self {
        let reported = Reported { wants_terminal, ..Reported::default() };
        Self { report, requester, is_exposed, reported, failed: None }
    }

    /// Reads all reports of the child so far.
    pub(crate) fn progress(&mut self) -> Launched {
        if self.failed.is_some() {
            return Launched::Failed;
        }
        loop {
            let received = self.report.receive();
            let received = received.map_err(|errno| StageError::new(Stage::Clone, errno, REPORT));
            match received.and_then(|progress| self.reported.add(progress)) {
                Ok(None) => {}
                Ok(Some(launched)) => return launched,
                Err(error) => {
                    self.failed = Some(error);
                    return Launched::Failed;
                }
            }
        }
    }
}

const REPORT: &str = "report of the new process";

impl Reported {
    /// Returns the state that follows, or None when the next report says more.
    fn add(&mut self, progress: Progress) -> Result<Option<Launched>, StageError> {
        self.count += 1;
        let refused = |why: &str| {
            let why = format!("{REPORT}: {why}: is it traced?");
            Err(StageError::explained(Stage::Clone, Errno::BADMSG, why))
        };
        match progress {
            // Starts by a monitor have no pauses.
            Progress::Pending | Progress::Prepared | Progress::Waiting => return Ok(Some(Launched::NotYet)),
            Progress::Executed => return Ok(Some(Launched::Running)),
            Progress::Failed(error) => return Err(error),
            _ if self.count > MAX_REPORTS => return refused("more of them than a start has"),
            Progress::Notes(notes) if self.notes.len() + notes.len() > MAX_NOTES => {
                return refused("more notes than a start has");
            }
            Progress::Notes(notes) => self.notes.extend(notes),
            Progress::Terminal(_) if !self.wants_terminal || self.terminal.is_some() => {
                return refused("a terminal that was not asked for");
            }
            Progress::Terminal(master) => self.terminal = Some(master),
        }
        Ok(None)
    }
}

pub(crate) fn resize(terminal: &OwnedFd, size: WindowSize) -> Result<(), Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Progress {
        Progress::Terminal(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).unwrap())
    }

    fn reported(wants_terminal: bool) -> Reported {
        Reported { wants_terminal, ..Reported::default() }
    }

    #[test]
    fn a_terminal_is_taken_once_and_only_where_it_is_wanted() {
        assert!(reported(false).add(terminal()).unwrap_err().to_string().contains("not asked for"));
        let mut wanted = reported(true);
        assert_eq!(wanted.add(terminal()), Ok(None));
        assert!(wanted.add(terminal()).is_err());
    }

    #[test]
    fn reports_without_end_are_refused() {
        let note = || StageError::new(Stage::OomScore, Errno::ACCESS, "1");
        let mut many = reported(false);
        assert!(many.add(Progress::Notes(vec![note(); MAX_NOTES])).is_ok());
        assert!(many.add(Progress::Notes(vec![note()])).is_err());
        let mut empty = reported(false);
        assert!((0..MAX_REPORTS).all(|_| empty.add(Progress::Notes(Vec::new())).is_ok()));
        assert!(empty.add(Progress::Notes(Vec::new())).is_err());
        assert_eq!(empty.add(Progress::Executed), Ok(Some(Launched::Running)));
    }
}
