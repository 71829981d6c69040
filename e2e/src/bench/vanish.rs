//! Measures the resources that many lost streaming sessions leave in a server and in the monitor of their pod.

use std::time::{Duration, Instant};

use super::series::Series;
use super::streams::Streams;
use super::{Target, memory};
use crate::{Result, leak};

/// Sessions before the first count: the server makes some resources only once.
const WARM_UP: usize = 200;
/// More kilobytes than these are memory that sessions left behind. Of all that is counted, nothing more may be left.
const SERVER_LEEWAY: f64 = 2048.0;
const MONITOR_LEEWAY: f64 = 256.0;
/// The time from SIGHUP to SIGKILL, and some more. Allocators give memory back some time after it is free.
const END: Duration = Duration::from_secs(30);

/// The resources of one process.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Process {
    descriptors: usize,
    threads: usize,
    kilobytes: f64,
}

/// The resources on both sides of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Held {
    server: Process,
    /// The sum over the monitors of the pod.
    monitors: Process,
    /// The monitors of the pod, and all processes below them.
    processes: usize,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { descriptors, threads, kilobytes } = self;
        write!(f, "{descriptors} descriptors, {threads} threads, {kilobytes:.0} kB of its own")
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, monitors, processes } = self;
        write!(f, "server {server}; monitor {monitors}, {processes} processes")
    }
}

/// Prints the resources of the server behind the socket, and of its monitor, before and after `rounds` lost sessions.
///
/// # Errors
/// When either holds more descriptors, threads, processes or memory than before.
pub async fn vanish(target: &Target, series: &Series, rounds: usize) -> Result<()> {
    let mut streams = Streams::start(target, series).await?;
    for _ in 0..WARM_UP {
        streams.vanish().await?;
    }
    let before = stable(target, streams.pod(), None).await?;
    let begun = Instant::now();
    for _ in 0..rounds {
        streams.vanish().await?;
    }
    let passed = begun.elapsed();
    let after = stable(target, streams.pod(), Some(before)).await?;
    streams.end(series).await?;
    println!("{}: {rounds} sessions in {passed:.1?}\nbefore: {before}\nafter:  {after}", target.name);
    let more = [counted(&before, &after), weighed(&before, &after)].concat();
    if more.is_empty() {
        return Ok(());
    }
    Err(format!("{} holds more than before: {}", target.name, more.join(", ")).into())
}

/// The resources that there are more of than before.
fn counted(before: &Held, after: &Held) -> Vec<String> {
    let pairs = [
        ("descriptors of the server", before.server.descriptors, after.server.descriptors),
        ("threads of the server", before.server.threads, after.server.threads),
        ("descriptors of the monitor", before.monitors.descriptors, after.monitors.descriptors),
        ("threads of the monitor", before.monitors.threads, after.monitors.threads),
        ("processes", before.processes, after.processes),
    ];
    let more = pairs.into_iter().filter(|(_, before, after)| after > before);
    more.map(|(what, before, after)| format!("{what}: {before} before, {after} after")).collect()
}

/// The processes whose memory has grown by more than a leeway. A size that could not be measured is more.
fn weighed(before: &Held, after: &Held) -> Vec<String> {
    let pairs = [
        ("server", before.server.kilobytes, after.server.kilobytes, SERVER_LEEWAY),
        ("monitor", before.monitors.kilobytes, after.monitors.kilobytes, MONITOR_LEEWAY),
    ];
    let is_kept = |before: f64, after: f64, leeway: f64| after <= before + leeway;
    let more = pairs.into_iter().filter(|(_, before, after, leeway)| !is_kept(*before, *after, *leeway));
    more.map(|(what, before, after, _)| format!("kB of the {what}: {before:.0} before, {after:.0} after"))
        .collect()
}

/// Waits until no more is held than `before`; without `before`, until the values do not change any more.
async fn stable(target: &Target, pod: &str, before: Option<Held>) -> Result<Held> {
    let begun = Instant::now();
    let mut last = held(target, pod)?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = held(target, pod)?;
        let is_stable = match before {
            Some(before) => counted(&before, &now).is_empty() && weighed(&before, &now).is_empty(),
            None => {
                counted(&last, &now).is_empty()
                    && counted(&now, &last).is_empty()
                    && begun.elapsed() > Duration::from_secs(12)
            }
        };
        if is_stable || begun.elapsed() > END {
            return Ok(now);
        }
        last = now;
    }
}

fn held(target: &Target, pod: &str) -> Result<Held> {
    let server = memory::server_of(&target.socket).ok_or("there is no server")?;
    let monitors: Vec<i32> = memory::processes(&memory::PER_POD)
        .into_iter()
        .filter(|pid| leak::command_line(*pid).contains(pod))
        .collect();
    if monitors.is_empty() {
        return Err(format!("pod {pod} has no monitor").into());
    }
    let mut sum = Process { descriptors: 0, threads: 0, kilobytes: 0.0 };
    for process in monitors.iter().map(|pid| Process::of(*pid)) {
        let Process { descriptors, threads, kilobytes } = process?;
        sum.descriptors += descriptors;
        sum.threads += threads;
        sum.kilobytes += kilobytes;
    }
    let processes = monitors.into_iter().map(|pid| leak::tree(pid).len()).sum();
    Ok(Held { server: Process::of(server)?, monitors: sum, processes })
}

impl Process {
    fn of(pid: i32) -> Result<Self> {
        let entries = |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).map(Iterator::count);
        Ok(Self {
            descriptors: entries("fd")?,
            threads: entries("task")?,
            kilobytes: memory::anonymous(pid)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: Process = Process { descriptors: 10, threads: 3, kilobytes: 1000.0 };
    const HELD: Held = Held { server: PROCESS, monitors: PROCESS, processes: 2 };

    #[test]
    fn one_more_of_anything_is_named_and_memory_has_a_leeway() {
        let more = |change: fn(&mut Held)| {
            let mut after = HELD;
            change(&mut after);
            [counted(&HELD, &after), weighed(&HELD, &after)].concat().join(", ")
        };
        assert_eq!(more(|_| {}), "");
        assert_eq!(
            more(|held| held.server.descriptors += 1),
            "descriptors of the server: 10 before, 11 after"
        );
        assert_eq!(more(|held| held.server.threads += 1), "threads of the server: 3 before, 4 after");
        assert_eq!(
            more(|held| held.monitors.descriptors += 1),
            "descriptors of the monitor: 10 before, 11 after"
        );
        assert_eq!(more(|held| held.processes += 1), "processes: 2 before, 3 after");
        assert_eq!(more(|held| held.server.kilobytes += 2048.0), "");
        assert_eq!(more(|held| held.server.kilobytes += 2049.0), "kB of the server: 1000 before, 3049 after");
        assert_eq!(
            more(|held| held.monitors.kilobytes = f64::NAN),
            "kB of the monitor: 1000 before, NaN after"
        );
    }
}
