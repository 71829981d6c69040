//! `crisp pods`.

use std::io::Write as _;
use std::process::ExitCode;

use crisp_operation::clock;
use crisp_proto::runtime::v1::{
    ListPodSandboxRequest, PodSandbox, PodSandboxState, PodSandboxStatus, PodSandboxStatusRequest,
};
use serde_json::{Value, json};

use super::client::refused;
use super::listing::Format;
use super::{Client, json};
use crate::table::{Table, short};
use crate::time::ago;

/// List pods
#[derive(Debug, clap::Args)]
pub struct Pods {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Pods {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let request = ListPodSandboxRequest::default();
        let mut pods = client.runtime.list_pod_sandbox(request).await.map_err(refused)?.into_inner().items;
        pods.sort_by_key(|p| std::cmp::Reverse(p.created_at));
        if self.quiet {
            pods.iter().try_for_each(|p| writeln!(std::io::stdout(), "{}", p.id))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = Vec::new();
        for pod in pods {
            let addresses = addresses(&mut client, &pod.id).await;
            rows.push((pod, addresses));
        }
        let items = || rows.iter().map(|(pod, ips)| item(pod, ips)).collect::<anyhow::Result<Vec<Value>>>();
        if !self.output.print(|| Ok(json!({ "items": items()? })))? {
            table(&rows).write(&mut std::io::stdout().lock())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The listed pod with its addresses, which the contract's list does not have.
fn item(pod: &PodSandbox, addresses: &[String]) -> anyhow::Result<Value> {
    let mut item = json::message(pod)?;
    item["ips"] = json!(addresses);
    Ok(item)
}

/// The pod's addresses; none when it was removed after it was listed.
async fn addresses(client: &mut Client, id: &str) -> Vec<String> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    let reply = client.runtime.pod_sandbox_status(request).await;
    reply.ok().and_then(|r| r.into_inner().status).map_or(Vec::new(), |s| status_addresses(&s))
}

fn status_addresses(status: &PodSandboxStatus) -> Vec<String> {
    let Some(network) = &status.network else { return Vec::new() };
    let all = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|a| &a.ip));
    all.filter(|ip| !ip.is_empty()).cloned().collect()
}

fn table(rows: &[(PodSandbox, Vec<String>)]) -> Table {
    let mut table = Table::new(&["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "ADDRESS"]);
    for (pod, addresses) in rows {
        let metadata = pod.metadata.clone().unwrap_or_default();
        let ready = pod.state() == PodSandboxState::SandboxReady;
        table.row(vec![
            short(&pod.id),
            ago(pod.created_at, clock::now()),
            if ready { "Ready" } else { "NotReady" }.to_owned(),
            metadata.name,
            metadata.namespace,
            metadata.attempt.to_string(),
            addresses.join(","),
        ]);
    }
    table
}
