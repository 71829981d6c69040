//! A status in memory, with its record on disk.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::record::RecordError;

/// The delay between an observation and the writing of its record: the response to the request that made it
/// is sent first, and observations soon after each other are written together.
const DELAY: Duration = Duration::from_millis(10);

/// Pauses between two tries to write a record: the first, and the longest.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

type Write<S> = Box<dyn Fn(&S) -> Result<(), RecordError> + Send + Sync>;

/// The reason why a status does not change.
#[derive(Debug, thiserror::Error)]
pub enum StatusError<R: fmt::Debug + fmt::Display> {
    #[error("{0}")]
    Refused(R),
    #[error(transparent)]
    Record(RecordError),
}

/// The one place through which the status `S` of a pod or container changes. Clones are the same cell.
///
/// ```text
///   update  (what is planned)        record -> memory    a disk that refuses refuses the change
///   observe (what has happened)      memory -> record    written in the background until it succeeds
///   show    (what needs no record)   memory
/// ```
///
/// Readers never wait for the disk. A change is a function from the present status to the next one; it may
/// refuse.
pub struct StatusCell<S>(Arc<Cell<S>>);

struct Cell<S> {
    visible: watch::Sender<Arc<S>>,
    writing: Mutex<Writing<S>>,
    write: Write<S>,
    /// Set while a background task is about to write the visible status.
    queued: AtomicBool,
    /// An observation is not on disk yet. A status that is only shown is for memory alone.
    observed: AtomicBool,
}

struct Writing<S> {
    /// The status in the record.
    written: Option<Arc<S>>,
    closed: bool,
}

impl<S> Clone for StatusCell<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: fmt::Debug> fmt::Debug for StatusCell<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusCell").field(&self.0.visible.borrow()).finish()
    }
}

impl<S: PartialEq + Send + Sync + 'static> StatusCell<S> {
    /// A cell that holds `status`; `write` replaces its record, and may block.
    #[must_use]
    pub fn new(status: S, write: impl Fn(&S) -> Result<(), RecordError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Cell {
            visible: watch::Sender::new(Arc::new(status)),
            writing: Mutex::new(Writing { written: None, closed: false }),
            write: Box::new(write),
            queued: AtomicBool::new(false),
            observed: AtomicBool::new(false),
        }))
    }

    /// The present status.
    #[must_use]
    pub fn get(&self) -> Arc<S> {
        self.0.visible.borrow().clone()
    }

    /// A receiver that sees the present status and the last of each series of changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<S>> {
        self.0.visible.subscribe()
    }

    /// Writes the record of the present status.
    ///
    /// # Errors
    /// The disk's error; the earlier record is still on disk.
    pub fn save(&self) -> Result<(), RecordError> {
        self.0.write_visible()
    }

    /// Makes a planned change: on disk first, visible after. Returns the status before and after. `change`
    /// runs again when an observation came between. Blocks.
    ///
    /// # Errors
    /// The refusal of `change`, or the disk's error; the status has not changed.
    pub fn update<R: fmt::Debug + fmt::Display>(
        &self,
        change: impl Fn(&S) -> Result<S, R>,
    ) -> Result<(Arc<S>, Arc<S>), StatusError<R>> {
        let mut writing = self.0.lock();
        let mut unpublished = false;
        loop {
            let before = self.get();
            let after = match change(&before) {
                Ok(after) => Arc::new(after),
                Err(refusal) => {
                    if unpublished {
                        self.0.put_back(&mut writing, before);
                    }
                    return Err(StatusError::Refused(refusal));
                }
            };
            if *after == *before {
                if unpublished {
                    self.0.put_back(&mut writing, before.clone());
                }
                return Ok((before, after));
            }
            if !writing.closed {
                (self.0.write)(&after).map_err(StatusError::Record)?;
                writing.written = Some(after.clone());
                // It follows from the observation.
                self.0.observed.store(false, Ordering::Release);
            }
            let published = self.0.visible.send_if_modified(|now| {
                let unchanged = Arc::ptr_eq(now, &before);
                if unchanged {
                    *now = after.clone();
                }
                unchanged
            });
            if published {
                return Ok((before, after));
            }
            unpublished = true;
        }
    }

    /// Notes an event: visible at once, and on disk some milliseconds later, or as soon as the disk accepts
    /// it. Returns the status before and after. Needs a tokio runtime.
    ///
    /// # Errors
    /// The refusal of `change`.
    pub fn observe<R>(&self, change: impl FnOnce(&S) -> Result<S, R>) -> Result<(Arc<S>, Arc<S>), R> {
        let (before, after) = self.show(change)?;
        if !Arc::ptr_eq(&before, &after) {
            self.0.observed.store(true, Ordering::Release);
            if !self.0.queued.swap(true, Ordering::AcqRel) {
                tokio::spawn(write_until_done(self.0.clone()));
            }
        }
        Ok((before, after))
    }

    /// Writes an observation that is not on disk yet, for a process that is about to end. Blocks, also until a
    /// write under way has ended.
    ///
    /// # Errors
    /// The disk's error; the observation is still in memory.
    pub fn flush(&self) -> Result<(), RecordError> {
        let mut writing = self.0.lock();
        if self.0.observed.load(Ordering::Acquire) { self.0.write_locked(&mut writing) } else { Ok(()) }
    }

    /// Changes the status in memory alone.
    ///
    /// # Errors
    /// The refusal of `change`.
    pub fn show<R>(&self, change: impl FnOnce(&S) -> Result<S, R>) -> Result<(Arc<S>, Arc<S>), R> {
        let mut result = None;
        self.0.visible.send_if_modified(|now| {
            let before = now.clone();
            match change(&before) {
                Ok(after) if after == *before => result = Some(Ok((before.clone(), before))),
                Ok(after) => {
                    *now = Arc::new(after);
                    result = Some(Ok((before, now.clone())));
                    return true;
                }
                Err(refusal) => result = Some(Err(refusal)),
            }
            false
        });
        result.unwrap_or_else(|| Ok((self.get(), self.get())))
    }

    /// Ends all writing, because the record is about to be removed. Blocks until a write under way has ended.
    pub fn close(&self) {
        self.0.lock().closed = true;
    }
}

