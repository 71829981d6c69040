//! The exit status of a process, and the file that keeps it when the monitor is gone.

use std::fmt;

use crisp_executor::ids::ContainerId;
use serde::{Deserialize, Serialize};

/// The exit status of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It ended by itself.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl ExitStatus {
    /// The number for people and CRI clients: 128 + n for signal n.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => i32::from(code),
            Self::Signal(signal) => 128 + i32::from(signal),
        }
    }

    /// The signal that ended it, if there was one.
    #[must_use]
    pub fn signal(self) -> Option<u8> {
        match self {
            Self::Code(_) => None,
            Self::Signal(signal) => Some(signal),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// The end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub status: ExitStatus,
    /// The kernel killed a process in its cgroup for lack of memory.
    pub oom: bool,
    /// Nanoseconds since 1970.
    pub finished_at_ns: i64,
}

/// An exit as a line of text in the pod's state folder, in the file named by [`ExitRecord::file_name`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRecord {
    pub container: ContainerId,
    pub pid: i32,
    pub started_at_ns: i64,
    pub exit: Exit,
}

/// The reason why a file is not an exit record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an exit record: {text:?}")]
pub struct BadRecord {
    text: String,
}

impl ExitRecord {
    /// The file for the exit of `container`, in the folder of [`OpenPod`](super::request::OpenPod).
    #[must_use]
    pub fn file_name(container: &ContainerId) -> String {
        format!("exit-{container}")
    }

    /// `1 <container> <pid> code|signal <n> <oom 0|1> <started> <finished>` and a newline.
    #[must_use]
    pub fn to_text(&self) -> String {
        let (how, number) = match self.exit.status {
            ExitStatus::Code(code) => ("code", code),
            ExitStatus::Signal(signal) => ("signal", signal),
        };
        let Self { container, pid, started_at_ns, exit: Exit { oom, finished_at_ns, .. } } = self;
        let oom = u8::from(*oom);
        format!("1 {container} {pid} {how} {number} {oom} {started_at_ns} {finished_at_ns}\n")
    }

    /// Parses the output of [`to_text`](Self::to_text).
    ///
    /// # Errors
    /// [`BadRecord`] for any other text, including a truncated record.
    pub fn parse(text: &str) -> Result<Self, BadRecord> {
        Self::fields(text).ok_or_else(|| BadRecord { text: text.chars().take(200).collect() })
    }

    fn fields(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        if words.next()? != "1" {
            return None;
        }
        let container = ContainerId::parse(words.next()?).ok()?;
        let pid = words.next()?.parse().ok()?;
        let status = match (words.next()?, words.next()?.parse().ok()?) {
            ("code", code) => ExitStatus::Code(code),
            ("signal", signal) => ExitStatus::Signal(signal),
            _ => return None,
        };
        let oom = words.next()? == "1";
        let started_at_ns = words.next()?.parse().ok()?;
        let finished_at_ns = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self {
            container,
            pid,
            started_at_ns,
            exit: Exit { status, oom, finished_at_ns },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: ExitStatus) -> ExitRecord {
        let exit = Exit { status, oom: true, finished_at_ns: 1_700_000_000_000_000_001 };
        ExitRecord { container: ContainerId::random(), pid: 42, started_at_ns: -1, exit }
    }

    #[test]
    fn records_come_back_as_written() {
        for status in [ExitStatus::Code(0), ExitStatus::Code(255), ExitStatus::Signal(9)] {
            let record = record(status);
            assert_eq!(ExitRecord::parse(&record.to_text()), Ok(record));
        }
    }

    #[test]
    fn a_record_cut_short_is_no_record() {
        let text = record(ExitStatus::Code(3)).to_text();
        for len in 0..text.len() {
            assert!(ExitRecord::parse(&text[..len]).is_err(), "{:?}", &text[..len]);
        }
    }

    #[test]
    fn signals_count_from_128() {
        assert_eq!(ExitStatus::Signal(15).code(), 143);
        assert_eq!(ExitStatus::Code(7).code(), 7);
    }
}
