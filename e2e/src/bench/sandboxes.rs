//! Pods without containers: their start, many of them on one bridge, and many made and removed at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_cri::v1::{PodSandboxStatusRequest, RemovePodSandboxRequest, StopPodSandboxRequest};

use super::series::{Series, Stopwatch};
use super::table::Row;
use super::{Effort, Target};
use crate::{Client, Result};

/// A sandbox that runs.
#[derive(Debug)]
pub struct Sandbox {
    pub pod: String,
    pub ip: String,
    /// The path of its network namespace.
    pub namespace: String,
}

/// Starts a sandbox; returns the time of RunPodSandbox.
///
/// # Errors
/// The runtime's error.
pub async fn up(client: &mut Client, series: &Series, name: &str) -> Result<(String, Duration)> {
    let sandbox = series.sandbox(name);
    std::fs::create_dir_all(&sandbox.log_directory)?;
    let mut watch = Stopwatch::new(series.pause);
    let pod = watch.time(client.run_pod(&sandbox)).await?;
    Ok((pod, watch.total))
}

/// Stops and removes it.
///
/// # Errors
/// The runtime's error.
pub async fn down(client: &mut Client, pod_sandbox_id: String) -> Result<()> {
    let runtime = &mut client.runtime;
    runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await?;
    runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
    Ok(())
}

/// Looks up the address and the namespace of a sandbox.
///
/// # Errors
/// The runtime's error, or its response lacks one of them.
pub async fn look_up(client: &mut Client, pod: String) -> Result<Sandbox> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
    let response = client.runtime.pod_sandbox_status(request).await?.into_inner();
    let ip = response.status.and_then(|status| status.network).ok_or("the pod has no network")?.ip;
    let info: serde_json::Value = serde_json::from_str(response.info.get("info").ok_or("no info")?)?;
    let namespace = info["networkNamespace"].as_str().ok_or("no network namespace in the info")?.to_owned();
    Ok(Sandbox { pod, ip, namespace })
}

/// Times RunPodSandbox alone, with the pauses of the series.
///
/// # Errors
/// The runtime's error.
pub async fn starts(target: &Target, series: &Series, effort: Effort, name: &'static str) -> Result<Row> {
    let mut client = Client::connect(&target.socket).await?;
    let mut times = Vec::new();
    for round in 0..=effort.cycles {
        let (pod, time) = up(&mut client, series, &format!("sandbox-{round}")).await?;
        down(&mut client, pod).await?;
        // The first round warms up.
        if round > 0 {
            times.push(time);
        }
    }
    Ok(Row::times(&target.name, name, &times))
}

/// Starts many pods that stay until all are there, each with an address of its own.
///
/// # Errors
/// The runtime's error, or two pods have one address.
pub async fn many(target: &Target, series: &Series, count: usize) -> Result<Row> {
    let mut client = Client::connect(&target.socket).await?;
    let (mut times, mut pods, mut addresses) = (Vec::new(), Vec::new(), BTreeSet::new());
    for number in 0..count {
        let (pod, time) = up(&mut client, series, &format!("one-of-many-{number}")).await?;
        let sandbox = look_up(&mut client, pod).await?;
        if !addresses.insert(sandbox.ip.clone()) {
            return Err(format!("{} is the address of two pods", sandbox.ip).into());
        }
        times.push(time);
        pods.push(sandbox.pod);
    }
    for pod in pods {
        down(&mut client, pod).await?;
    }
    // The last ones: with all the others beside them.
    let last = times.split_off(count - count / 5);
    Ok(Row::times(&target.name, "RunPodSandbox, the last fifth of many pods on one bridge", &last))
}

/// Makes and removes pods with eight workers. What they leave is found when the machine is closed.
///
/// # Errors
/// The runtime's error.
pub async fn churn(target: &Target, series: &Series, total: usize) -> Result<Row> {
    const WORKERS: usize = 8;
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (series, socket) = (series.clone(), target.socket.clone());
        tasks.spawn(async move {
            let mut client = Client::connect(&socket).await?;
            for round in 0..total / WORKERS {
                let (pod, _) = up(&mut client, &series, &format!("churn-{worker}-{round}")).await?;
                down(&mut client, pod).await?;
            }
            Ok::<(), crate::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let done = (total / WORKERS * WORKERS) as f64;
    let rate = done / begun.elapsed().as_secs_f64();
    Ok(Row::new(&target.name, "pods without containers made and removed, 8 workers", "1/s", vec![rate]))
}
