//! Processes, their threads and descriptors.

use std::mem::MaybeUninit;

use crisp_executor::cgroup::PidsStats;
use crisp_executor::open_files;
use crisp_operation::clock;
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::family::Kind::Gauge;
use super::family::{Family, Samples, Value};

const PROCESSES: Family =
    Family { name: "container_processes", help: "Processes.", kind: Gauge, labels: &[] };
const THREADS: Family = Family { name: "container_threads", help: "Threads.", kind: Gauge, labels: &[] };
const THREADS_MAX: Family = Family {
    name: "container_threads_max",
    help: "Limit of processes and threads; 0 for none.",
    kind: Gauge,
    labels: &[],
};
const DESCRIPTORS: Family =
    Family { name: "container_file_descriptors", help: "Open file descriptors.", kind: Gauge, labels: &[] };
const SOCKETS: Family = Family { name: "container_sockets", help: "Open sockets.", kind: Gauge, labels: &[] };
const ULIMITS: Family = Family {
    name: "container_ulimits_soft",
    help: "Soft limits of the first process; -1 for none.",
    kind: Gauge,
    labels: &["ulimit"],
};
const STARTED: Family = Family {
    name: "container_start_time_seconds",
    help: "When it was started, in seconds since 1970.",
    kind: Gauge,
    labels: &[],
};
const SEEN: Family = Family {
    name: "container_last_seen",
    help: "When it was last seen, in seconds since 1970.",
    kind: Gauge,
    labels: &[],
};

pub(super) const FAMILIES: &[Family] =
    &[PROCESSES, THREADS, THREADS_MAX, DESCRIPTORS, SOCKETS, ULIMITS, STARTED, SEEN];

/// Limits for the examined processes and descriptors of one container, and for descriptors in one scrape.
/// Containers with more have no sample for sockets.
const PROCESSES_MAX: usize = 256;
const DESCRIPTORS_MAX: u64 = 4096;
pub(super) const SCRAPE_MAX: u64 = 50_000;

/// Counts of one container's processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ProcessUsage {
    pub processes: u64,
    /// None when there are too many to examine.
    pub descriptors: Option<u64>,
    pub sockets: Option<u64>,
    /// The descriptor limit of the first process, -1 for none. None if it is gone.
    pub max_open_files: Option<i64>,
}

impl ProcessUsage {
    /// Examines `pids`; those that have ended meanwhile count as empty. `first` is the container's first
    /// process, `left` the rest of [`SCRAPE_MAX`].
    pub(super) fn of(pids: &[i32], first: Option<i32>, left: &mut u64) -> Self {
        let (mut descriptors, mut sockets) = (Some(0), Some(0));
        let mut budget = DESCRIPTORS_MAX.min(*left);
        let begun = budget;
        for (number, pid) in pids.iter().enumerate() {
            if number == PROCESSES_MAX {
                (descriptors, sockets) = (None, None);
                break;
            }
            let (of_process, of_sockets) = files(*pid, &mut budget);
            descriptors = descriptors.zip(of_process).map(|(all, one)| all + one);
            sockets = sockets.zip(of_sockets).map(|(all, one)| all + one);
        }
        *left -= begun - budget;
        let max_open_files = first.and_then(max_open_files);
        Self { processes: pids.len() as u64, descriptors, sockets, max_open_files }
    }
}

/// Open descriptors and sockets of a process. None when there are more than `left`.
fn files(pid: i32, left: &mut u64) -> (Option<u64>, Option<u64>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()) else {
        return (Some(0), Some(0));
    };
    // Since Linux 6.2 this is the number of descriptors. Listing costs the kernel half a microsecond for
    // each.
    let size = rustix::fs::fstat(&folder).map_or(0, |stat| stat.st_size).unsigned_abs();
    if size > *left {
        return (Some(size), None);
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&folder, &mut buffer);
    let (mut descriptors, mut sockets) = (0, 0);
    while let Some(Ok(entry)) = entries.next() {
        if entry.file_name().to_bytes().starts_with(b".") {
            continue;
        }
        if *left == 0 {
            return (None, None);
        }
        *left -= 1;
        descriptors += 1;
        // The kernel cuts the target off.
        let mut target = [0; SOCKET.len()];
        let length = rustix::fs::readlinkat_raw(&folder, entry.file_name(), &mut target);
        sockets += u64::from(length == Ok(SOCKET.len()) && target == SOCKET);
        // Without this, another call would tell that these were all.
        if descriptors == size {
            break;
        }
    }
    (Some(descriptors), Some(sockets))
}

