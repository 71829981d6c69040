//! A process between its clone and its exec, and the request that waits for it.

use std::time::{Duration, Instant};

use crisp_executor::run::{Progress, Report, Reported, Stage, StageError};
use crisp_monitor::wire::Header;
use crisp_monitor::wire::request::WindowSize;
use rustix::fd::OwnedFd;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::poller::{Key, Poller, Token};

/// Interval for reading a report that cannot be polled.
const AGAIN: Duration = Duration::from_millis(20);

/// A request that gets its response later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requester {
    pub(crate) connection: Key,
    pub(crate) header: Header,
}

pub(crate) struct Launch {
    pub(crate) report: Report,
    pub(crate) requester: Requester,
    /// It was cloned straight into the PID namespace of others.
    pub(crate) is_exposed: bool,
    pub(crate) reported: Reported,
    /// Set when it failed: it is reaped next, and then the response is sent.
    pub(crate) failed: Option<StageError>,
    /// Set while the report is not polled: when to read it if the process has not ended before.
    pub(crate) read_at: Option<Instant>,
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
        Self {
            report,
            requester,
            is_exposed,
            reported: Reported::new(wants_terminal),
            failed: None,
            read_at: None,
        }
    }

    /// Leaves the report unread until the child's end or `read_at`, if that is set.
    pub(crate) fn unpolled_until(self, read_at: Option<Instant>) -> Self {
        Self { read_at, ..self }
    }

    /// Starts to poll the report, if it is not polled yet. If that fails, it is read again after a moment.
    pub(crate) fn poll(&mut self, poller: &Poller, key: Key) {
        if self.read_at.take().is_some() && poller.add(&self.report, Token::Launch(key)).is_err() {
            self.read_at = Some(Instant::now() + AGAIN);
        }
    }

    pub(crate) fn stop_polling(&self, poller: &Poller) {
        if self.read_at.is_none() {
            poller.remove(&self.report);
        }
    }

    /// Reads all reports of the child so far.
    pub(crate) fn progress(&mut self) -> Launched {
        if self.failed.is_some() {
            return Launched::Failed;
        }
        loop {
            let received = self.report.receive();
            let received =
                received.map_err(|errno| StageError::new(Stage::Clone, errno, "report of the new process"));
            match received.and_then(|progress| self.reported.add(progress)) {
                Ok(None) => {}
                Ok(Some(Progress::Executed)) => return Launched::Running,
                Ok(Some(Progress::Failed(error))) | Err(error) => {
                    self.failed = Some(error);
                    return Launched::Failed;
                }
                // Starts by a monitor have no pauses.
                Ok(Some(_)) => return Launched::NotYet,
            }
        }
    }
}

pub(crate) fn resize(terminal: &OwnedFd, size: WindowSize) -> Result<(), rustix::io::Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size)
}
