//! What the store does behind its callers' backs: deleting what nobody wants, and making durable what
//! somebody just committed.
//!
//! Removal is a rename into a trash folder of the same file system, which takes microseconds and cannot
//! half happen; deleting the tree comes later. What a dead server leaves in the trash, the next one
//! deletes.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Works in order on one background thread, which exists only while there is work.
#[derive(Debug)]
pub(crate) struct Background {
    name: &'static str,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("waiting", &self.lock().jobs.len()).finish()
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: bool,
}

enum Job {
    Delete(PathBuf),
    Then(Box<dyn FnOnce() + Send>),
}

impl Background {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, shared: Arc::default() }
    }

    /// Deletes a folder soon.
    pub(crate) fn delete(&self, path: PathBuf) {
        self.push(Job::Delete(path));
    }

    /// Runs `work` soon, after what was given before.
    pub(crate) fn then(&self, work: impl FnOnce() + Send + 'static) {
        self.push(Job::Then(Box::new(work)));
    }

    fn push(&self, job: Job) {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(job);
        if queue.running {
            return;
        }
        let shared = Arc::clone(&self.shared);
        match thread::Builder::new().name(self.name.into()).spawn(move || shared.work()) {
            Ok(_) => queue.running = true,
            // Tried again with the next job, or at the next start.
            Err(e) => tracing::warn!(error = %e, "no thread for the image store's background work"),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let job = {
                let mut queue = self.lock();
                let Some(job) = queue.jobs.pop_front() else {
                    queue.running = false;
                    return;
                };
                job
            };
            match job {
                Job::Delete(path) => {
                    if let Err(e) = delete(&path) {
                        tracing::warn!(path = %path.display(), error = %e, "cannot delete; tried again at the next start");
                    }
                }
                Job::Then(work) => work(),
            }
        }
    }
}

/// Deletes a tree by descriptor, never following a link; something already gone is fine.
fn delete(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        done => done,
    }
}
