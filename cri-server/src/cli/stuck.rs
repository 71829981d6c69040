//! `crisp ps --stuck`: operations of the server that take long, and the stage that each waits in.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use crisp_operation::parse_duration;
use crisp_proto::crisp::v1::{JournalKind, ListOperationsRequest, RunningOperation};
use serde_json::{Value, json};

use super::client::refused;
use super::listing::{Format, RowFormat};
use super::{Client, json as message};
use crate::table::{Table, short};

/// The form of the output.
pub struct View {
    format: RowFormat,
    output: Format,
    is_quiet: bool,
    /// Whether ids are printed in full.
    is_whole: bool,
}

impl View {
    pub fn new(format: RowFormat, output: Format, is_quiet: bool, is_whole: bool) -> Self {
        Self { format, output, is_quiet, is_whole }
    }
}

pub async fn run(mut client: Client, longer_than: &str, view: &View) -> anyhow::Result<ExitCode> {
    let longer_than = parse_duration(longer_than)
        .with_context(|| format!("--stuck={longer_than}: expected a time such as 10s or 500ms"))?;
    let operations = load(&mut client, longer_than).await?;
    if view.output.print(|| Ok(json!({ "operations": message::list(&operations)? })))? {
        return Ok(ExitCode::SUCCESS);
    }
    if view.is_quiet {
        let mut out = std::io::stdout().lock();
        operations.iter().try_for_each(|operation| writeln!(out, "{}", id(operation, view.is_whole)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = operations.iter().map(|operation| row(operation, view.is_whole)).collect();
    view.format.print(&rows, || table(&rows))?;
    Ok(ExitCode::SUCCESS)
}

/// The operations under way for longer than that.
///
/// # Errors
/// The server's error.
pub async fn load(client: &mut Client, longer_than: Duration) -> anyhow::Result<Vec<RunningOperation>> {
    let longer_than_nanoseconds = u64::try_from(longer_than.as_nanos()).unwrap_or(u64::MAX);
    let reply = client.diagnosis.operations(ListOperationsRequest { longer_than_nanoseconds }).await;
    Ok(reply.map_err(refused)?.into_inner().operations)
}

/// `12.3 s`, `2 min 5 s`.
pub fn seconds(nanoseconds: u64) -> String {
    let time = Duration::from_nanos(nanoseconds);
    match time.as_secs() {
        0 if time.as_millis() < 100 => format!("{} ms", time.as_millis()),
        ..60 => format!("{:.1} s", time.as_secs_f64()),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

fn id(operation: &RunningOperation, is_whole: bool) -> String {
    if is_whole { operation.id.clone() } else { short(&operation.id) }
}

fn row(operation: &RunningOperation, is_whole: bool) -> Value {
    let kind = match operation.kind() {
        JournalKind::JournalPod => "pod",
        JournalKind::JournalContainer => "container",
        JournalKind::JournalImage => "image",
    };
    let left = match operation.left_nanoseconds {
        0 => "-".to_owned(),
        left => seconds(left),
    };
    json!({
        "Operation": operation.operation,
        "Kind": kind,
        "ID": id(operation, is_whole),
        "Name": operation.name,
        "Pod": operation.pod,
        "Namespace": operation.namespace,
        "Since": seconds(operation.since_nanoseconds),
        "Stage": operation.stage,
        "StageSince": seconds(operation.stage_since_nanoseconds),
        "Left": left,
        "WaitsFor": if operation.waits_for.is_empty() { "-" } else { &operation.waits_for },
    })
}

fn table(rows: &[Value]) -> Table {
    let columns = [
        ("OPERATION", "Operation"),
        ("OF", "Kind"),
        ("ID", "ID"),
        ("NAME", "Name"),
        ("POD", "Pod"),
        ("SINCE", "Since"),
        ("STAGE", "Stage"),
        ("STAGE SINCE", "StageSince"),
        ("DEADLINE IN", "Left"),
        ("WAITS FOR", "WaitsFor"),
    ];
    let mut table = Table::new(&columns.map(|(heading, _)| heading));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rows.iter().for_each(|row| table.row(columns.iter().map(|(_, field)| text(&row[*field])).collect()));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_a_line() {
        let operation = RunningOperation {
            operation: "run_pod".into(),
            name: "web".into(),
            stage: "network".into(),
            since_nanoseconds: 12_345_000_000,
            stage_since_nanoseconds: 50_000_000,
            left_nanoseconds: 125_000_000_000,
            waits_for: "the CNI plugin bridge (ADD) of network lan".into(),
            ..RunningOperation::default()
        };
        let mut text = Vec::new();
        table(&[row(&operation, false)]).write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for word in ["run_pod", "12.3 s", "network", "50 ms", "2 min 5 s", "plugin bridge (ADD)"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
