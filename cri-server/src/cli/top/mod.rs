//! `crisp top`: shows the processes of a container as the host sees them, without a program of the image; or those of
//! all running containers, again and again.

mod view;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use crisp_operation::clock;
use crisp_proto::crisp::v1::{ListProcessesRequest, Process};
use serde_json::json;

use super::client::refused;
use super::listing::Format;
use super::names::Names;
use super::{Client, json, terminal};
use crate::table::{Table, size};
use crate::time::span;

use view::{Snapshot, Sort, View};

/// Moves to the top of the screen and clears it.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show the processes of a container, or of all that run
///
/// With a container its processes are printed once. Without one, a terminal shows those of all running containers,
/// with their CPU usage, until interrupted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp top web
  crisp top
  crisp top --sort memory --seconds 5
  crisp top --no-stream | head")]
pub struct Top {
    /// Order of the processes of all containers
    #[arg(long, value_enum, default_value_t, conflicts_with = "container")]
    sort: Sort,
    /// Seconds over which CPU usage is measured
    #[arg(long, short, default_value_t = 1, value_name = "SECONDS", conflicts_with = "container",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Print the processes of all containers once, also on a terminal
    #[arg(long, conflicts_with = "container")]
    no_stream: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Container, as an id, the beginning of one, NAME or POD/NAME [default: all that run]
    container: Option<String>,
}

impl Top {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        match &self.container {
            Some(container) => self.of_container(&mut client, container).await,
            None => self.of_all(&mut client).await,
        }
    }

    async fn of_container(&self, client: &mut Client, container: &str) -> anyhow::Result<ExitCode> {
        let container_id = Names::load(client).await?.container(container)?.id.clone();
        let request = ListProcessesRequest { container_id };
        let processes = client.containers.processes(request).await.map_err(refused)?.into_inner().processes;
        if !self.output.print(|| Ok(json!({ "processes": json::list(&processes)? })))? {
            table(&processes).write(&mut std::io::stdout().lock())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn of_all(&self, client: &mut Client) -> anyhow::Result<ExitCode> {
        let is_live = std::io::stdout().is_terminal() && !self.no_stream && !self.output.is_document();
        let mut before = Snapshot::take(client).await?;
        loop {
            tokio::time::sleep(Duration::from_secs(self.seconds)).await;
            let after = Snapshot::take(client).await?;
            let view = View::between(&before, &after, self.sort);
            if !self.output.print(|| view.document())? {
                let size = is_live.then(terminal::size).flatten();
                let text = view.text(size.map(|size| (size.columns.into(), size.rows.into())))?;
                let clear = if is_live { CLEAR } else { "" };
                write!(std::io::stdout().lock(), "{clear}{text}")?;
                std::io::stdout().flush()?;
            }
            if !is_live {
                return Ok(ExitCode::SUCCESS);
            }
            before = after;
        }
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
