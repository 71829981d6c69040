//! The processes of all running containers, at two moments: what one view shows.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use crisp_operation::clock;
use crisp_proto::crisp::v1::{ListProcessesRequest, Process};
use crisp_proto::runtime::v1::ContainerState;
use serde_json::{Value, json};
use tonic::Code;

use super::super::client::refused;
use super::super::names::{Names, container_name};
use super::super::{Client, json};
use super::cpu_time;
use crate::table::{Table, size, without_control};

/// Order of the processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    #[default]
    Cpu,
    Memory,
    /// CPU time since the process started
    Time,
}

/// Two start times of one process differ by less: the server computes them from the clock at each request.
const SAME_START: u64 = 500_000_000;

/// All processes at one moment, in nanoseconds since 1970.
pub(super) struct Snapshot {
    taken_at: i64,
    containers: Vec<Running>,
}

struct Running {
    pod: String,
    name: String,
    processes: Vec<Process>,
    /// Why they are not known.
    error: Option<String>,
}

impl Snapshot {
    pub async fn take(client: &mut Client) -> anyhow::Result<Self> {
        let names = Names::load(client).await?;
        let taken_at = clock::now();
        let mut containers = Vec::new();
        for container in names.containers.iter().filter(|c| c.state() == ContainerState::ContainerRunning) {
            let request = ListProcessesRequest { container_id: container.id.clone() };
            let (processes, error) = match client.containers.processes(request).await {
                Ok(reply) => (reply.into_inner().processes, None),
                // It has ended since the list.
                Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => continue,
                // The others are shown all the same.
                Err(status) => (Vec::new(), Some(refused(status).to_string())),
            };
            containers.push(Running {
                pod: names.pod_name(&container.pod_sandbox_id).to_owned(),
                name: container_name(container).to_owned(),
                processes,
                error,
            });
        }
        Ok(Self { taken_at, containers })
    }
}

/// The processes of a snapshot, with what they used since an earlier one.
pub(super) struct View<'a> {
    containers: &'a [Running],
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    container: &'a Running,
    process: &'a Process,
    /// Share of one processor. None for a process that was not there before.
    cpu_percent: Option<f64>,
}

impl<'a> View<'a> {
    pub fn between(before: &Snapshot, after: &'a Snapshot, sort: Sort) -> Self {
        let processes = before.containers.iter().flat_map(|container| &container.processes);
        let earlier: HashMap<i32, &Process> = processes.map(|process| (process.pid, process)).collect();
        let time = after.taken_at - before.taken_at;
        let row = |container, process: &'a Process| {
            let then = earlier.get(&process.pid).filter(|then| is_same(then, process));
            let used = then.and_then(|then| process.cpu_nanoseconds.checked_sub(then.cpu_nanoseconds));
            let cpu_percent = used.filter(|_| time > 0).map(|used| used as f64 * 100.0 / time as f64);
            Row { container, process, cpu_percent }
        };
        let mut rows: Vec<Row<'a>> = after
            .containers
            .iter()
            .flat_map(|c| c.processes.iter().map(move |process| row(c, process)))
            .collect();
        rows.sort_by_key(|row| Reverse(row.weight(sort)));
        Self { containers: &after.containers, rows }
    }

    /// The view as one JSON document.
    pub fn document(&self) -> anyhow::Result<Value> {
        let process = |row: &Row<'_>| -> anyhow::Result<Value> {
            let mut value = json::message(row.process)?;
            value["pod"] = row.container.pod.as_str().into();
            value["container"] = row.container.name.as_str().into();
            value["cpuPercent"] = row.cpu_percent.into();
            Ok(value)
        };
        Ok(json!({ "processes": self.rows.iter().map(process).collect::<anyhow::Result<Vec<_>>>()? }))
    }

    /// The view as a table, below a line of sums. On a screen of so many columns and rows it is cut to fit.
    pub fn text(&self, screen: Option<(usize, usize)>) -> anyhow::Result<String> {
        let mut table =
            Table::new(&["POD", "CONTAINER", "PID", "UID", "STATE", "CPU %", "MEMORY", "TIME", "COMMAND"]);
        // The line of sums, the heading, and the line of those that are left out.
        let shown = screen.map_or(self.rows.len(), |(_, rows)| rows.saturating_sub(3).max(1));
        self.rows.iter().take(shown).for_each(|row| table.row(row.cells()));
        let mut text = Vec::new();
        table.write(&mut text)?;
        let mut text = format!("{}\n{}", self.sums(), String::from_utf8_lossy(&text));
        for container in self.containers {
            if let Some(error) = &container.error {
                let Running { pod, name, .. } = container;
                text.push_str(&format!("{}\n", without_control(&format!("{pod}/{name}: {error}"))));
            }
        }
        if let Some(rest) = self.rows.len().checked_sub(shown).filter(|rest| *rest > 0) {
            text.push_str(&format!("{rest} more\n"));
        }
        Ok(screen.map_or_else(|| text.clone(), |(columns, _)| cut(&text, columns)))
    }

    fn sums(&self) -> String {
        let cpu: f64 = self.rows.iter().filter_map(|row| row.cpu_percent).sum();
        let memory: u64 = self.rows.iter().map(|row| row.process.resident_bytes).sum();
        let (containers, processes) = (self.containers.len(), self.rows.len());
        format!("{containers} containers, {processes} processes, CPU {cpu:.1}%, memory {}", size(memory))
    }
}

