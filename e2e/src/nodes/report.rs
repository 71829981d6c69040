//! The lines that say what was tested, with their times.

use std::time::{Duration, Instant};

use crate::Result;

pub(super) struct Report {
    start: Instant,
    last: Instant,
}

impl Report {
    pub(super) fn start() -> Self {
        println!("  total   step");
        Self { start: Instant::now(), last: Instant::now() }
    }

    /// Prints what is true now, and how long it took since the line before.
    pub(super) fn line(&mut self, text: &str) {
        let (total, step) = (self.start.elapsed().as_secs_f64(), self.last.elapsed().as_secs_f64());
        println!("{total:6.1}s {step:5.1}s  {text}");
        self.last = Instant::now();
    }
}

/// Waits until `probe` returns a value; its errors are the reasons why there is none yet.
pub(super) fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("not within {limit:?}: {what}: {error}").into());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
