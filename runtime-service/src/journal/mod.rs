//! The journal: what happened to containers and pods, and which operations failed, over restarts of the server.
//!
//! ```text
//!   emitter, ops, ends of operations ─ notes.rs ─> a line ─> queue ─> a task: file.rs ─> events.jsonl
//!                                                   full: dropped, counted        8 MiB: └> events.old.jsonl
//!   crisp events, crisp why <── read.rs, when asked
//! ```
//!
//! An operation never waits for the journal: it makes a line (some microseconds) and puts it into a queue. Lines
//! are written together, some milliseconds later, and not synced: a server that is killed may lose the last ones, a
//! machine that loses its power those of the last half minute. Nothing is read at the start of a server. Both
//! files together are the bound: what is older is gone.

mod entry;
mod file;
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
use crate::layout::Layout;

/// Lines that wait for the disk.
const QUEUE: usize = 4096;
/// From the first line to the write of it and of those that came meanwhile.
const GATHER: Duration = Duration::from_millis(20);
/// Bytes of one write.
const MAX_WRITE: usize = 1 << 20;
/// For what was noted before to be on the disk, before it is read.
const FLUSH: Duration = Duration::from_secs(2);

/// The journal of one server.
#[derive(Debug)]
pub struct Journal {
    sender: mpsc::Sender<Command>,
    layout: Layout,
    queue_full: IntCounter,
    /// Lines that the last reading left out.
    skipped: AtomicU64,
}

#[derive(Debug)]
enum Command {
    Line(String),
    /// To be answered when all lines before it are written.
    Flush(oneshot::Sender<()>),
    /// The same, and nothing is written after it.
    Close(oneshot::Sender<()>),
}

impl Journal {
    /// Starts the task that writes; the disk is not touched before there is something to write.
    ///
    /// # Errors
    /// Only when another metric has the name.
    pub(crate) fn new(layout: &Layout, metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let lost = IntCounterVec::new(
            Opts::new(
                "crisp_journal_lost_total",
                "Events that are not in the journal, by why: queue or disk.",
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
            queue_full: lost.with_label_values(&["queue"]),
            skipped: AtomicU64::new(0),
        })
    }

    /// Notes an entry. Waits for nothing.
    pub fn note(&self, entry: Entry<'_>) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Command::Line(entry.line())) {
            self.queue_full.inc();
        }
    }

    /// Waits until what was noted is written, for a limited time.
    pub async fn flush(&self) {
        // A disk that hangs: what is there is read all the same.
        self.ask(Command::Flush).await;
    }

    /// Writes what was noted, for a limited time. What is noted from now on is dropped: the folders may go.
    pub(crate) async fn close(&self) {
        self.ask(Command::Close).await;
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
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
        // Once for the same lines, however often they are read.
        if skipped > self.skipped.swap(skipped, Ordering::Relaxed) {
            let path = self.layout.journal();
            tracing::warn!(path = %path.display(), lines = skipped, "damaged lines of the journal are left out");
        }
        Ok(())
    }
}

/// Writes what comes, until the journal is closed or there is no sender.
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
            // Fails where the one that asked has gone.
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
