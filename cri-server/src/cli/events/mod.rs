//! `crisp events`: shows events of containers and pods as they happen.

mod event;

use std::collections::BTreeSet;
use std::process::ExitCode;

use crisp_operation::clock;
use crisp_proto::runtime::v1::GetEventsRequest;

use self::event::Event;
use super::Client;
use super::client::refused;
use super::filter::Filters;
use super::journal::History;
use super::names::Names;
use super::template::Template;
use crate::time;

const FILTERS: [&str; 6] = ["event", "container", "pod", "image", "type", "label"];

/// Show events of containers and pods until interrupted
///
/// With --since, past events are shown first, also from before a restart of the server and of containers and
/// pods that are gone: the server keeps the last 8 to 16 MB of events (some ten thousand) in its journal;
/// older ones are lost. Events of the last moment before the server is killed or the machine loses power may
/// be missing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp events --filter event=die --format '{{.Time}} {{.Name}} {{.ExitCode}}'
  crisp events --since 10m --until 0s

Filters: event (create, start, die, destroy), container (an id or a part of the name), pod, image, type
(container, pod), label.
Fields of templates: Time, TimeNano, Type, Action, ID, Name, Pod, PodID, Image, ExitCode, Labels.")]
pub struct Events {
    /// Also show events from this time on: 10m, or a time such as 2026-01-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stop at this time, in the same form; 0s is now
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
        // No event is missed from here on.
        let events = client.runtime.get_container_events(GetEventsRequest {}).await.map_err(refused)?;
        let mut events = events.into_inner();
        let mut known = Names::load(&mut client).await?;
        let mut printed = Printed::default();
        if let Some(since) = since {
            let history = History::load(&mut client, &known, since, until.unwrap_or_default()).await?;
            let past: Vec<Event> = history.entries.iter().filter_map(Event::of_entry).collect();
            past.iter().try_for_each(print)?;
            printed = Printed::of(&past, &history, clock::now());
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

/// The past events that were printed: the stream began before they were looked up and may repeat them.
#[derive(Default)]
struct Printed {
    /// Events with an exact time; journal and stream use one clock.
    exactly: BTreeSet<(String, &'static str, i64)>,
    /// Events that were derived from objects, whose time is less exact.
    about: BTreeSet<(String, &'static str)>,
    until: i64,
}

impl Printed {
    fn of(past: &[Event], history: &History, until: i64) -> Self {
        let (exact, about): (Vec<_>, Vec<_>) = past.iter().partition(|event| event.is_in(history));
        Self {
            exactly: exact.iter().map(|event| (event.id.clone(), event.action, event.at)).collect(),
            about: about.iter().map(|event| (event.id.clone(), event.action)).collect(),
            until,
        }
    }

    fn has(&self, event: &Event) -> bool {
        self.exactly.contains(&(event.id.clone(), event.action, event.at))
            || (event.at <= self.until && self.about.contains(&(event.id.clone(), event.action)))
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
        let event = |id: &str, action, at| Event { at, action, id: id.into(), ..Event::default() };
        let printed = Printed {
            exactly: BTreeSet::from([("j".to_owned(), "start", 7)]),
            about: BTreeSet::from([("a".to_owned(), "die")]),
            until: 10,
        };
        assert!(printed.has(&event("a", "die", 6)) && printed.has(&event("j", "start", 7)));
        assert!(!printed.has(&event("a", "die", 11)), "of the next life");
        assert!(!printed.has(&event("j", "start", 8)), "of the next life");
        assert!(!printed.has(&event("a", "start", 6)) && !printed.has(&event("b", "die", 6)));
    }
}