impl Row<'_> {
    fn weight(&self, sort: Sort) -> u64 {
        match sort {
            // Thousandths of a percent.
            Sort::Cpu => (self.cpu_percent.unwrap_or(0.0) * 1000.0) as u64,
            Sort::Memory => self.process.resident_bytes,
            Sort::Time => self.process.cpu_nanoseconds,
        }
    }

    fn cells(&self) -> Vec<String> {
        let Process { pid, uid, state, resident_bytes, cpu_nanoseconds, command, .. } = self.process;
        vec![
            self.container.pod.clone(),
            self.container.name.clone(),
            pid.to_string(),
            uid.to_string(),
            state.clone(),
            self.cpu_percent.map_or("-".to_owned(), |percent| format!("{percent:.1}")),
            size(*resident_bytes),
            cpu_time(Duration::from_nanos(*cpu_nanoseconds)),
            command.clone(),
        ]
    }
}

/// Not another process that got its number.
fn is_same(then: &Process, now: &Process) -> bool {
    then.started_at.abs_diff(now.started_at) < SAME_START
}

/// Each line, cut to `columns` characters: a longer one would take two rows of the screen.
fn cut(text: &str, columns: usize) -> String {
    text.lines().flat_map(|line| line.chars().take(columns).chain(['\n'])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(taken_at: i64, processes: &[(i32, i64, u64, u64)]) -> Snapshot {
        let process = |&(pid, started_at, cpu_nanoseconds, resident_bytes): &(i32, i64, u64, u64)| Process {
            pid,
            started_at,
            cpu_nanoseconds,
            resident_bytes,
            command: format!("program {pid}"),
            ..Process::default()
        };
        let processes = processes.iter().map(process).collect();
        Snapshot {
            taken_at,
            containers: vec![Running { pod: "web".into(), name: "main".into(), processes, error: None }],
        }
    }

    #[test]
    fn usage_is_that_of_the_same_process_between_the_snapshots() {
        let before = snapshot(0, &[(1, 5, 100, 0), (2, 5, 900, 0)]);
        // The second number belongs to another process now.
        let after = snapshot(1000, &[(1, 6, 600, 10), (2, 7_000_000_000, 950, 30), (3, 8, 1, 20)]);
        let shares = |sort| -> Vec<(i32, Option<f64>)> {
            let view = View::between(&before, &after, sort);
            view.rows.iter().map(|row| (row.process.pid, row.cpu_percent)).collect()
        };
        assert_eq!(shares(Sort::Cpu), [(1, Some(50.0)), (2, None), (3, None)]);
        assert_eq!(shares(Sort::Memory), [(2, None), (3, None), (1, Some(50.0))]);
        assert_eq!(shares(Sort::Time), [(2, None), (1, Some(50.0)), (3, None)]);
    }

    #[test]
    fn a_view_fits_its_screen() {
        let after = snapshot(1000, &[(1, 5, 0, 0), (2, 5, 0, 0), (3, 5, 0, 0)]);
        let view = View::between(&after, &after, Sort::Cpu);
        let text = view.text(Some((20, 5))).unwrap();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 20), "{text}");
        assert!(text.ends_with("1 more\n"), "{text}");
        assert_eq!(view.text(None).unwrap().lines().count(), 5);
    }
}
