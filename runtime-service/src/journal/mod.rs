//! The journal: keeps events of containers and pods and failures of operations, across restarts of the
//! server.
//!
//! ```text
//!   emitter, ops, ends of operations ─ notes.rs ─> a line ─> queue ─> a task: file.rs ─> events.jsonl
//!                                                   full: dropped, counted        8 MiB: └> events.old.jsonl
//!                                                       └──> queue ─> a thread: log.rs ─> the server's log
//!   crisp events, crisp why <── read.rs, on request
//! ```
//!
//! An operation never waits for the journal: it makes a line (some microseconds) and puts it into a queue.
//! Lines are written together some milliseconds later, and not synced: if the server is killed, the last ones
//! may be lost; if the machine loses power, those of the last half minute. A starting server reads nothing.
//! The two files together are the limit: older entries are dropped.

mod entry;
mod file;
mod log;
mod read;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crisp_metrics::Metrics;
use crisp_metrics::prometheus::{self, IntCounter, IntCounterVec, Opts};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

pub use self::entry::{Action, Ended, Entry, Kind, Operation};
use self::file::JournalFile;
use self::log::Logger;
use crate::layout::Layout;

/// Maximal number of lines that wait for the disk.
const QUEUE: usize = 4096;
/// Delay from the first line to the write, which includes lines that came meanwhile.
const GATHER: Duration = Duration::from_millis(20);
/// Limit for one write in bytes.
const MAX_WRITE: usize = 1 << 20;
/// Time limit for writing queued lines before the journal is read.
const FLUSH: Duration = Duration::from_secs(2);

/// The journal of one server.
#[derive(Debug)]
pub struct Journal {
    sender: mpsc::Sender<Command>,
    layout: Layout,
    logger: Logger,
    queue_full: IntCounter,
    log_full: IntCounter,
    /// Damaged lines in the last read.
    skipped: AtomicU64,
}

#[derive(Debug)]
enum Command {
    Line(String),
    /// Answered when all lines before it are written.
    Flush(oneshot::Sender<()>),
    /// The same; lines after it are dropped.
    Close(oneshot::Sender<()>),
}

impl Journal {
    /// Starts the task that writes; the disk is not used before there is a line.
    ///
    /// # Errors
    /// Only when another metric has the name.
    pub(crate) fn new(layout: &Layout, metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let lost = IntCounterVec::new(
            Opts::new(
                "crisp_journal_lost_total",
                "Events that are not in the journal, by why: queue or disk; or not in the log: log.",
            ),
            &["why"],
        )?;
        metrics.register(Box::new(lost.clone()))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let disk = lost.with_label_values(&["disk"]);
        tokio::spawn(write(receiver, JournalFile::new(layout.clone()), disk));
        Ok(Self {
            sender,
            layout: layout.clone(),
            logger: Logger::start(),
            queue_full: lost.with_label_values(&["queue"]),
            log_full: lost.with_label_values(&["log"]),
            skipped: AtomicU64::new(0),
        })
    }

    /// Adds an entry. Never blocks.
    pub fn note(&self, entry: Entry<'_>) {
        let line = entry.line();
        if !self.logger.add(&line) {
            self.log_full.inc();
        }
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Command::Line(line)) {
            self.queue_full.inc();
        }
    }

    /// Waits, for a limited time, until all entries are written.
    pub async fn flush(&self) {
        // If the disk hangs, the lines on disk are read anyway.
        self.request(Command::Flush).await;
    }

    /// Writes all entries, for a limited time. Later entries are dropped, because the folders may be removed.
    pub(crate) async fn close(&self) {
        self.request(Command::Close).await;
    }

    async fn request(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, written) = oneshot::channel();
        let ask = async {
            if self.sender.send(command(done)).await.is_ok() {
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, ask).await;
    }

    /// Reads all entries, the oldest first. Blocks.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&self, each: impl FnMut(Entry<'static>) -> ControlFlow<()>) -> std::io::Result<()> {
        let skipped = read::read(&self.layout, each)?;
        // Logged once for the same lines, however often they are read.
        if skipped > self.skipped.swap(skipped, Ordering::Relaxed) {
            let path = self.layout.journal();
            tracing::warn!(path = %path.display(), lines = skipped, "damaged lines of the journal are left out");
        }
        Ok(())
    }
}

/// Writes lines until the journal is closed or the last sender is dropped.
async fn write(mut receiver: mpsc::Receiver<Command>, mut file: JournalFile, lost: IntCounter) {
    let mut is_closed = false;
    while !is_closed && let Some(first) = receiver.recv().await {
        if matches!(first, Command::Line(_)) {
            tokio::time::sleep(GATHER).await;
        }
        let (mut lines, mut count, mut flushed) = (String::new(), 0, Vec::new());
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Line(line) => {
                    lines.push_str(&line);
                    count += 1;
                }
                Command::Flush(done) => flushed.push(done),
                Command::Close(done) => {
                    flushed.push(done);
                    is_closed = true;
                    break;
                }
            }
            if lines.len() < MAX_WRITE {
                next = receiver.try_recv().ok();
            }
        }
        if count > 0 {
            let append = move || {
                let written = file.append(&lines);
                (file, written)
            };
            // The runtime shuts down.
            let Ok((returned, written)) = tokio::task::spawn_blocking(append).await else { return };
            file = returned;
            if !written {
                lost.inc_by(count);
            }
        }
        for done in flushed {
            // Fails when the requester has left, which is fine.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(journal: &Journal) -> Vec<String> {
        let mut names = Vec::new();
        let each = |entry: Entry<'static>| {
            names.push(entry.name.into_owned());
            ControlFlow::Continue(())
        };
        journal.read(each).unwrap();
        names
    }

    #[tokio::test]
    async fn what_was_noted_is_there_after_a_flush_and_for_the_next_server() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        for round in 1..=2 {
            let journal = Journal::new(&layout, &Metrics::new("test").unwrap()).unwrap();
            for _ in 0..100 {
                journal.note(Entry { name: "x".into(), ..Entry::default() });
            }
            journal.flush().await;
            assert_eq!(names(&journal).len(), 100 * round);
        }
    }

    #[tokio::test]
    async fn nothing_is_written_once_the_journal_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let journal = Journal::new(&layout, &Metrics::new("test").unwrap()).unwrap();
        journal.note(Entry { name: "before".into(), ..Entry::default() });
        journal.close().await;
        assert_eq!(names(&journal), ["before"]);
        std::fs::remove_dir_all(layout.journal()).unwrap();
        journal.note(Entry { name: "after".into(), ..Entry::default() });
        journal.flush().await;
        tokio::time::sleep(4 * GATHER).await;
        assert!(!layout.journal().exists());
        assert_eq!(journal.queue_full.get(), 0);
    }

    #[tokio::test]
    async fn a_full_queue_drops_counts_and_waits_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(&Layout::new(folder.path()), &Metrics::new("test").unwrap()).unwrap();
        // The task that writes has no chance to run.
        for _ in 0..QUEUE + 5 {
            journal.note(Entry::default());
        }
        assert_eq!(journal.queue_full.get(), 5);
        journal.flush().await;
        assert_eq!(names(&journal).len(), QUEUE);
    }
}
