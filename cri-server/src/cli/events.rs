//! `crisp events`: what happens to containers and pods, as it happens.

use std::collections::BTreeSet;
use std::process::ExitCode;

use crisp_operation::clock;
use crisp_proto::runtime::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use serde_json::{Value, json};

use super::Client;
use super::client::refused;
use super::details::Details;
use super::filter::{Filters, name_matches};
use super::names::{Names, container_name, pod_name};
use super::ps::image_name;
use super::template::Template;
use crate::time;

const FILTERS: [&str; 6] = ["event", "container", "pod", "image", "type", "label"];

/// Show what happens to containers and pods until it is interrupted
///
/// The server keeps no events: with --since, what the containers and pods that still exist say of their past is
/// shown first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp events --filter event=die --format '{{.Time}} {{.Name}} {{.ExitCode}}'
  crisp events --since 10m --until 0s

Filters: event (create, start, die, destroy), container (an id or a part of the name), pod, image, type
(container, pod), label.
Fields of templates: Time, TimeNano, Type, Action, ID, Name, Pod, PodID, Image, ExitCode, Labels.")]
pub struct Events {
    /// Also show what happened from then on: 10m, or a time such as 2026-01-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End at that time, in the same form; 0s is now
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show only what matches, as KEY=VALUE; see below
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `json`, or a template; see below
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// As --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// What one line is about.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    at: i64,
    is_pod: bool,
    action: &'static str,
    id: String,
    name: String,
    pod: String,
    pod_id: String,
    image: String,
    exit_code: Option<i32>,
    labels: std::collections::BTreeMap<String, String>,
}

enum Output {
    Text,
    Json,
    Lines(Template),
}

impl Events {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let filters = Filters::parse(&self.filter, &FILTERS)?;
        filters.check("event", &["create", "start", "die", "destroy"])?;
        filters.check("type", &["container", "pod"])?;
        let since = self.since.as_deref().map(|text| time::moment("--since", text)).transpose()?;
        let until = self.until.as_deref().map(|text| time::moment("--until", text)).transpose()?;
        let output = match self.format.as_deref() {
            Some("json") => Output::Json,
            Some(template) => Output::Lines(Template::parse(template)?),
            None if self.json => Output::Json,
            None => Output::Text,
        };
        let print = |event: &Event| if event.is_wanted(&filters) { output.print(event) } else { Ok(()) };
        // From here on none is missed.
        let events = client.runtime.get_container_events(GetEventsRequest {}).await.map_err(refused)?;
        let mut events = events.into_inner();
        let mut known = Names::load(&mut client).await?;
        let mut printed = Printed::default();
        if let Some(since) = since {
            let details = Details::load(&mut client).await?;
            let mut past = past(&known, &details);
            printed = Printed::of(&past, clock::now());
            past.retain(|event| event.at >= since && until.is_none_or(|until| event.at <= until));
            past.iter().try_for_each(print)?;
        }
        let end = async {
            match until.map(|until| until - clock::now()) {
                None => std::future::pending().await,
                Some(left) => {
                    tokio::time::sleep(std::time::Duration::from_nanos(u64::try_from(left).unwrap_or(0)))
                        .await;
                }
            }
        };
        tokio::pin!(end);
        loop {
            let event = tokio::select! {
                () = &mut end => return Ok(ExitCode::SUCCESS),
                event = events.message() => event.map_err(refused)?,
            };
            let Some(event) = event else { anyhow::bail!("the server ended the stream of events") };
            let event = Event::of(&event, &known);
            if !printed.has(&event) {
                print(&event)?;
            }
            if event.action == "create" {
                known = Names::load(&mut client).await?;
            }
        }
    }
}

/// What was shown of the past: the stream began before it was looked up, and may have it once more.
#[derive(Default)]
struct Printed {
    events: BTreeSet<(String, &'static str)>,
    until: i64,
}

impl Printed {
    fn of(past: &[Event], until: i64) -> Self {
        Self { events: past.iter().map(|event| (event.id.clone(), event.action)).collect(), until }
    }

