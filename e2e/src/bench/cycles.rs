//! Starts pods and takes them down: one after another, and many at a time.

use std::time::{Duration, Instant};

use super::series::{IDLE, Series};
use super::table::Row;
use super::{Effort, Target, cpu, memory};
use crate::{Client, Result};

/// Times up and down, one pod at a time; the targets take turns. `names` are those of the two rows.
///
/// # Errors
/// A runtime's error.
pub async fn cycles(
    targets: &[Target],
    series: &Series,
    effort: Effort,
    names: [&'static str; 2],
) -> Result<Vec<Row>> {
    let mut clients = Vec::new();
    for target in targets {
        clients.push((target, Client::connect(&target.socket).await?, Vec::new(), Vec::new()));
    }
    for round in 0..=effort.cycles {
        for (_, client, ups, downs) in &mut clients {
            let (up, up_time) = series.up(client, &format!("cycle-{round}"), IDLE).await?;
            let down_time = series.down(client, up).await?;
            // The first round warms up.
            if round > 0 {
                ups.push(up_time);
                downs.push(down_time);
            }
        }
    }
    let row = |(target, _, ups, downs): &(&Target, Client, Vec<Duration>, Vec<Duration>)| {
        [Row::times(&target.name, names[0], ups), Row::times(&target.name, names[1], downs)]
    };
    Ok(clients.iter().flat_map(row).collect())
}

/// Times from RunPodSandbox to the first byte in the container's log.
///
/// # Errors
/// The runtime's error, or no output within ten seconds.
pub async fn first_output(target: &Target, series: &Series, effort: Effort) -> Result<Row> {
    let mut client = Client::connect(&target.socket).await?;
    let mut times = Vec::new();
    for round in 0..effort.cycles {
        let name = format!("output-{}-{round}", target.name);
        let log = series.logs.join(&name).join("main.log");
        let start = Instant::now();
        let (up, _) = series.up(&mut client, &name, "echo up; exec sleep 3600").await?;
        while !std::fs::metadata(&log).is_ok_and(|m| m.len() > 0) {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("{}: no output after ten seconds", target.name).into());
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.push(start.elapsed());
        series.down(&mut client, up).await?;
    }
    Ok(Row::times(&target.name, "first output in the log", &times))
}

/// Names of the rows of one number of workers: cycles, CPU of the server's tree, CPU of all.
pub type Names = [&'static str; 3];

/// Measures full cycles per second with a number of workers, and the CPU time of a cycle.
///
/// # Errors
/// A runtime's error.
pub async fn throughput(
    target: &Target,
    series: &Series,
    total: usize,
    workers: usize,
    names: Names,
) -> Result<Vec<Row>> {
    let server = memory::server_of(&target.socket).ok_or("the server's process id is not known")?;
    let used = || Ok::<_, crate::Error>((cpu::of_tree(server)?, cpu::of_others()?));
    let before = used()?;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..workers {
        let (series, socket, share) = (series.clone(), target.socket.clone(), total / workers);
        tasks.spawn(async move {
            let mut client = Client::connect(&socket).await?;
            for round in 0..share {
                let (up, _) = series.up(&mut client, &format!("many-{worker}-{round}"), IDLE).await?;
                series.down(&mut client, up).await?;
            }
            Ok::<(), crate::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let passed = start.elapsed().as_secs_f64();
    // The work that a runtime does after its last response is part of the cost.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = used()?;
    let done = (total / workers * workers) as f64;
    Ok(vec![
        Row::new(&target.name, names[0], "1/s", vec![done / passed]),
        Row::new(&target.name, names[1], "ms", vec![(after.0 - before.0) / done]),
        Row::new(&target.name, names[2], "ms", vec![(after.1 - before.1) / done]),
    ])
}
