//! Writes a container's output to the log file, in the CRI's format: `<time> stdout|stderr F|P <text>`, P for
//! a line that continues in the next record.
//!
//! No byte is lost: data that the disk refuses is kept and tried again, and until it is written nothing more
//! is read, so that in the end the container itself waits.

mod lines;

use std::time::{Duration, Instant};

use crisp_monitor::wire::response::LogReport;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::clock;
use lines::{Lines, Prefix};

/// One of a container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Records are collected up to this size before a write.
const BATCH: usize = 128 << 10;
/// The first and the longest pause after a failed write.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A clock that is set back by less is being adjusted; by more, it was wrong before.
const ADJUSTED_NS: i64 = 1_000_000_000;

/// Keeps lines in order while the clock is adjusted.
fn time_of_line(last_ns: i64, now_ns: i64) -> i64 {
    if last_ns.saturating_sub(now_ns) < ADJUSTED_NS { last_ns.max(now_ns) } else { now_ns }
}

#[derive(Default)]
pub(crate) struct Log {
    file: Option<OwnedFd>,
    lines: [Lines; 2],
    /// The data that the file refused; its first `done` bytes were accepted.
    refused: Vec<u8>,
    done: usize,
    retry: Option<(Instant, Duration)>,
    last_ns: i64,
    report: LogReport,
}

/// Whether writing changed from working to failing or back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Failing(i32),
    Working,
}

impl Log {
    pub(crate) fn new(file: Option<OwnedFd>) -> Self {
        Self { file, ..Self::default() }
    }

    pub(crate) fn report(&self) -> LogReport {
        self.report
    }

    /// While this is true, nothing may be fed.
    pub(crate) fn blocked(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The time for [`retry`](Self::retry).
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry.map(|(at, _)| at)
    }

    /// Adds output. `records` is scratch space, empty before and after.
    pub(crate) fn feed(&mut self, stream: Stream, output: &[u8], records: &mut Vec<u8>) -> Change {
        if self.file.is_none() {
            self.report.discarded += output.len() as u64;
            return Change::None;
        }
        let was_blocked = self.blocked();
        self.report.written += output.len() as u64;
        let prefix = self.prefix(stream);
        let mut left = output;
        while !left.is_empty() {
            // After a refusal the whole rest is formatted and kept here: it has left the pipe.
            let enough = if self.blocked() { usize::MAX } else { BATCH };
            left = self.lines[stream as usize].take(left, &prefix, enough, records);
            if records.len() >= BATCH && !self.blocked() {
                self.write(records);
            }
        }
        self.flush(was_blocked, records)
    }

    /// Handles the end of the stream: a line without its end is written as it is.
    pub(crate) fn finish(&mut self, stream: Stream, records: &mut Vec<u8>) -> Change {
        if self.file.is_none() {
            return Change::None;
        }
        let was_blocked = self.blocked();
        let prefix = self.prefix(stream);
        self.lines[stream as usize].finish(&prefix, records);
        self.flush(was_blocked, records)
    }

    /// Tries to write refused data again.
    pub(crate) fn retry(&mut self) -> Change {
        let mut records = std::mem::take(&mut self.refused);
        let done = std::mem::take(&mut self.done);
        let was = std::mem::take(&mut self.report.failing);
        self.write_from(&mut records, done);
        match self.report.failing {
            0 => {
                self.retry = None;
                if was == 0 { Change::None } else { Change::Working }
            }
            _ => {
                let pause = self.retry.map_or(PAUSE.0, |(_, pause)| (pause * 2).min(PAUSE.1));
                self.retry = Some((Instant::now() + pause, pause));
                Change::None
            }
        }
    }

    /// Continues in another file. A record that is only partly in the old one is written completely to the
    /// new one.
    pub(crate) fn reopen(&mut self, file: OwnedFd) -> Change {
        let first = if self.blocked() { self.retry() } else { Change::None };
        self.file = Some(file);
        if !self.blocked() {
            return first;
        }
        let start = self.refused[..self.done].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        self.done = start;
        self.retry()
    }

    fn prefix(&mut self, stream: Stream) -> Prefix {
        self.last_ns = time_of_line(self.last_ns, clock::now_ns());
        Prefix::new(self.last_ns, stream)
    }

    /// Writes the collected records, or keeps them after the refused data.
    fn flush(&mut self, was_blocked: bool, records: &mut Vec<u8>) -> Change {
        if self.blocked() {
            self.refused.append(records);
        } else if !records.is_empty() {
            self.write(records);
        }
        if self.blocked() && !was_blocked { Change::Failing(self.report.failing) } else { Change::None }
    }

    fn write(&mut self, records: &mut Vec<u8>) {
        self.write_from(records, 0);
    }

    /// Writes `records` to the file, and the rest of it to `refused`.
    fn write_from(&mut self, records: &mut Vec<u8>, mut done: usize) {
        let Some(file) = &self.file else { return records.clear() };
        while done < records.len() {
            match rustix::io::write(file, &records[done..]) {
                Ok(0) => return self.refuse(records, done, Errno::IO),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) => return self.refuse(records, done, errno),
            }
        }
        records.clear();
    }

    fn refuse(&mut self, records: &mut Vec<u8>, done: usize, errno: Errno) {
        self.refused = std::mem::take(records);
        self.done = done;
        self.report.failures += 1;
        self.report.failing = errno.raw_os_error();
        if self.retry.is_none() {
            self.retry = Some((Instant::now() + PAUSE.0, PAUSE.0));
        }
    }
}

#[cfg(test)]
mod tests;
