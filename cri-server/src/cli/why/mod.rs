//! `crisp why`: explains what happened to a pod or a container.
//!
//! ```text
//!  history (journal, records) ── subject.rs: the object, also one that is gone
//!                                    │ its entries
//!                                    ├─> story.rs: a line each
//!                                    └─> cause.rs: the last failure without a later success ─> exit_code.rs,
//!                                                                                                      failure.rs
//!  operations under way ─> now
//! ```

mod cause;
mod exit_code;
mod failure;
mod story;
mod subject;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crisp_proto::crisp::v1::RunningOperation;
use serde_json::{Value, json};

use self::cause::{Verdict, verdict};
use self::story::Line;
use self::subject::Subject;
use super::journal::History;
use super::listing::Format;
use super::names::Names;
use super::{Client, json as message, stuck};
use crate::table::without_control;
use crate::time;

/// An operation that has been under way for this long is part of the explanation.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Explain what happened to a pod or a container: pulls, starts, exits, failures, and the cause of a problem
///
/// The sources are the server's journal and the records of existing containers and pods. Pods that are gone
/// are known as far back as the journal goes (8 to 16 MB, some ten thousand events). If several pods had the
/// same name, the newest is explained.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp why web
  crisp why kube-system/coredns-7db6d8ff4d-8q2lx
  crisp why shop/db -o json")]
pub struct Why {
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Only events from this time on: 10m, or a time such as 2026-01-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// A pod or a container, as NAME, NAMESPACE/NAME of a pod, POD/NAME of a container, pod/NAME, or an id or the
    /// beginning of one
    name: String,
}

/// The whole explanation.
struct Explanation {
    subject: Subject,
    lines: Vec<Line>,
    now: Vec<RunningOperation>,
    verdict: Verdict,
}

impl Why {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let since = self.since.as_deref().map(|text| time::moment("--since", text)).transpose()?;
        let known = Names::load(&mut client).await?;
        let history = History::load(&mut client, &known, since.unwrap_or_default(), 0).await?;
        let under_way = stuck::load(&mut client, UNDER_WAY).await.unwrap_or_default();
        let subject = Subject::find(&history.entries, &under_way, &self.name)?;
        let entries = subject.entries(&history.entries);
        let now = under_way.into_iter().filter(|operation| subject.is_of(operation)).collect();
        let answer = Explanation {
            lines: story::lines(&entries, &subject),
            verdict: verdict(&entries, &subject),
            subject,
            now,
        };
        if !self.output.print(|| answer.document())? {
            answer.print()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Explanation {
    fn print(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", without_control(&self.subject.to_string()))?;
        for line in &self.lines {
            let mark = if line.is_bad { '!' } else { ' ' };
            writeln!(out, "{mark} {:<30}  {}", time::shown(line.at), without_control(&line.to_string()))?;
        }
        for operation in &self.now {
            writeln!(out, "Now: {}", without_control(&under_way(operation)))?;
        }
        writeln!(out, "{}: {}", self.verdict.heading(), without_control(self.verdict.text()))
    }

    fn document(&self) -> anyhow::Result<Value> {
        let line = |line: &Line| json!({ "time": time::shown(line.at), "text": line.text, "isBad": line.is_bad, "times": line.times });
        Ok(json!({
            "subject": self.subject.to_string(),
            "story": self.lines.iter().map(line).collect::<Vec<_>>(),
            "now": message::list(&self.now)?,
            "verdict": { "kind": self.verdict.heading(), "text": self.verdict.text() },
        }))
    }
}

fn under_way(operation: &RunningOperation) -> String {
    let RunningOperation { operation: name, stage, waits_for, .. } = operation;
    let (since, stage_since) =
        (stuck::seconds(operation.since_nanoseconds), stuck::seconds(operation.stage_since_nanoseconds));
    let waits = if waits_for.is_empty() { String::new() } else { format!(", and waits for {waits_for}") };
    let left = match operation.left_nanoseconds {
        0 => String::new(),
        left => format!(" (it is given up in {})", stuck::seconds(left)),
    };
    let of = &operation.name;
    format!(
        "{name} of {of} has been under way for {since}, in the stage {stage} for {stage_since}{waits}{left}"
    )
}
