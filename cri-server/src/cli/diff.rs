//! `crisp diff`: the differences between a container's files and those of its image.

use std::io::Write as _;
use std::process::ExitCode;

use crisp_proto::crisp::v1::{Change, ChangeKind, ListChangesRequest};
use serde_json::{Value, json};

use super::Client;
use super::client::refused;
use super::listing::Format;
use super::names::Names;
use crate::table::without_control;

/// Show files that a container has added (A), changed (C) or deleted (D)
///
/// Volumes, and files that the pod provides, such as /etc/hosts, do not count.
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
}

impl Diff {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let request = ListChangesRequest { container_id };
        let mut replies = client.containers.changes(request).await.map_err(refused)?.into_inner();
        let is_document = self.output.is_document();
        let mut all = Vec::new();
        while let Some(reply) = replies.message().await.map_err(refused)? {
            if is_document {
                all.extend(reply.changes);
                continue;
            }
            let mut out = std::io::stdout().lock();
            for change in &reply.changes {
                writeln!(out, "{} {}", letter(change), without_control(&change.path))?;
            }
        }
        self.output.print(|| Ok(json!({ "changes": all.iter().map(item).collect::<Vec<_>>() })))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn letter(change: &Change) -> char {
    match change.kind() {
        ChangeKind::ChangeModified => 'C',
        ChangeKind::ChangeAdded => 'A',
        ChangeKind::ChangeDeleted => 'D',
    }
}

fn item(change: &Change) -> Value {
    json!({ "path": change.path, "kind": letter(change).to_string() })
}
