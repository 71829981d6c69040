//! `crisp stats`: shows the resource usage of running containers.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use crisp_proto::crisp::v1::{ContainerUsage, ContainerUsageRequest};
use crisp_proto::runtime::v1::{ContainerState, ContainerStats, ListContainerStatsRequest, UInt64Value};
use serde_json::{Value, json};
use tonic::Code;

use super::client::refused;
use super::listing::{Format, RowFormat};
use super::names::{Names, container_name};
use super::{Client, json};
use crate::table::{Table, short, size};
use crate::time::shown;

/// Show CPU, memory, network and disk usage of running containers
///
/// On a terminal the table is refreshed until interrupted; otherwise it is printed once, or with --stream again
/// and again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp stats
  crisp stats --no-stream --format '{{.Name}}\\t{{.MemUsage}}' web
  crisp stats --stream --format json | jq .CPUPerc

Fields of templates: ID, Name, Pod, CPUPerc, MemUsage, MemPerc, NetIO, BlockIO, PIDs, Time.")]
pub struct Stats {
    /// Seconds over which CPU usage is measured
    #[arg(long, short, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Print the table once, also on a terminal
    #[arg(long)]
    no_stream: bool,
    /// Print again after each measurement, also into a pipe or file
    #[arg(long, conflicts_with_all = ["no_stream", "output"])]
    stream: bool,
    /// `table`, `json`, or a template; see below
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Containers, as ids, beginnings of ids, NAME or POD/NAME [default: all that run]
    names: Vec<String>,
}

impl Stats {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let format = RowFormat::parse(self.format.as_deref())?;
        if self.output.is_document() {
            let stats = client.runtime.list_container_stats(ListContainerStatsRequest::default()).await;
            let stats = stats.map_err(refused)?.into_inner().stats;
            self.output.print(|| Ok(json!({ "stats": json::list(&stats)? })))?;
            return Ok(ExitCode::SUCCESS);
        }
        let is_terminal = std::io::stdout().is_terminal();
        let goes_on = self.stream || (is_terminal && !self.no_stream);
        let clears = goes_on && is_terminal && format != RowFormat::Json;
        let mut names = Names::load(&mut client).await?;
        let ids = self.names.iter().map(|name| names.container(name).map(|c| c.id.clone()));
        let ids = ids.collect::<anyhow::Result<Vec<_>>>()?;
        for (id, name) in ids.iter().zip(&self.names) {
            let container = names.containers.iter().find(|container| container.id == *id);
            if container.is_some_and(|container| container.state() != ContainerState::ContainerRunning) {
                anyhow::bail!("{name} does not run");
            }
        }
        let mut before = usages(&mut client, &ids).await?;
        loop {
            tokio::time::sleep(Duration::from_secs(self.seconds)).await;
            let after = usages(&mut client, &ids).await?;
            if goes_on {
                // New containers have names too.
                names = Names::load(&mut client).await?;
            }
            if clears {
                // Moves to the top and clears the old table.
                write!(std::io::stdout(), "\x1b[H\x1b[J")?;
            }
            let rows: Vec<Value> = after.iter().map(|usage| row(&before, usage, &names)).collect();
            format.print(&rows, || table(&rows))?;
            if !goes_on {
                return Ok(ExitCode::SUCCESS);
            }
            before = after;
        }
    }
}

/// From other CRI servers, the statistics of the contract.
async fn usages(client: &mut Client, ids: &[String]) -> anyhow::Result<Vec<ContainerUsage>> {
    let request = ContainerUsageRequest { container_ids: ids.to_vec() };
    match client.containers.usage(request).await {
        Ok(reply) => Ok(reply.into_inner().containers),
        Err(status) if status.code() == Code::Unimplemented => {
            let stats = client.runtime.list_container_stats(ListContainerStatsRequest::default()).await;
            let stats = stats.map_err(refused)?.into_inner().stats;
            let all = stats.iter().map(usage_of_contract);
            Ok(all.filter(|usage| ids.is_empty() || ids.contains(&usage.container_id)).collect())
        }
        Err(status) => Err(refused(status)),
    }
}

