//! The reports of a process up to its exec, within limits: others that trace it may report in its place.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::error::{Stage, StageError};
use super::report::Progress;

/// Limits for the notes that are kept: their number, and the bytes of their texts together.
const MAX_NOTES: usize = 64;
const MAX_TEXT: usize = 16 << 10;
/// Limit for reports that say that the process is on its way. An honest one has a few.
const MAX_REPORTS: u32 = 128;

/// Collects reports.
#[derive(Debug, Default)]
pub struct Reported {
    /// See [`Progress::Notes`]. Those above a limit are left out.
    pub notes: Vec<StageError>,
    /// See [`Progress::Terminal`].
    pub terminal: Option<OwnedFd>,
    wants_terminal: bool,
    text: usize,
    count: u32,
}

impl Reported {
    /// `wants_terminal`: the process was requested with one.
    #[must_use]
    pub fn new(wants_terminal: bool) -> Self {
        Self { wants_terminal, ..Self::default() }
    }

    /// Keeps notes and the terminal, and returns what else is reported.
    ///
    /// # Errors
    /// A terminal that was not requested, a second one, or reports without end.
    pub fn add(&mut self, progress: Progress) -> Result<Option<Progress>, StageError> {
        if matches!(progress, Progress::Notes(_) | Progress::Terminal(_) | Progress::Prepared) {
            self.count += 1;
        }
        if self.count > MAX_REPORTS {
            return Err(refused("more of them than a start has"));
        }
        match progress {
            Progress::Notes(notes) => notes.into_iter().for_each(|note| self.note(note)),
            Progress::Terminal(_) if !self.wants_terminal => {
                return Err(refused("a terminal that was not asked for"));
            }
            Progress::Terminal(master) => {
                (self.wants_terminal, self.terminal) = (false, Some(master));
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn note(&mut self, note: StageError) {
        self.text += note.to_string().len();
        if self.notes.len() < MAX_NOTES && self.text <= MAX_TEXT {
            self.notes.push(note);
        }
    }
}

fn refused(why: &str) -> StageError {
    let why = format!("report of the new process: {why}: is it traced?");
    StageError::explained(Stage::Clone, Errno::BADMSG, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Progress {
        Progress::Terminal(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).unwrap())
    }

    #[test]
    fn a_terminal_is_taken_once_and_only_where_it_is_wanted() {
        let error = Reported::new(false).add(terminal()).unwrap_err();
        assert!(error.to_string().contains("not asked for"), "{error}");
        let mut wanted = Reported::new(true);
        assert!(wanted.add(terminal()).unwrap().is_none());
        wanted.terminal.take().unwrap();
        assert!(wanted.add(terminal()).is_err(), "a second one");
    }

    #[test]
    fn notes_and_reports_are_bounded() {
        let note =
            |text: &str| Progress::Notes(vec![StageError::new(Stage::OomScore, Errno::ACCESS, text); 10]);
        let mut many = Reported::new(false);
        (0..10).for_each(|_| drop(many.add(note("1")).unwrap()));
        assert_eq!(many.notes.len(), MAX_NOTES);
        let mut long = Reported::new(false);
        long.add(note(&"x".repeat(4000))).unwrap();
        assert_eq!(long.notes.len(), 4);
        let mut endless = Reported::new(false);
        assert!((0..MAX_REPORTS).all(|_| endless.add(Progress::Prepared).is_ok()));
        assert!(endless.add(Progress::Prepared).is_err());
        assert!(matches!(Reported::new(false).add(Progress::Executed), Ok(Some(Progress::Executed))));
    }
}
