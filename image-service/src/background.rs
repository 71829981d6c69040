//! A queue of jobs that run one after the other on a background thread: deleting trees and syncing
//! images, which no request waits for.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crisp_operation::tree;

/// The queue. Its thread exists only while there are jobs.
pub(crate) struct Background {
    thread_name: &'static str,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: bool,
}

type Job = Box<dyn FnOnce() + Send>;

impl Background {
    pub(crate) fn new(thread_name: &'static str) -> Self {
        Self { thread_name, queue: Arc::default() }
    }

    /// Queues the deletion of a tree.
    pub(crate) fn delete(&self, path: PathBuf) {
        self.run(move || {
            if let Err(e) = tree::delete(&path) {
                tracing::warn!(path = %path.display(), error = %e, "cannot delete; the next start tries again");
            }
        });
    }

    /// Queues `job`.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = lock(&self.queue);
        queue.jobs.push_back(Box::new(job));
        if queue.running {
            return;
        }
        let shared = Arc::clone(&self.queue);
        match thread::Builder::new().name(self.thread_name.into()).spawn(move || work(&shared)) {
            Ok(_) => queue.running = true,
            // The next job, or the next start of the server, tries again.
            Err(e) => tracing::warn!(error = %e, "no thread for the image store's background work"),
        }
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("waiting", &lock(&self.queue).jobs.len()).finish_non_exhaustive()
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(queue: &Mutex<Queue>) {
    loop {
        let job = {
            let mut queue = lock(queue);
            let Some(job) = queue.jobs.pop_front() else {
                queue.running = false;
                return;
            };
            job
        };
        job();
    }
}
