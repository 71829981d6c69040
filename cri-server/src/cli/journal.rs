//! Past events: from the server's journal, and from the records of existing objects where the journal lacks
//! them.

use std::collections::HashSet;

use crisp_proto::crisp::v1::{JournalAction, JournalEntry, JournalExit, JournalKind, JournalRequest};
use crisp_proto::runtime::v1::{Container, PodSandbox};
use tonic::Code;

use super::Client;
use super::client::refused;
use super::details::Details;
use super::names::{Names, container_name, pod_name};
use super::ps::image_name;

/// Past events, the oldest first.
pub struct History {
    pub entries: Vec<JournalEntry>,
    /// The events that the journal has, by id, action and time.
    of_journal: HashSet<(String, i32, i64)>,
}

impl History {
    /// Loads the history from the server, which may be another CRI server.
    pub async fn load(client: &mut Client, known: &Names, since: i64, until: i64) -> anyhow::Result<Self> {
        let journal = of_server(client, since, until).await?;
        let of_journal = journal.iter().map(|entry| (entry.id.clone(), entry.action, entry.at)).collect();
        let details = Details::load(client).await?;
        let noted: HashSet<(&str, i32)> =
            journal.iter().map(|entry| (entry.id.as_str(), entry.action)).collect();
        let mut lacking = of_records(known, &details);
        lacking.retain(|entry| {
            let is_asked_for = entry.at >= since && (until == 0 || entry.at <= until);
            is_asked_for && !noted.contains(&(entry.id.as_str(), entry.action))
        });
        let mut entries = journal;
        entries.extend(lacking);
        entries.sort_by_key(|entry| entry.at);
        Ok(Self { entries, of_journal })
    }

    /// Whether the journal has this event.
    pub fn has(&self, id: &str, action: JournalAction, at: i64) -> bool {
        self.of_journal.contains(&(id.to_owned(), action.into(), at))
    }
}

/// Only the events of the journal; empty for a server without one.
///
/// # Errors
/// The server's error.
pub async fn of_server(client: &mut Client, since: i64, until: i64) -> anyhow::Result<Vec<JournalEntry>> {
    let mut replies = match client.diagnosis.journal(JournalRequest { since, until }).await {
        Ok(replies) => replies.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return Ok(Vec::new()),
        Err(status) => return Err(refused(status)),
    };
    let mut entries = Vec::new();
    while let Some(reply) = replies.message().await.map_err(refused)? {
        entries.extend(reply.entries);
    }
    Ok(entries)
}

/// Events that follow from the records of existing containers and pods.
fn of_records(known: &Names, details: &Details) -> Vec<JournalEntry> {
    let mut entries = Vec::new();
    for pod in &known.pods {
        let entry = of_pod(pod);
        entries.push(JournalEntry { action: JournalAction::JournalCreate.into(), ..entry.clone() });
        entries.push(JournalEntry { action: JournalAction::JournalStart.into(), ..entry });
    }
    for container in &known.containers {
        let entry = of_container(container, known);
        let event = |at, action: JournalAction| JournalEntry { at, action: action.into(), ..entry.clone() };
        entries.push(event(container.created_at, JournalAction::JournalCreate));
        let Some(details) = details.of(&container.id) else { continue };
        if details.started_at != 0 {
            entries.push(event(details.started_at, JournalAction::JournalStart));
        }
        if details.finished_at != 0 {
            let exit = JournalExit {
                code: details.exit_code,
                reason: details.reason.clone(),
                started_at: details.started_at,
                finished_at: details.finished_at,
            };
            let end = event(details.finished_at, JournalAction::JournalDie);
            entries.push(JournalEntry { exit: Some(exit), ..end });
        }
    }
    entries
}

fn of_pod(pod: &PodSandbox) -> JournalEntry {
    let metadata = pod.metadata.clone().unwrap_or_default();
    JournalEntry {
        at: pod.created_at,
        kind: JournalKind::JournalPod.into(),
        id: pod.id.clone(),
        name: metadata.name.clone(),
        attempt: metadata.attempt,
        pod_id: pod.id.clone(),
        pod: metadata.name,
        namespace: metadata.namespace,
        pod_uid: metadata.uid,
        labels: pod.labels.clone(),
        ..JournalEntry::default()
    }
}

fn of_container(container: &Container, known: &Names) -> JournalEntry {
    let pod = known.pods.iter().find(|pod| pod.id == container.pod_sandbox_id);
    let metadata = pod.and_then(|pod| pod.metadata.clone()).unwrap_or_default();
    JournalEntry {
        kind: JournalKind::JournalContainer.into(),
        id: container.id.clone(),
        name: container_name(container).to_owned(),
        attempt: container.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        pod_id: container.pod_sandbox_id.clone(),
        pod: pod.map_or("", pod_name).to_owned(),
        namespace: metadata.namespace,
        pod_uid: metadata.uid,
        image: image_name(container),
        labels: container.labels.clone(),
        ..JournalEntry::default()
    }
}
