//! Reads the arguments of processes.

use std::fs;
use std::io::Read as _;

/// The beginning of a process's arguments, each with a zero byte behind it. A process can make them as long as it
/// likes, with memory that it does not even have. Empty when it has ended.
#[must_use]
pub fn first_arguments(pid: i32, limit: u64) -> Vec<u8> {
    let mut start = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/cmdline"));
    match file.and_then(|file| file.take(limit).read_to_end(&mut start)) {
        Ok(_) => start,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_without_end_are_cut() {
        let own = std::process::id().try_into().unwrap();
        assert_eq!(first_arguments(own, 4).len(), 4);
        assert!(first_arguments(own, u64::MAX).ends_with(b"\0"));
        assert!(first_arguments(i32::MAX, 4).is_empty());
    }
}
