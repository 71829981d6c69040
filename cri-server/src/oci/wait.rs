//! Waiting for a descriptor, for some time at most.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;

/// Whether `fd` is readable before `time` has passed. A signal does not end it: the kernel never restarts poll(2).
///
/// # Errors
/// As poll(2).
pub fn is_readable_within(fd: &impl AsFd, time: Duration) -> Result<bool, Errno> {
    // Without a deadline when it is later than the clock can count.
    let deadline = Instant::now().checked_add(time);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return ready.map(|count| count > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_at_the_deadline_or_with_news() {
        let (read, write) = std::io::pipe().unwrap();
        let started = Instant::now();
        assert_eq!(is_readable_within(&read, Duration::from_millis(30)), Ok(false));
        assert!(started.elapsed() >= Duration::from_millis(30));
        drop(write);
        assert_eq!(is_readable_within(&read, Duration::MAX), Ok(true));
    }
}
