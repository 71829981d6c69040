//! `crisp info`: what the server says of itself.

use std::io::Write as _;
use std::process::ExitCode;

use crisp_proto::runtime::v1::{
    ContainerState, ListImagesRequest, PodSandboxState, RuntimeConfigRequest, StatusRequest, StatusResponse,
    VersionRequest, VersionResponse,
};
use serde_json::json;

use super::client::refused;
use super::names::Names;
use super::{Client, Format, json};

/// What the server says of itself
#[derive(Debug, clap::Args)]
pub struct Info {
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// All of it.
struct Facts {
    version: VersionResponse,
    status: StatusResponse,
    cgroup_driver: String,
    names: Names,
    images: usize,
}

impl Info {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let facts = ask(&mut client).await?;
        match self.output {
            Format::Json => print_json(&facts)?,
            Format::Table => print_text(&facts)?,
        }
        // So that a script can ask "is it able to run pods".
        let ready = facts.status.status.iter().flat_map(|s| &s.conditions).all(|c| c.status);
        Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn ask(client: &mut Client) -> anyhow::Result<Facts> {
    let config = client.runtime.runtime_config(RuntimeConfigRequest {}).await.map_err(refused)?.into_inner();
    let images = client.images.list_images(ListImagesRequest::default()).await.map_err(refused)?;
    Ok(Facts {
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

fn print_json(facts: &Facts) -> anyhow::Result<()> {
    let conditions = facts.status.status.iter().flat_map(|s| &s.conditions);
    json::print(&json!({
        "runtimeName": facts.version.runtime_name,
        "runtimeVersion": facts.version.runtime_version,
        "runtimeApiVersion": facts.version.runtime_api_version,
        "cgroupDriver": facts.cgroup_driver,
        "conditions": conditions.map(|c| json!({
            "type": c.r#type, "status": c.status, "reason": c.reason, "message": c.message,
        })).collect::<Vec<_>>(),
        "pods": facts.names.pods.len(),
        "containers": facts.names.containers.len(),
        "images": facts.images,
        "info": json::info(&facts.status.info),
    }))
}

fn print_text(facts: &Facts) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let version = &facts.version;
    writeln!(out, "runtime        {} {}", version.runtime_name, version.runtime_version)?;
    writeln!(out, "API            {}", version.runtime_api_version)?;
    writeln!(out, "cgroup driver  {}", facts.cgroup_driver)?;
    for condition in facts.status.status.iter().flat_map(|s| &s.conditions) {
        let state = if condition.status { "yes".to_owned() } else { format!("NO: {}", condition.message) };
        writeln!(out, "{:<14} {state}", condition.r#type)?;
    }
    let ready = facts.names.pods.iter().filter(|p| p.state() == PodSandboxState::SandboxReady).count();
    let running =
        facts.names.containers.iter().filter(|c| c.state() == ContainerState::ContainerRunning).count();
    writeln!(out, "pods           {} ({ready} ready)", facts.names.pods.len())?;
    writeln!(out, "containers     {} ({running} running)", facts.names.containers.len())?;
    writeln!(out, "images         {}", facts.images)?;
    for (key, value) in info_lines(&facts.status) {
        writeln!(out, "{key:<14} {value}")?;
    }
    Ok(())
}

/// Short facts of the free-form part; the long ones are for `-o json`.
fn info_lines(status: &StatusResponse) -> Vec<(String, String)> {
    let Some(info) = status.info.get("info") else { return Vec::new() };
    let Ok(serde_json::Value::Object(facts)) = serde_json::from_str(info) else { return Vec::new() };
    let wanted = [("cgroupMode", "cgroups"), ("root", "root"), ("apparmor", "AppArmor")];
    let text = |value: &serde_json::Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let line = |(key, name): &(&str, &str)| Some(((*name).to_owned(), text(facts.get(*key)?)));
    wanted.iter().filter_map(line).collect()
}
