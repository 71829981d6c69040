//! `crisp pods`.

use std::io::Write as _;
use std::process::ExitCode;

use crisp_operation::clock;
use crisp_proto::runtime::v1::{
    ListPodSandboxRequest, PodSandbox, PodSandboxState, PodSandboxStatus, PodSandboxStatusRequest,
};
use serde_json::{Value, json};

use super::client::refused;
use super::filter::{Filters, name_matches};
use super::listing::{Format, RowFormat};
use super::{Client, json};
use crate::table::{Table, short};
use crate::time::{ago, shown};

const FILTERS: [&str; 5] = ["name", "id", "label", "namespace", "state"];

/// List pods
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp pods --filter namespace=kube-system --filter state=ready
  crisp pods --format '{{.Name}}\\t{{.Address}}'

Filters: name, id, label, namespace, state (ready, notready).
Fields of templates: ID, CreatedAt, RunningFor, State, Name, Namespace, Attempt, Address, Labels.")]
pub struct Pods {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Show ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Show only what matches, as KEY=VALUE; see below
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json`, or a template; see below
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["quiet", "output"])]
    format: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Pods {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let format = RowFormat::parse(self.format.as_deref())?;
        let filters = Filters::parse(&self.filter, &FILTERS)?;
        filters.check("state", &["ready", "notready"])?;
        let request = ListPodSandboxRequest::default();
        let mut pods = client.runtime.list_pod_sandbox(request).await.map_err(refused)?.into_inner().items;
        pods.retain(|pod| matches(pod, &filters));
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
            let rows: Vec<Value> = rows.iter().map(|(pod, ips)| self.row(pod, ips)).collect();
            format.print(&rows, || table(&rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn row(&self, pod: &PodSandbox, addresses: &[String]) -> Value {
        let metadata = pod.metadata.clone().unwrap_or_default();
        let labels: Vec<String> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        json!({
            "ID": if self.no_trunc { pod.id.clone() } else { short(&pod.id) },
            "CreatedAt": shown(pod.created_at),
            "RunningFor": ago(pod.created_at, clock::now()),
            "State": if is_ready(pod) { "Ready" } else { "NotReady" },
            "Name": metadata.name,
            "Namespace": metadata.namespace,
            "Attempt": metadata.attempt,
            "Address": addresses.join(","),
            "Labels": labels.join(","),
        })
    }
}

fn is_ready(pod: &PodSandbox) -> bool {
    pod.state() == PodSandboxState::SandboxReady
}

fn matches(pod: &PodSandbox, filters: &Filters) -> bool {
    let metadata = pod.metadata.clone().unwrap_or_default();
    let state = if is_ready(pod) { "ready" } else { "notready" };
    filters.any("name", |wanted| name_matches(&metadata.name, wanted))
        && filters.any("id", |wanted| pod.id.starts_with(wanted))
        && filters.any("namespace", |wanted| metadata.namespace == wanted)
        && filters.any("state", |wanted| wanted == state)
        && filters.labels(|key| pod.labels.get(key))
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

fn table(rows: &[Value]) -> Table {
    let columns = [
        ("POD ID", "ID"),
        ("CREATED", "RunningFor"),
        ("STATE", "State"),
        ("NAME", "Name"),
        ("NAMESPACE", "Namespace"),
        ("ATTEMPT", "Attempt"),
        ("ADDRESS", "Address"),
    ];
    let mut table = Table::new(&columns.map(|(heading, _)| heading));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rows.iter().for_each(|row| table.row(columns.iter().map(|(_, field)| text(&row[*field])).collect()));
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crisp_proto::runtime::v1::PodSandboxMetadata;

    use super::*;

    #[test]
    fn filters_choose_pods() {
        let metadata = PodSandboxMetadata {
            name: "web".into(),
            namespace: "shop".into(),
            ..PodSandboxMetadata::default()
        };
        let pod = PodSandbox {
            id: "abc".into(),
            metadata: Some(metadata),
            labels: BTreeMap::from([("app".to_owned(), "x".to_owned())]),
            ..PodSandbox::default()
        };
        for (text, is_shown) in [
            ("name=we", true),
            ("name=^eb", false),
            ("id=ab", true),
            ("namespace=shop", true),
            ("namespace=sho", false),
            ("state=ready", true),
            ("state=notready", false),
            ("label=app", true),
            ("label=app=y", false),
        ] {
            let filters = Filters::parse(&[text.to_owned()], &FILTERS).unwrap();
            assert_eq!(matches(&pod, &filters), is_shown, "{text}");
        }
    }
}