fn usage_of_contract(stats: &ContainerStats) -> ContainerUsage {
    let value = |value: Option<&UInt64Value>| value.map_or(0, |v| v.value);
    let (cpu, memory) = (stats.cpu.as_ref(), stats.memory.as_ref());
    let used = value(memory.and_then(|m| m.working_set_bytes.as_ref()));
    let available = memory.and_then(|m| m.available_bytes.as_ref()).filter(|a| a.value > 0);
    ContainerUsage {
        container_id: stats.attributes.as_ref().map_or(String::new(), |a| a.id.clone()),
        timestamp: cpu.map_or(0, |cpu| cpu.timestamp),
        cpu_nanoseconds: value(cpu.and_then(|cpu| cpu.usage_core_nano_seconds.as_ref())),
        memory_bytes: used,
        memory_limit_bytes: available.map_or(0, |available| used + available.value),
        ..ContainerUsage::default()
    }
}

fn row(before: &[ContainerUsage], usage: &ContainerUsage, names: &Names) -> Value {
    let container = names.containers.iter().find(|c| c.id == usage.container_id);
    let earlier: HashMap<&str, &ContainerUsage> =
        before.iter().map(|usage| (usage.container_id.as_str(), usage)).collect();
    let cpu = earlier.get(usage.container_id.as_str()).and_then(|before| cpu_percent(before, usage));
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |p| format!("{p:.2}%"));
    let (used, limit) = (usage.memory_bytes, usage.memory_limit_bytes);
    let share = (limit > 0).then(|| used as f64 * 100.0 / limit as f64);
    json!({
        "ID": short(&usage.container_id),
        "Container": usage.container_id,
        "Name": container.map_or("", container_name),
        "Pod": container.map_or("", |c| names.pod_name(&c.pod_sandbox_id)),
        "CPUPerc": percent(cpu),
        "MemUsage": format!("{} / {}", size(used), if limit > 0 { size(limit) } else { "-".to_owned() }),
        "MemPerc": percent(share),
        "NetIO": format!("{} / {}", size(usage.network_received_bytes), size(usage.network_sent_bytes)),
        "BlockIO": format!("{} / {}", size(usage.block_read_bytes), size(usage.block_written_bytes)),
        "PIDs": usage.processes,
        "Time": shown(usage.timestamp),
    })
}

fn table(rows: &[Value]) -> Table {
    const COLUMNS: [(&str, &str); 9] = [
        ("CONTAINER ID", "ID"),
        ("POD", "Pod"),
        ("NAME", "Name"),
        ("CPU %", "CPUPerc"),
        ("MEM USAGE / LIMIT", "MemUsage"),
        ("MEM %", "MemPerc"),
        ("NET I/O", "NetIO"),
        ("BLOCK I/O", "BlockIO"),
        ("PIDS", "PIDs"),
    ];
    let mut table = Table::new(&COLUMNS.map(|(heading, _)| heading));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rows.iter().for_each(|row| table.row(COLUMNS.iter().map(|(_, field)| text(&row[*field])).collect()));
    table
}

/// Share of one processor between two measurements.
fn cpu_percent(before: &ContainerUsage, after: &ContainerUsage) -> Option<f64> {
    let used = after.cpu_nanoseconds.checked_sub(before.cpu_nanoseconds)?;
    let time = after.timestamp - before.timestamp;
    (time > 0).then(|| used as f64 * 100.0 / time as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timestamp: i64, cpu_nanoseconds: u64) -> ContainerUsage {
        ContainerUsage { timestamp, cpu_nanoseconds, ..ContainerUsage::default() }
    }

    #[test]
    fn half_the_time_is_half_a_processor() {
        assert_eq!(cpu_percent(&at(0, 0), &at(1000, 500)), Some(50.0));
        assert_eq!(cpu_percent(&at(0, 0), &at(0, 0)), None, "measured at one moment");
        assert_eq!(cpu_percent(&at(0, 9), &at(1, 0)), None, "the counter began anew");
    }
}
