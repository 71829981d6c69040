//! A process between its clone and its exec, and the request that waits for it.

use crisp_executor::run::{Progress, Report, Stage, StageError};
use crisp_monitor::wire::Header;
use crisp_monitor::wire::request::WindowSize;
use rustix::fd::OwnedFd;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::poller::Key;

/// A request that gets its response later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requester {
    pub(crate) connection: Key,
    pub(crate) header: Header,
}

pub(crate) struct Launch {
    pub(crate) report: Report,
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
    pub(crate) fn new(report: Report, requester: Requester) -> Self {
        Self { report, requester, notes: Vec::new(), terminal: None, failed: None }
    }

    /// Reads all reports of the child so far.
    pub(crate) fn progress(&mut self) -> Launched {
        if self.failed.is_some() {
            return Launched::Failed;
        }
        loop {
            match self.report.receive() {
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

pub(crate) fn resize(terminal: &OwnedFd, size: WindowSize) -> Result<(), rustix::io::Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size)
}
