//! `crisp top`: shows the processes of a container as the host sees them, without a program of the image.

use std::process::ExitCode;
use std::time::Duration;

use crisp_operation::clock;
use crisp_proto::crisp::v1::{ListProcessesRequest, Process};
use serde_json::json;

use super::client::refused;
use super::listing::Format;
use super::names::Names;
use super::{Client, json};
use crate::table::{Table, size};
use crate::time::span;

/// Show the processes of a container
#[derive(Debug, clap::Args)]
pub struct Top {
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
}

impl Top {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let request = ListProcessesRequest { container_id };
        let processes = client.containers.processes(request).await.map_err(refused)?.into_inner().processes;
        if !self.output.print(|| Ok(json!({ "processes": json::list(&processes)? })))? {
            table(&processes).write(&mut std::io::stdout().lock())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(processes: &[Process]) -> Table {
    let mut table = Table::new(&["PID", "PPID", "UID", "STATE", "TIME", "STARTED", "MEMORY", "COMMAND"]);
    for process in processes {
        table.row(vec![
            process.pid.to_string(),
            process.parent_pid.to_string(),
            process.uid.to_string(),
            process.state.clone(),
            cpu_time(Duration::from_nanos(process.cpu_nanoseconds)),
            format!("{} ago", span(process.started_at, clock::now())),
            size(process.resident_bytes),
            process.command.clone(),
        ]);
    }
    table
}

/// As ps(1): hours, minutes and seconds.
fn cpu_time(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_has_hours_minutes_and_seconds() {
        assert_eq!(cpu_time(Duration::from_millis(3_723_900)), "01:02:03");
        assert_eq!(cpu_time(Duration::from_secs(400_000)), "111:06:40");
    }
}
