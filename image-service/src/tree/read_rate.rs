//! Limits the speed of reading, so that the disk is free for others.

use std::time::{Duration, Instant};

/// Shorter pauses are postponed.
const SHORTEST: Duration = Duration::from_millis(20);

/// The speed at which a tree is read.
#[derive(Debug)]
pub struct ReadRate {
    bytes_per_second: Option<u64>,
    /// The earliest time for the bytes read so far. Time with less reading is not made up for.
    due: Instant,
}

impl ReadRate {
    /// As fast as possible.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { bytes_per_second: None, due: Instant::now() }
    }

    /// At most this fast.
    #[must_use]
    pub fn limited(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: Some(bytes_per_second.max(1)), due: Instant::now() }
    }

    /// Counts bytes, and pauses if they were read too fast. Blocks.
    pub(super) fn count(&mut self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let now = Instant::now();
        // Pieces are small: this cannot be more than a day.
        let time = Duration::from_secs_f64((bytes as f64 / rate as f64).min(86_400.0));
        self.due = self.due.max(now) + time;
        let early = self.due - now;
        if early >= SHORTEST {
            std::thread::park_timeout(early);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_too_fast_is_paused_for_and_idle_time_is_not_made_up_for() {
        let mut rate = ReadRate::limited(1 << 20);
        std::thread::sleep(Duration::from_millis(100));
        let started = Instant::now();
        (0..10).for_each(|_| rate.count(10 << 10));
        assert!(started.elapsed() >= Duration::from_millis(75), "{:?}", started.elapsed());
        let mut unlimited = ReadRate::unlimited();
        unlimited.count(u64::MAX);
        unlimited.count(u64::MAX);
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
