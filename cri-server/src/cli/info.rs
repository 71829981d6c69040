//! `crisp info`: version, conditions and counts of a server.

use std::io::Write as _;
use std::process::ExitCode;

use crisp_proto::runtime::v1::{
    ContainerState, ListImagesRequest, PodSandboxState, RuntimeConfigRequest, StatusRequest, StatusResponse,
    VersionRequest, VersionResponse,
};
use serde_json::{Value, json};

use super::client::refused;
use super::listing::Format;
use super::names::Names;
use super::{Client, json};

/// Show version, conditions and counts of the server
#[derive(Debug, clap::Args)]
pub struct Info {
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// The output of the command.
struct RuntimeInfo {
    version: VersionResponse,
    status: StatusResponse,
    cgroup_driver: String,
    names: Names,
    images: usize,
}

impl Info {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let info = request_info(&mut client).await?;
        if !self.output.print(|| Ok(document(&info)))? {
            print_text(&info)?;
        }
        // A script can test whether the server is ready for pods.
        let ready = info.status.status.iter().flat_map(|s| &s.conditions).all(|c| c.status);
        Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// All of it, as a JSON document.
///
/// # Errors
/// The server's error.
pub async fn load(client: &mut Client) -> anyhow::Result<Value> {
    Ok(document(&request_info(client).await?))
}

async fn request_info(client: &mut Client) -> anyhow::Result<RuntimeInfo> {
    let config = client.runtime.runtime_config(RuntimeConfigRequest {}).await.map_err(refused)?.into_inner();
    let images = client.images.list_images(ListImagesRequest::default()).await.map_err(refused)?;
    Ok(RuntimeInfo {
        version: client
            .runtime
            .version(VersionRequest { version: "v1".to_owned() })
            .await
            .map_err(refused)?
            .into_inner(),
        status: client.runtime.status(StatusRequest { verbose: true }).await.map_err(refused)?.into_inner(),
        cgroup_driver: config
            .linux
            .map_or_else(String::new, |l| l.cgroup_driver().as_str_name().to_lowercase()),
        names: Names::load(client).await?,
        images: images.into_inner().images.len(),
    })
}

fn document(info: &RuntimeInfo) -> Value {
    let conditions = info.status.status.iter().flat_map(|s| &s.conditions);
    json!({
        "runtimeName": info.version.runtime_name,
        "runtimeVersion": info.version.runtime_version,
        "runtimeApiVersion": info.version.runtime_api_version,
        "cgroupDriver": info.cgroup_driver,
        "conditions": conditions.map(|c| json!({
            "type": c.r#type, "status": c.status, "reason": c.reason, "message": c.message,
        })).collect::<Vec<_>>(),
        "pods": info.names.pods.len(),
        "containers": info.names.containers.len(),
        "images": info.images,
        "info": json::info(&info.status.info),
    })
}

fn print_text(info: &RuntimeInfo) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let version = &info.version;
    writeln!(out, "runtime        {} {}", version.runtime_name, version.runtime_version)?;
    writeln!(out, "API            {}", version.runtime_api_version)?;
    writeln!(out, "cgroup driver  {}", info.cgroup_driver)?;
    for condition in info.status.status.iter().flat_map(|s| &s.conditions) {
        let state = if condition.status { "yes" } else { "NO" };
        let message = Some(&condition.message).filter(|message| !message.is_empty());
        let message = message.map_or_else(String::new, |message| format!(": {message}"));
        writeln!(out, "{:<14} {state}{message}", condition.r#type)?;
    }
    let ready = info.names.pods.iter().filter(|p| p.state() == PodSandboxState::SandboxReady).count();
    let running =
        info.names.containers.iter().filter(|c| c.state() == ContainerState::ContainerRunning).count();
    writeln!(out, "pods           {} ({ready} ready)", info.names.pods.len())?;
    writeln!(out, "containers     {} ({running} running)", info.names.containers.len())?;
    writeln!(out, "images         {}", info.images)?;
    for (key, value) in info_lines(&info.status) {
        writeln!(out, "{key:<14} {value}")?;
    }
    Ok(())
}

/// Short values of the free-form part; long ones are only in `-o json`.
fn info_lines(status: &StatusResponse) -> Vec<(String, String)> {
    let Some(info) = status.info.get("info") else { return Vec::new() };
    let Ok(Value::Object(info)) = serde_json::from_str(info) else { return Vec::new() };
    let wanted = [
        ("cgroupVersion", "cgroup version"),
        ("cgroupControllers", "controllers"),
        ("root", "root"),
        ("apparmor", "AppArmor"),
    ];
    let words = |list: &[Value]| list.iter().filter_map(|word| word.as_str()).collect::<Vec<_>>().join(" ");
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => words(list),
        other => other.to_string(),
    };
    let line = |(key, name): &(&str, &str)| Some(((*name).to_owned(), text(info.get(*key)?)));
    wanted.iter().filter_map(line).collect()
}