impl<S> Cell<S> {
    fn lock(&self) -> MutexGuard<'_, Writing<S>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the visible status over a planned change that was dropped. If the disk fails, the next change
    /// tries again.
    fn put_back(&self, writing: &mut Writing<S>, status: Arc<S>) {
        if writing.closed {
            return;
        }
        writing.written = match (self.write)(&status) {
            Ok(()) => Some(status),
            Err(error) => {
                tracing::error!(%error, "the record has a change that was given up");
                None
            }
        };
    }

    fn write_visible(&self) -> Result<(), RecordError> {
        self.write_locked(&mut self.lock())
    }

    fn write_locked(&self, writing: &mut Writing<S>) -> Result<(), RecordError> {
        // Cleared before the status is read. What is shown after it is for memory alone.
        self.observed.store(false, Ordering::Release);
        let status = self.visible.borrow().clone();
        let is_written = writing.written.as_ref().is_some_and(|written| Arc::ptr_eq(written, &status));
        if !writing.closed && !is_written {
            (self.write)(&status).inspect_err(|_| self.observed.store(true, Ordering::Release))?;
            writing.written = Some(status);
        }
        Ok(())
    }
}

/// Writes the newest status. When the disk fails it tries again, after growing pauses, without end.
async fn write_until_done<S: Send + Sync + 'static>(cell: Arc<Cell<S>>) {
    let [mut pause, longest] = RETRY;
    tokio::time::sleep(DELAY).await;
    loop {
        let writer = cell.clone();
        let work = move || {
            // Cleared before the status is read: a change after that queues a task of its own.
            writer.queued.store(false, Ordering::Release);
            writer.write_visible()
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Err(error)) => {
                tracing::error!(%error, again_in = ?pause, "cannot write a status to disk; memory has it")
            }
            Ok(Ok(())) | Err(_) => return,
        }
        if cell.queued.swap(true, Ordering::AcqRel) {
            return; // another task writes it
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::record::{self, Durability, Record};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Sample(u32);

    #[derive(Debug, Serialize, Deserialize)]
    struct Kept {
        number: u32,
    }

    impl Record for Kept {
        const KIND: &'static str = "sample record";
    }

    fn cell(path: &Path) -> StatusCell<Sample> {
        let path = path.to_owned();
        StatusCell::new(Sample(0), move |sample| {
            record::write(&path, &Kept { number: sample.0 }, Durability::Process)
        })
    }

    fn on_disk(path: &Path) -> Option<u32> {
        record::read::<Kept>(path).ok().map(|kept| kept.number)
    }

    fn to(number: u32) -> impl Fn(&Sample) -> Result<Sample, &'static str> {
        move |now| if number > now.0 { Ok(Sample(number)) } else { Err("only upwards") }
    }

    #[tokio::test]
    async fn what_is_only_shown_after_an_observation_stays_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let cell = cell(&path);
        cell.observe(to(7)).unwrap();
        cell.flush().unwrap();
        cell.show(to(9)).unwrap();
        cell.flush().unwrap();
        assert_eq!(on_disk(&path), Some(7));
    }

    #[test]
    fn an_observation_is_written_when_the_process_ends_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cell = cell(&path);
        runtime.block_on(async { cell.observe(to(7)).map(drop).unwrap() });
        runtime.shutdown_background();
        assert_eq!(on_disk(&path), None);
        cell.flush().unwrap();
        assert_eq!(on_disk(&path), Some(7));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flush_waits_for_the_write_that_is_under_way() {
        let (began, begun) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Mutex::new(released);
        let on_disk = Arc::new(Mutex::new(0));
        let disk = on_disk.clone();
        let cell = StatusCell::new(Sample(0), move |sample| {
            began.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
            *disk.lock().unwrap() = sample.0;
            Ok(())
        });
        cell.observe(to(7)).unwrap();
        tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
        let flushed = tokio::task::spawn_blocking(move || {
            cell.flush().unwrap();
            *on_disk.lock().unwrap()
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!flushed.is_finished());
        release.send(()).unwrap();
        assert_eq!(flushed.await.unwrap(), 7);
    }

    #[test]
    fn a_plan_that_the_disk_refuses_is_never_seen() {
        let folder = tempfile::tempdir().unwrap();
        let cell = cell(&folder.path().join("missing").join("x.json"));
        assert!(matches!(cell.update(to(1)), Err(StatusError::Record(_))));
        assert_eq!(*cell.get(), Sample(0));
    }

    #[test]
    fn a_plan_is_on_disk_when_it_is_seen_and_a_refusal_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let cell = cell(&path);
        cell.update(to(2)).unwrap();
        assert_eq!((cell.get().0, on_disk(&path)), (2, Some(2)));
        assert!(matches!(cell.update(to(1)), Err(StatusError::Refused("only upwards"))));
        assert_eq!((cell.get().0, on_disk(&path)), (2, Some(2)));
    }

    #[tokio::test]
    async fn what_has_happened_is_seen_at_once_and_written_when_the_disk_works_again() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let path = missing.join("x.json");
        let cell = cell(&path);
        cell.observe(to(1)).unwrap();
        cell.observe(to(2)).unwrap();
        assert_eq!(cell.get().0, 2);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(on_disk(&path), None);
        std::fs::create_dir(&missing).unwrap();
        let written = async {
            while on_disk(&path) != Some(2) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), written).await.unwrap();
    }

    #[test]
    fn an_observation_during_a_plan_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let cell = cell(&path);
        let mut first = true;
        let observed = Mutex::new(&mut first);
        let planned = cell.update(|now| {
            if std::mem::take(&mut **observed.lock().unwrap()) {
                cell.show(to(5)).unwrap();
            }
            to(3)(now)
        });
        assert!(matches!(planned, Err(StatusError::Refused("only upwards"))));
        assert_eq!((cell.get().0, on_disk(&path)), (5, Some(5)), "the plan was written and given up");
    }

    #[tokio::test]
    async fn a_closed_cell_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let cell = cell(&path);
        cell.close();
        cell.observe(to(1)).unwrap();
        cell.update(to(2)).unwrap();
        cell.save().unwrap();
        assert_eq!((cell.get().0, on_disk(&path)), (2, None));
    }
}
