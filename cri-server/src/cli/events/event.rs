//! One line of `crisp events`.

use std::collections::BTreeMap;

use crisp_proto::crisp::v1::{JournalAction, JournalEntry, JournalKind};
use crisp_proto::runtime::v1::{ContainerEventResponse, ContainerEventType};
use serde_json::{Value, json};

use super::super::filter::{Filters, name_matches};
use super::super::journal::History;
use super::super::names::{Names, container_name};
use super::super::ps::image_name;
use crate::time;

/// The content of one line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Event {
    pub at: i64,
    pub is_pod: bool,
    pub action: &'static str,
    pub id: String,
    pub name: String,
    pub pod: String,
    pub pod_id: String,
    pub image: String,
    pub exit_code: Option<i32>,
    pub labels: BTreeMap<String, String>,
}

impl Event {
    /// From an event of the stream.
    pub fn of(event: &ContainerEventResponse, known: &Names) -> Self {
        let pod = event.pod_sandbox_status.clone().unwrap_or_default();
        let is_pod = event.container_id == pod.id || known.pods.iter().any(|p| p.id == event.container_id);
        let status = event.containers_statuses.iter().find(|status| status.id == event.container_id);
        let earlier = known.containers.iter().find(|container| container.id == event.container_id);
        let action = match event.container_event_type() {
            ContainerEventType::ContainerCreatedEvent => "create",
            ContainerEventType::ContainerStartedEvent => "start",
            ContainerEventType::ContainerStoppedEvent => "die",
            ContainerEventType::ContainerDeletedEvent => "destroy",
        };
        let pod_name = pod.metadata.as_ref().map_or_else(String::new, |m| m.name.clone());
        let name = status.and_then(|s| Some(s.metadata.as_ref()?.name.clone()));
        let name = name.or_else(|| earlier.map(|container| container_name(container).to_owned()));
        let labels = status.map(|s| s.labels.clone()).or_else(|| earlier.map(|c| c.labels.clone()));
        Self {
            at: event.created_at,
            is_pod,
            action,
            id: event.container_id.clone(),
            name: if is_pod { pod_name.clone() } else { name.unwrap_or_default() },
            image: earlier
                .map(image_name)
                .or_else(|| Some(status?.image.as_ref()?.image.clone()))
                .unwrap_or_default(),
            exit_code: status.filter(|_| action == "die").map(|s| s.exit_code),
            labels: if is_pod { pod.labels.clone() } else { labels.unwrap_or_default() },
            pod_id: pod.id,
            pod: pod_name,
        }
    }

    /// From an entry of the journal that reports a change of a container or pod. None for entries about
    /// failed operations.
    pub fn of_entry(entry: &JournalEntry) -> Option<Self> {
        if entry.kind() == JournalKind::JournalImage {
            return None;
        }
        let action = match entry.action() {
            JournalAction::JournalCreate => "create",
            JournalAction::JournalStart => "start",
            JournalAction::JournalDie => "die",
            JournalAction::JournalDestroy => "destroy",
            JournalAction::JournalKill => "kill",
            JournalAction::JournalNote
            | JournalAction::JournalStop
            | JournalAction::JournalFail
            | JournalAction::JournalDone => return None,
        };
        Some(Self {
            at: entry.at,
            is_pod: entry.kind() == JournalKind::JournalPod,
            action,
            id: entry.id.clone(),
            name: entry.name.clone(),
            pod: entry.pod.clone(),
            pod_id: entry.pod_id.clone(),
            image: entry.image.clone(),
            exit_code: entry.exit.as_ref().map(|exit| exit.code),
            labels: entry.labels.clone(),
        })
    }

    /// Whether the journal has it too, so that it is not only derived from objects that still exist.
    pub fn is_in(&self, history: &History) -> bool {
        let action = match self.action {
            "create" => JournalAction::JournalCreate,
            "start" => JournalAction::JournalStart,
            "die" => JournalAction::JournalDie,
            "kill" => JournalAction::JournalKill,
            _ => JournalAction::JournalDestroy,
        };
        history.has(&self.id, action, self.at)
    }

    fn kind(&self) -> &'static str {
        if self.is_pod { "pod" } else { "container" }
    }

    pub fn is_wanted(&self, filters: &Filters) -> bool {
        filters.any("event", |wanted| self.action == wanted)
            && filters.any("type", |wanted| self.kind() == wanted)
            && filters.any("container", |wanted| {
                !self.is_pod && (self.id.starts_with(wanted) || name_matches(&self.name, wanted))
            })
            && filters.any("pod", |wanted| self.pod_id.starts_with(wanted) || self.pod == wanted)
            && filters.any("image", |wanted| name_matches(&self.image, wanted))
            && filters.labels(|key| self.labels.get(key))
    }

    pub fn fields(&self) -> Value {
        json!({
            "Time": time::shown(self.at),
            "TimeNano": self.at,
            "Type": self.kind(),
            "Action": self.action,
            "ID": self.id,
            "Name": self.name,
            "Pod": self.pod,
            "PodID": self.pod_id,
            "Image": self.image,
            "ExitCode": self.exit_code,
            "Labels": self.labels,
        })
    }

    pub fn text(&self) -> String {
        let code = self.exit_code.map_or(String::new(), |code| format!(", exitCode={code}"));
        let image =
            if self.is_pod { String::new() } else { format!(", image={}, pod={}", self.image, self.pod) };
        let (at, kind) = (time::shown(self.at), self.kind());
        format!("{at} {kind} {} {} (name={}{image}{code})", self.action, self.id, self.name)
    }
}