    fn has(&self, event: &Event) -> bool {
        event.at <= self.until && self.events.contains(&(event.id.clone(), event.action))
    }
}

/// What those that exist say of their past, the oldest first.
fn past(known: &Names, details: &Details) -> Vec<Event> {
    let mut events = Vec::new();
    for pod in &known.pods {
        let event = Event {
            at: pod.created_at,
            is_pod: true,
            action: "start",
            id: pod.id.clone(),
            name: pod_name(pod).to_owned(),
            pod: pod_name(pod).to_owned(),
            pod_id: pod.id.clone(),
            image: String::new(),
            exit_code: None,
            labels: pod.labels.clone(),
        };
        events.extend([Event { action: "create", ..event.clone() }, event]);
    }
    for container in &known.containers {
        let event = |at, action, exit_code| Event {
            at,
            is_pod: false,
            action,
            id: container.id.clone(),
            name: container_name(container).to_owned(),
            pod: known.pod_name(&container.pod_sandbox_id).to_owned(),
            pod_id: container.pod_sandbox_id.clone(),
            image: image_name(container),
            exit_code,
            labels: container.labels.clone(),
        };
        events.push(event(container.created_at, "create", None));
        if let Some(details) = details.of(&container.id) {
            let ended = (details.finished_at, "die", Some(details.exit_code));
            let happened =
                [(details.started_at, "start", None), ended].into_iter().filter(|(at, ..)| *at != 0);
            events.extend(happened.map(|(at, action, code)| event(at, action, code)));
        }
    }
    events.sort_by_key(|event| event.at);
    events
}

impl Event {
    fn of(event: &ContainerEventResponse, known: &Names) -> Self {
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

    fn kind(&self) -> &'static str {
        if self.is_pod { "pod" } else { "container" }
    }

    fn is_wanted(&self, filters: &Filters) -> bool {
        filters.any("event", |wanted| self.action == wanted)
            && filters.any("type", |wanted| self.kind() == wanted)
            && filters.any("container", |wanted| {
                !self.is_pod && (self.id.starts_with(wanted) || name_matches(&self.name, wanted))
            })
            && filters.any("pod", |wanted| self.pod_id.starts_with(wanted) || self.pod == wanted)
            && filters.any("image", |wanted| name_matches(&self.image, wanted))
            && filters.labels(|key| self.labels.get(key))
    }

    fn fields(&self) -> Value {
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

    fn text(&self) -> String {
        let code = self.exit_code.map_or(String::new(), |code| format!(", exitCode={code}"));
        let image =
            if self.is_pod { String::new() } else { format!(", image={}, pod={}", self.image, self.pod) };
        let (at, kind) = (time::shown(self.at), self.kind());
        format!("{at} {kind} {} {} (name={}{image}{code})", self.action, self.id, self.name)
    }
}

impl Output {
    fn print(&self, event: &Event) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        match self {
            Self::Text => writeln!(out, "{}", event.text())?,
            Self::Json => writeln!(out, "{}", event.fields())?,
            Self::Lines(template) => writeln!(out, "{}", template.render(&event.fields())?)?,
        }
        out.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_past_has_is_not_shown_once_more() {
        let event = |id: &str, action, at| Event {
            at,
            is_pod: false,
            action,
            id: id.into(),
            name: String::new(),
            pod: String::new(),
            pod_id: String::new(),
            image: String::new(),
            exit_code: None,
            labels: std::collections::BTreeMap::new(),
        };
        let printed = Printed::of(&[event("a", "die", 5)], 10);
        assert!(printed.has(&event("a", "die", 6)));
        assert!(!printed.has(&event("a", "die", 11)), "of the next life");
        assert!(!printed.has(&event("a", "start", 6)) && !printed.has(&event("b", "die", 6)));
    }
}
