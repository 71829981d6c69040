//! The files of the archive.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use crisp_proto::runtime::v1::{
    ContainerStatusRequest, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use super::archive::Archive;
use super::redact::{redact, redact_text};
use super::server_log;
use crate::cli::client::refused;
use crate::cli::doctor::Report;
use crate::cli::journal;
use crate::cli::{Client, endpoint, info, json as message, stuck};
use crate::config::{Settings, print};

/// Time limit for one member.
const PATIENCE: Duration = Duration::from_secs(30);
/// Facts about the kernel and its state; nothing about processes.
const KERNEL: [&str; 9] = [
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/filesystems",
    "/proc/cgroups",
    "/proc/modules",
    "/proc/pressure/memory",
    "/proc/self/mountinfo",
];

/// One file of the archive.
pub struct Member {
    pub name: String,
    pub text: String,
}

impl Member {
    fn text(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: redact_text(text).into_owned() }
    }

    /// A member that cannot be collected contains the error.
    fn document(name: &str, document: anyhow::Result<Value>) -> Self {
        match document {
            Ok(mut value) => {
                redact(&mut value);
                Self { name: format!("{name}.json"), text: format!("{value:#}\n") }
            }
            Err(error) => Self::text(&format!("{name}.error.txt"), &format!("{error:#}\n")),
        }
    }
}

/// Adds all members that are available to the archive, each as soon as it is there.
///
/// # Errors
/// The archive cannot be written.
pub async fn collect(settings: &Settings, archive: &mut Archive) -> anyhow::Result<()> {
    let mut add = |member: Member| archive.add(&member.name, member.text.as_bytes());
    let version = format!("crisp {}\n", env!("CARGO_PKG_VERSION"));
    add(Member::text("version.txt", &version))?;
    add(Member::text("config.toml", &print(settings)))?;
    add(Member::text("kernel.txt", &kernel()))?;
    let report = tokio::time::timeout(PATIENCE, doctor(settings)).await;
    let report = report.unwrap_or_else(|_| Err(timed_out()));
    add(Member::document("doctor", report))?;
    let client = async { Client::connect(&endpoint::choose(settings)?).await };
    match client.await {
        Ok(client) => of_server(client, &mut add).await?,
        Err(error) => add(Member::text("server.error.txt", &format!("{error:#}\n")))?,
    }
    if let Some(address) = settings.metrics_listen.value {
        match metrics(settings, address).await {
            Ok(page) => add(Member::text("metrics.txt", &page))?,
            Err(error) => add(Member::text("metrics.error.txt", &format!("{error:#}\n")))?,
        }
    }
    match in_time(PATIENCE, server_log::end_of_log).await {
        Ok(Some(log)) => add(Member::text("server.log", &log)),
        Ok(None) => Ok(()),
        Err(error) => add(Member::text("server.log.error.txt", &format!("{error:#}\n"))),
    }
}

/// Runs blocking work, which is abandoned after the deadline.
async fn in_time<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(deadline, tokio::task::spawn_blocking(work)).await;
    Ok(done.map_err(|_| timed_out())??)
}

fn timed_out() -> anyhow::Error {
    anyhow::anyhow!("no answer in time")
}

async fn doctor(settings: &Settings) -> anyhow::Result<Value> {
    Report::make(settings, false).await?.document()
}

async fn of_server(client: Client, add: &mut impl FnMut(Member) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (mut one, mut two, mut three, mut four) =
        (client.clone(), client.clone(), client.clone(), client.clone());
    let mut six = client.clone();
    let documents = [
        ("info", Box::pin(async { info::load(&mut one).await }) as Document<'_>),
        ("pods", Box::pin(pods(&mut two))),
        ("containers", Box::pin(containers(&mut three))),
        ("images", Box::pin(images(&mut four))),
        ("operations", Box::pin(operations(client))),
        ("journal", Box::pin(events(&mut six))),
    ];
    for (name, document) in documents {
        let document = tokio::time::timeout(PATIENCE, document).await;
        add(Member::document(name, document.unwrap_or_else(|_| Err(timed_out()))))?;
    }
    Ok(())
}

type Document<'a> = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<Value>> + 'a>>;

async fn pods(client: &mut Client) -> anyhow::Result<Value> {
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.map_err(refused)?;
    message::list(&pods.into_inner().items)
}

/// The statuses of containers without the free-form part, which has the environment.
async fn containers(client: &mut Client) -> anyhow::Result<Value> {
    let list = client.runtime.list_containers(ListContainersRequest::default()).await.map_err(refused)?;
    let mut statuses = Vec::new();
    for container in list.into_inner().containers {
        let request = ContainerStatusRequest { container_id: container.id, verbose: false };
        let status = match client.runtime.container_status(request).await {
            Ok(status) => status,
            // It was removed since it was listed.
            Err(status) if status.code() == Code::NotFound => continue,
            Err(status) => return Err(refused(status)),
        };
        statuses.extend(status.into_inner().status.map(|status| message::message(&status)).transpose()?);
    }
    Ok(Value::Array(statuses))
}

async fn images(client: &mut Client) -> anyhow::Result<Value> {
    let images = client.images.list_images(ListImagesRequest::default()).await.map_err(refused)?;
    message::list(&images.into_inner().images)
}

async fn operations(mut client: Client) -> anyhow::Result<Value> {
    message::list(&stuck::load(&mut client, Duration::ZERO).await?)
}

async fn events(client: &mut Client) -> anyhow::Result<Value> {
    message::list(&journal::of_server(client, 0, 0).await?)
}

async fn metrics(settings: &Settings, address: SocketAddr) -> anyhow::Result<String> {
    if settings.metrics_cert.value.is_some() {
        anyhow::bail!("the page is served over TLS: curl --cacert CERTIFICATE https://{address}/metrics");
    }
    let path = settings.metrics_token_file.value.clone();
    let read = move || path.map(std::fs::read_to_string).transpose();
    let token = in_time(PATIENCE, read).await?.context("metrics-token-file")?;
    let token = token.map_or(String::new(), |token| format!("Authorization: Bearer {}\r\n", token.trim()));
    let page = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET /metrics HTTP/1.0\r\nHost: localhost\r\n{token}\r\n").as_bytes())
            .await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&response).into_owned())
    };
    let response = tokio::time::timeout(PATIENCE, page).await.map_err(|_| timed_out())??;
    let (head, page) = response.split_once("\r\n\r\n").context("the page is no HTTP response")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.contains(" 200 "), "the page answers {status}");
    Ok(page.to_owned())
}

fn kernel() -> String {
    let section = |path: &&str| {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| format!("{error}\n"));
        format!("== {path}\n{text}\n")
    };
    KERNEL.iter().map(section).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_hangs_costs_its_deadline() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (keep, hang) = std::sync::mpsc::channel::<()>();
        let work = in_time(Duration::from_millis(50), move || hang.recv());
        let error = runtime.block_on(work).unwrap_err();
        assert_eq!(error.to_string(), "no answer in time");
        runtime.shutdown_background();
        drop(keep);
    }
}