/// How the targets of sockets begin.
const SOCKET: [u8; 7] = *b"socket:";

/// The soft limit, -1 for none.
fn max_open_files(pid: i32) -> Option<i64> {
    match open_files::soft_limit(pid) {
        Ok(limit) => Some(limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX))),
        Err(Errno::SRCH) => None,
        // Refused by capabilities, or by a security module.
        Err(_) => max_open_files_in_text(pid),
    }
}

/// From `Max open files  1024  524288  files`, which everybody may read.
fn max_open_files_in_text(pid: i32) -> Option<i64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(-1),
        number => number.parse().ok(),
    }
}

pub(super) fn usage(pids: Option<&PidsStats>, processes: Option<&ProcessUsage>, samples: &mut impl Samples) {
    if let Some(pids) = pids {
        samples.add(&THREADS, &[], Value::Count(pids.current));
        samples.add(&THREADS_MAX, &[], Value::Count(pids.limit.unwrap_or(0)));
    }
    let Some(ProcessUsage { processes, descriptors, sockets, max_open_files }) = processes else { return };
    samples.add(&PROCESSES, &[], Value::Count(*processes));
    for (family, count) in [(&DESCRIPTORS, descriptors), (&SOCKETS, sockets)] {
        count.iter().for_each(|count| samples.add(family, &[], Value::Count(*count)));
    }
    if let Some(limit) = max_open_files {
        samples.add(&ULIMITS, &["max_open_files"], Value::Signed(*limit));
    }
}

/// `started_at`: nanoseconds since 1970.
pub(super) fn start_time(started_at: i64, samples: &mut impl Samples) {
    let seconds = |nanoseconds: i64| Value::Signed(nanoseconds / 1_000_000_000);
    samples.add(&STARTED, &[], seconds(started_at));
    samples.add(&SEEN, &[], seconds(clock::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_has_is_counted() {
        let own = std::process::id() as i32;
        let kept =
            (std::os::unix::net::UnixStream::pair().unwrap(), std::fs::File::open("/dev/null").unwrap());
        let mut left = SCRAPE_MAX;
        let usage = ProcessUsage::of(&[own], Some(own), &mut left);
        assert_eq!(usage.processes, 1);
        // Other tests run beside this one.
        let (descriptors, sockets) = (usage.descriptors.unwrap(), usage.sockets.unwrap());
        assert!(sockets >= 2 && descriptors >= 3 && SCRAPE_MAX - left == descriptors, "{usage:?}");
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(usage.max_open_files, Some(limit.map_or(-1, |limit| limit as i64)));
        assert_eq!(usage.max_open_files, max_open_files_in_text(own));
        drop(kept);
        let gone = ProcessUsage::of(&[i32::MAX], Some(i32::MAX), &mut left);
        assert_eq!((gone.processes, gone.descriptors, gone.max_open_files), (1, Some(0), None));
    }

    #[test]
    fn many_descriptors_are_not_listed() {
        let (own, mut left) = (std::process::id() as i32, 2);
        let begun = std::fs::File::open("/dev/null").unwrap();
        let files: Vec<_> = (0..100).map(|_| begun.try_clone().unwrap()).collect();
        let usage = ProcessUsage::of(&[own, own], None, &mut left);
        assert_eq!((usage.sockets, left <= 2), (None, true));
        drop(files);
        let many = ProcessUsage::of(&[i32::MAX; PROCESSES_MAX + 1], None, &mut left);
        assert_eq!((many.processes, many.descriptors), (PROCESSES_MAX as u64 + 1, None));
    }
}
