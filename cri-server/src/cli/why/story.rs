//! The events, one line for each entry.

use std::fmt;

use crisp_proto::crisp::v1::{JournalAction, JournalEntry, JournalKind, JournalOperation};

use super::super::stuck::seconds;
use super::exit_code::explain;
use super::subject::Subject;

/// An event, perhaps repeated several times in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at: i64,
    pub text: String,
    pub is_bad: bool,
    pub times: usize,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.times > 1 { write!(f, " ({} times)", self.times) } else { Ok(()) }
    }
}

/// The oldest first; equal entries in a row become one line with the time of the last.
pub fn lines(entries: &[&JournalEntry], subject: &Subject) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let Some((text, is_bad)) = line(entry, &entries[..index], subject) else { continue };
        match lines.last_mut().filter(|last| is_bad && last.text == text) {
            Some(last) => (last.at, last.times) = (entry.at, last.times + 1),
            None => lines.push(Line { at: entry.at, text, is_bad, times: 1 }),
        }
    }
    lines
}

fn line(entry: &JournalEntry, before: &[&JournalEntry], subject: &Subject) -> Option<(String, bool)> {
    let what = what(entry);
    let is_pod = entry.kind() == JournalKind::JournalPod;
    let good = |text: String| Some((text, false));
    match entry.action() {
        JournalAction::JournalCreate if is_pod => good(format!("{what} was made")),
        JournalAction::JournalCreate => good(format!("{what} was created from the image {}", entry.image)),
        // The start of a pod and its creation come at once.
        JournalAction::JournalStart if is_pod => None,
        JournalAction::JournalStart => good(format!("{what} was started")),
        JournalAction::JournalKill => good(format!("{what} was sent {}", entry.text)),
        JournalAction::JournalStop => good(format!("{what} was asked to stop ({})", entry.text)),
        JournalAction::JournalDie if is_pod && entry.text.is_empty() => good(format!("{what} was stopped")),
        JournalAction::JournalDie if is_pod => {
            Some((format!("{what} is not ready any more: {}", entry.text), true))
        }
        JournalAction::JournalDie => Some(end(entry, before)),
        JournalAction::JournalDestroy => good(format!("{what} was removed")),
        JournalAction::JournalFail => Some((failure(entry), true)),
        JournalAction::JournalDone => good(done(entry)),
        JournalAction::JournalNote => {
            let is_mine = subject.container.as_ref().is_none_or(|name| entry.text.starts_with(name.as_str()));
            let is_bad = ["is stopped:", "is not ready", "cannot be", "has failed"];
            is_mine.then(|| (entry.text.clone(), is_bad.iter().any(|words| entry.text.contains(words))))
        }
    }
}

/// The words for the object of an entry, as used in messages.
pub fn what(entry: &JournalEntry) -> String {
    let attempt = match entry.attempt {
        0 => String::new(),
        attempt => format!(" (attempt {attempt})"),
    };
    match entry.kind() {
        JournalKind::JournalPod => format!("the pod{attempt}"),
        JournalKind::JournalContainer => format!("container {}{attempt}", entry.name),
        JournalKind::JournalImage => format!("the image {}", entry.name),
    }
}

/// The end of a container. True when it was neither requested nor a success.
fn end(entry: &JournalEntry, before: &[&JournalEntry]) -> (String, bool) {
    let Some(exit) = &entry.exit else { return (format!("{} ended", what(entry)), false) };
    let ran = exit.finished_at.saturating_sub(exit.started_at);
    let ran = match u64::try_from(ran) {
        Ok(ran) if exit.started_at != 0 => format!(" after {}", seconds(ran)),
        _ => String::new(),
    };
    let was_stopped = was_stopped(entry, before);
    let meaning = explain(exit.code, &exit.reason, was_stopped);
    let text = if entry.text.is_empty() { String::new() } else { format!(": {}", entry.text) };
    let is_bad = (exit.code != 0 && !was_stopped) || exit.reason == "OOMKilled";
    (format!("{} ended{ran}: {meaning}{text}", what(entry)), is_bad)
}

/// Whether the container had been asked to stop since its last start.
pub fn was_stopped(entry: &JournalEntry, before: &[&JournalEntry]) -> bool {
    let of_it = before.iter().rev().filter(|other| other.id == entry.id && !entry.id.is_empty());
    let last = of_it.map(|other| other.action()).find(|action| {
        matches!(action, JournalAction::JournalStop | JournalAction::JournalStart | JournalAction::JournalDie)
    });
    last == Some(JournalAction::JournalStop)
}

/// The program that requested the signal that ended the container, since its last start.
pub fn killed_by<'a>(entry: &JournalEntry, before: &[&'a JournalEntry]) -> Option<&'a str> {
    let number = entry.exit.as_ref()?.code - 128;
    let of_it = before.iter().rev().filter(|other| other.id == entry.id && !entry.id.is_empty());
    let mut of_this_life = of_it.take_while(|other| other.action() != JournalAction::JournalStart);
    let is_it = |other: &&&JournalEntry| {
        let is_kill = other.action() == JournalAction::JournalKill;
        is_kill && other.text.contains(&format!("(signal {number})"))
    };
    Some(of_this_life.find(is_it)?.text.as_str())
}

/// The operation and its object: `starting container app`.
pub fn trying(entry: &JournalEntry) -> String {
    let name = entry.operation.as_ref().map_or("", |operation| &operation.name);
    let what = what(entry);
    let (verb, rest) = name.split_once('_').unwrap_or((name, ""));
    let verb = match (verb, rest) {
        ("run", _) => "making",
        ("create", _) => "creating",
        ("start", _) => "starting",
        ("stop", _) => "stopping",
        ("remove", _) => "removing",
        ("pull", _) => "pulling",
        ("update", _) => "updating",
        ("pause", _) => "pausing",
        ("unpause", _) => "unpausing",
        ("commit", _) => "making an image of",
        _ => return format!("{name} of {what}"),
    };
    format!("{verb} {what}")
}

fn failure(entry: &JournalEntry) -> String {
    let operation = entry.operation.clone().unwrap_or_default();
    let stage = match operation.stage.as_str() {
        "" => String::new(),
        stage => format!(" in the stage {stage}"),
    };
    let took = match operation.took_nanoseconds {
        0 => String::new(),
        took => format!(" after {}", seconds(took)),
    };
    format!("{} failed{stage}{took}: {}{}", trying(entry), entry.text, slow(&operation))
}

fn done(entry: &JournalEntry) -> String {
    let operation = entry.operation.clone().unwrap_or_default();
    let took = seconds(operation.took_nanoseconds);
    let text = if entry.text.is_empty() { String::new() } else { format!(", {}", entry.text) };
    if entry.kind() == JournalKind::JournalImage {
        return format!("{} was pulled in {took}{text}{}", what(entry), slow(&operation));
    }
    format!("{} took {took}{text}{}", trying(entry), slow(&operation))
}

/// The stages that took long.
fn slow(operation: &JournalOperation) -> String {
    let stages = operation.slow.iter().map(|stage| format!("{} {}", stage.name, seconds(stage.nanoseconds)));
    let stages: Vec<String> = stages.collect();
    if stages.is_empty() { String::new() } else { format!(" [{}]", stages.join(", ")) }
}
