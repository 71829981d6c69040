//! The files of the archive.

use std::net::SocketAddr;
use std::time::Duration;

use crisp_proto::runtime::v1::{
    ContainerStatusRequest, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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

/// Collects all members that are available.
pub async fn collect(settings: &Settings) -> Vec<Member> {
    let version = format!("crisp {}\n", env!("CARGO_PKG_VERSION"));
    let mut members = vec![
        Member::text("version.txt", &version),
        Member::text("config.toml", &print(settings)),
        Member::text("kernel.txt", &kernel()),
    ];
    let report = tokio::time::timeout(PATIENCE, doctor(settings)).await;
    let report = report.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
    members.push(Member::document("doctor", report));
    let client = match endpoint::choose(settings) {
        Ok(address) => Client::connect(&address).await,
        Err(error) => Err(error),
    };
    match client {
        Ok(client) => members.extend(of_server(client).await),
        Err(error) => members.push(Member::text("server.error.txt", &format!("{error:#}\n"))),
    }
    if let Some(address) = settings.metrics_listen.value {
        members.extend(metrics(address).await.map(|page| Member::text("metrics.txt", &page)));
    }
    members.extend(server_log::end_of_log().map(|log| Member::text("server.log", &log)));
    members
}

async fn doctor(settings: &Settings) -> anyhow::Result<Value> {
    Report::make(settings, false).await?.document()
}

async fn of_server(client: Client) -> Vec<Member> {
    let within = |name, document| async move {
        let document = tokio::time::timeout(PATIENCE, document).await;
        Member::document(name, document.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))))
    };
    let (mut one, mut two, mut three, mut four) =
        (client.clone(), client.clone(), client.clone(), client.clone());
    let mut six = client.clone();
    vec![
        within("info", Box::pin(async { info::load(&mut one).await }) as Document<'_>).await,
        within("pods", Box::pin(pods(&mut two))).await,
        within("containers", Box::pin(containers(&mut three))).await,
        within("images", Box::pin(images(&mut four))).await,
        within("operations", Box::pin(operations(client))).await,
        within("journal", Box::pin(events(&mut six))).await,
    ]
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
        // It may have been removed since it was listed.
        let Ok(status) = client.runtime.container_status(request).await else { continue };
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

/// Returns None when no metrics page is served there.
async fn metrics(address: SocketAddr) -> Option<String> {
    let page = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&response).into_owned())
    };
    let response = tokio::time::timeout(PATIENCE, page).await.ok()?.ok()?;
    Some(response.split_once("\r\n\r\n")?.1.to_owned())
}

fn kernel() -> String {
    let section = |path: &&str| {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| format!("{error}\n"));
        format!("== {path}\n{text}\n")
    };
    KERNEL.iter().map(section).collect()
}
