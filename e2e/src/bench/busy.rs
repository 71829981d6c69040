//! Lists and statuses on a node with many containers, while others are created.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use k8s_cri::v1::{ContainerStatusRequest, ListContainersRequest, RemoveContainerRequest};

use super::series::{IDLE, Series, Stopwatch};
use super::table::Row;
use super::{Effort, Target, sandboxes};
use crate::{Client, Result};

/// Containers of one pod, which only exist.
const OF_POD: usize = 50;
/// Creates that are under way at any moment.
const CREATES: usize = 50;

/// Creates the containers, then measures lists and statuses twice: alone, and beside the creates.
///
/// # Errors
/// A runtime's error.
pub async fn busy(target: &Target, series: &Series, effort: Effort) -> Result<Vec<Row>> {
    let mut client = Client::connect(&target.socket).await?;
    let mut pods = Vec::new();
    let mut container = String::new();
    for number in 0..effort.created / OF_POD {
        let sandbox = series.sandbox(&format!("busy-{number}"));
        std::fs::create_dir_all(&sandbox.log_directory)?;
        let pod = client.run_pod(&sandbox).await?;
        for number in 0..OF_POD {
            let mut config = series.container(IDLE);
            config.metadata.get_or_insert_default().name = format!("c{number}");
            container = client.create(&pod, &config, &sandbox).await?;
        }
        pods.push(pod);
    }
    let names = ["ListContainers, many containers, alone", "ContainerStatus, many containers, alone"];
    let mut rows = measure(&mut client, target, &container, effort, names).await?;
    let load = Load::start(target.socket.clone(), series.clone());
    let names =
        ["ListContainers, many containers, 50 creates", "ContainerStatus, many containers, 50 creates"];
    let measured = measure(&mut client, target, &container, effort, names).await;
    let made = load.end()?;
    rows.extend(measured?);
    rows.push(Row::new(&target.name, "containers created meanwhile", "", vec![made as f64]));
    for pod in pods {
        sandboxes::down(&mut client, pod).await?;
    }
    Ok(rows)
}

async fn measure(
    client: &mut Client,
    target: &Target,
    container_id: &str,
    effort: Effort,
    names: [&'static str; 2],
) -> Result<Vec<Row>> {
    let (mut lists, mut statuses) = (Vec::new(), Vec::new());
    for _ in 0..effort.execs * 5 {
        let pause = Duration::from_millis(5);
        let (mut list, mut status) = (Stopwatch::new(pause), Stopwatch::new(pause));
        list.time(client.runtime.list_containers(ListContainersRequest::default())).await?;
        let request = ContainerStatusRequest { container_id: container_id.to_owned(), verbose: false };
        status.time(client.runtime.container_status(request)).await?;
        lists.push(list.total);
        statuses.push(status.total);
    }
    Ok(vec![Row::times(&target.name, names[0], &lists), Row::times(&target.name, names[1], &statuses)])
}

/// Creates and removes containers, on a thread of its own: its work must not delay the measured client's.
struct Load {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Load {
    fn start(socket: PathBuf, series: Series) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ends);
        let work = move || -> Result<usize> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(create(&socket, &series, &flag))
        };
        Self { ends, thread: std::thread::spawn(work) }
    }

    /// The number of containers that were created.
    fn end(self) -> Result<usize> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the thread that creates containers has panicked")?
    }
}

async fn create(socket: &std::path::Path, series: &Series, ends: &AtomicBool) -> Result<usize> {
    let mut client = Client::connect(socket).await?;
    let sandbox = series.sandbox("busy-load");
    std::fs::create_dir_all(&sandbox.log_directory)?;
    let pod = client.run_pod(&sandbox).await?;
    let worker = |worker: usize| {
        let (mut client, pod, sandbox, series) = (client.clone(), &pod, &sandbox, series);
        async move {
            let mut made = 0;
            while !ends.load(Ordering::Relaxed) {
                let mut config = series.container(IDLE);
                config.metadata.get_or_insert_default().name = format!("load-{worker}");
                let container_id = client.create(pod, &config, sandbox).await?;
                client.runtime.remove_container(RemoveContainerRequest { container_id }).await?;
                made += 1;
            }
            Ok::<usize, crate::Error>(made)
        }
    };
    let made: Vec<usize> = futures_util::future::try_join_all((0..CREATES).map(worker)).await?;
    sandboxes::down(&mut client, pod).await?;
    Ok(made.into_iter().sum())
}
