//! `crisp stats`: what running containers use right now.

use std::process::ExitCode;
use std::time::Duration;

use crisp_proto::runtime::v1::{ContainerStats, ListContainerStatsRequest, UInt64Value};
use serde_json::json;

use super::client::refused;
use super::{Client, Format, json};
use crate::table::{Table, short, size};

/// CPU time and memory of running containers
#[derive(Debug, clap::Args)]
pub struct Stats {
    /// Seconds over which the use of the CPU is measured
    #[arg(long, short, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Stats {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let before = list(&mut client).await?;
        if self.output == Format::Json {
            json::print(&json!({ "stats": json::list(&before)? }))?;
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let after = list(&mut client).await?;
        table(&before, &after).write(&mut std::io::stdout().lock())?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(client: &mut Client) -> anyhow::Result<Vec<ContainerStats>> {
    let request = ListContainerStatsRequest::default();
    Ok(client.runtime.list_container_stats(request).await.map_err(refused)?.into_inner().stats)
}

fn table(before: &[ContainerStats], after: &[ContainerStats]) -> Table {
    let mut table = Table::new(&["CONTAINER", "NAME", "CPU %", "MEMORY", "WRITTEN", "FILES"]);
    for stats in after {
        let attributes = stats.attributes.clone().unwrap_or_default();
        let earlier = before.iter().find(|b| b.attributes.as_ref().is_some_and(|a| a.id == attributes.id));
        let disk = stats.writable_layer.as_ref();
        table.row(vec![
            short(&attributes.id),
            attributes.metadata.map_or(String::new(), |m| m.name),
            earlier.and_then(|e| cpu_percent(e, stats)).map_or("-".to_owned(), |p| format!("{p:.2}")),
            bytes(stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref())),
            bytes(disk.and_then(|d| d.used_bytes.as_ref())),
            disk.and_then(|d| d.inodes_used.as_ref()).map_or("-".to_owned(), |n| n.value.to_string()),
        ]);
    }
    table
}

/// Share of one processor between two measurements.
fn cpu_percent(before: &ContainerStats, after: &ContainerStats) -> Option<f64> {
    let (before, after) = (before.cpu.as_ref()?, after.cpu.as_ref()?);
    let used = after.usage_core_nano_seconds?.value.checked_sub(before.usage_core_nano_seconds?.value)?;
    let time = after.timestamp - before.timestamp;
    (time > 0).then(|| used as f64 * 100.0 / time as f64)
}

fn bytes(value: Option<&UInt64Value>) -> String {
    value.map_or("-".to_owned(), |v| size(v.value))
}

#[cfg(test)]
mod tests {
    use crisp_proto::runtime::v1::CpuUsage;

    use super::*;

    fn at(timestamp: i64, used: u64) -> ContainerStats {
        let usage_core_nano_seconds = Some(UInt64Value { value: used });
        ContainerStats {
            cpu: Some(CpuUsage { timestamp, usage_core_nano_seconds, ..CpuUsage::default() }),
            ..ContainerStats::default()
        }
    }

    #[test]
    fn half_the_time_is_half_a_processor() {
        assert_eq!(cpu_percent(&at(0, 0), &at(1000, 500)), Some(50.0));
        assert_eq!(cpu_percent(&at(0, 0), &at(0, 0)), None, "measured at one moment");
        assert_eq!(cpu_percent(&at(0, 9), &at(1, 0)), None, "the counter began anew");
    }
}
