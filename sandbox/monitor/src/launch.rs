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
    /// It was cloned straight into the PID namespace of others.
    pub(crate) is_exposed: bool,
    wants_terminal: bool,
    reports: u32,
    pub(crate) requester: Requester,
    pub(crate) notes: Vec<StageError>,
    pub(crate) terminal: Option<OwnedFd>,
    /// Set when it failed: it is reaped next, and then the response is sent.
    pub(crate) failed: Option<StageError>,
}

/// The state of a launch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Launched {
    NotYet,
    Running,
    Failed,
}

impl Launch {
    pub(crate) fn new(report: Report, requester: Requester, wants_terminal: bool) -> Self {
        let (notes, terminal, failed) = (Vec::new(), None, None);
        Self { report, is_exposed: false, wants_terminal, reports: 0, requester, notes, terminal, failed }
    }

    pub(crate) fn exposed(self, is_exposed: bool) -> Self {
        Self { is_exposed, ..self }
    }

    /// Reads all reports of the child so far.
    pub(crate) fn progress(&mut self) -> Launched {
        if self.failed.is_some() {
            return Launched::Failed;
        }
        loop {
            self.reports += 1;
            match self.report.receive() {
                Ok(Progress::Notes(notes)) if self.notes.len() + notes.len() > MAX_NOTES => {
                    return self.refused("more notes than a start has");
                }
                Ok(Progress::Terminal(_)) if !self.wants_terminal || self.terminal.is_some() => {
                    return self.refused("a terminal that was not asked for");
                }
                Ok(Progress::Notes(_) | Progress::Terminal(_)) if self.reports > MAX_REPORTS => {
                    return self.refused("more of them than a start has");
                }
                // Starts by a monitor have no pauses.
                Ok(Progress::Pending | Progress::Prepared | Progress::Waiting) => return Launched::NotYet,
                Ok(Progress::Notes(notes)) => self.notes.extend(notes),
                Ok(Progress::Terminal(master)) => self.terminal = Some(master),
                Ok(Progress::Executed) => return Launched::Running,
                Ok(Progress::Failed(error)) => {
                    self.failed = Some(error);
                    return Launched::Failed;
                }
                Err(errno) => {
                    self.failed = Some(StageError::new(Stage::Clone, errno, "report of the new process"));
                    return Launched::Failed;
                }
            }
        }
    }
}

impl Launch {
    fn refused(&mut self, why: &str) -> Launched {
        let why = format!("report of the new process: {why}: is it traced?");
        self.failed = Some(StageError::explained(Stage::Clone, Errno::BADMSG, why));
        Launched::Failed
    }
}

pub(crate) fn resize(terminal: &OwnedFd, size: WindowSize) -> Result<(), Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size)
}
