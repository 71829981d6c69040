//! Measures the resources that many lost streaming sessions leave in a server.

use std::time::{Duration, Instant};

use super::series::Series;
use super::streams::Streams;
use super::{Target, memory};
use crate::Result;

/// Sessions before the first count: the server makes some resources only once.
const WARM_UP: usize = 200;
/// More kilobytes than this are memory that sessions left behind.
const LEEWAY: f64 = 2048.0;
/// The time from SIGHUP to SIGKILL, and some more.
const END: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
struct Held {
    descriptors: usize,
    threads: usize,
    kilobytes: f64,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { descriptors, threads, kilobytes } = self;
        write!(f, "{descriptors} descriptors, {threads} threads, {kilobytes:.0} kB PSS")
    }
}

/// Prints what the server behind the socket holds before and after `rounds` lost sessions.
///
/// # Errors
/// When the server holds more descriptors, threads or memory than before.
pub async fn vanish(target: &Target, series: &Series, rounds: usize) -> Result<()> {
    let mut streams = Streams::start(target, series).await?;
    for _ in 0..WARM_UP {
        streams.vanish().await?;
    }
    let before = settled(target, None).await?;
    let begun = Instant::now();
    for _ in 0..rounds {
        streams.vanish().await?;
    }
    let passed = begun.elapsed();
    let after = settled(target, Some(before)).await?;
    streams.end(series).await?;
    println!("{}: {rounds} sessions in {passed:.1?}\nbefore: {before}\nafter:  {after}", target.name);
    let has_grown = after.kilobytes > before.kilobytes + LEEWAY;
    if after.descriptors > before.descriptors || after.threads > before.threads || has_grown {
        return Err(format!("{} holds more than before", target.name).into());
    }
    Ok(())
}

/// Waits until the server holds no more than `before`; without `before`, until the values do not change any
/// more.
async fn settled(target: &Target, before: Option<Held>) -> Result<Held> {
    let begun = Instant::now();
    let mut last = held(target)?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = held(target)?;
        let is_settled = match before {
            Some(before) => now.descriptors <= before.descriptors && now.threads <= before.threads,
            None => now.descriptors == last.descriptors && begun.elapsed() > Duration::from_secs(12),
        };
        if is_settled || begun.elapsed() > END {
            return Ok(now);
        }
        last = now;
    }
}

fn held(target: &Target) -> Result<Held> {
    let pid = memory::server_of(&target.socket).ok_or("there is no server")?;
    let entries = |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).map(Iterator::count);
    Ok(Held { descriptors: entries("fd")?, threads: entries("task")?, kilobytes: memory::pss(pid)? })
}
