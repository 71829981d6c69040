//! Threads beside the pool for blocking work.

use std::sync::{Arc, Mutex, PoisonError};

type Work = Box<dyn FnOnce() + Send>;

/// Runs `work` on a thread of its own, or on the pool while no thread can be made.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    let work: Arc<Mutex<Option<Work>>> = Arc::new(Mutex::new(Some(Box::new(work))));
    let same = work.clone();
    if std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&work)).is_err() {
        tokio::task::spawn_blocking(move || run(&same));
    }
}

fn run(work: &Mutex<Option<Work>>) {
    let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(work) = work {
        work();
    }
}
