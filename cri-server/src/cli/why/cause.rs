//! The cause of a problem: the last failure that no later success has overcome.

use std::collections::BTreeSet;

use crisp_proto::crisp::v1::{JournalAction, JournalEntry, JournalKind};

use super::exit_code::explain;
use super::failure::failure;
use super::story::{killed_by, was_stopped, what};
use super::subject::{Subject, whole_reference};

/// The conclusion.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A failure that no later success has overcome.
    Cause(String),
    /// It runs; the failure came before.
    Before(String),
    /// It ended successfully, or because it was asked to.
    Ended(String),
    Fine(String),
}

impl Verdict {
    pub fn heading(&self) -> &'static str {
        match self {
            Self::Cause(_) => "Cause",
            Self::Before(_) => "It goes on; what went wrong before",
            Self::Ended(_) => "Ended",
            Self::Fine(_) => "Nothing is wrong",
        }
    }

    pub fn text(&self) -> &str {
        let (Self::Cause(text) | Self::Before(text) | Self::Ended(text) | Self::Fine(text)) = self;
        text
    }
}

/// A failure, or an end with a failure.
#[derive(Debug)]
struct Trouble {
    /// The key of its subject; a later success with the same key overcomes it.
    of: String,
    text: String,
    is_over: bool,
    is_bad: bool,
}

pub fn verdict(entries: &[&JournalEntry], subject: &Subject) -> Verdict {
    let mut troubles: Vec<Trouble> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        for over in overcome(entry) {
            troubles
                .iter_mut()
                .filter(|trouble| trouble.of == over)
                .for_each(|trouble| trouble.is_over = true);
        }
        if let Some(trouble) = trouble(entry, &entries[..index]) {
            troubles.retain(|other| other.of != trouble.of || other.is_over);
            troubles.push(trouble);
        }
    }
    let last = |is_bad, is_over| {
        let found = troubles.iter().rev().find(|t| t.is_bad == is_bad && t.is_over == is_over);
        found.map(|trouble| trouble.text.clone())
    };
    let nothing = || match entries {
        [] => format!("nothing is known of {subject}"),
        _ => "as far as the journal goes, all went as it should".to_owned(),
    };
    last(true, false)
        .map(Verdict::Cause)
        .or_else(|| last(false, false).filter(|_| !is_any_running(entries)).map(Verdict::Ended))
        .or_else(|| last(true, true).map(Verdict::Before))
        .unwrap_or_else(|| Verdict::Fine(nothing()))
}

/// Whether one of the containers was started and has not ended since.
fn is_any_running(entries: &[&JournalEntry]) -> bool {
    let mut ended = BTreeSet::new();
    let mut containers = entries.iter().rev().filter(|entry| entry.kind() == JournalKind::JournalContainer);
    containers.any(|entry| match entry.action() {
        JournalAction::JournalDie | JournalAction::JournalDestroy => {
            ended.insert(entry.id.as_str());
            false
        }
        JournalAction::JournalStart => !ended.contains(entry.id.as_str()),
        _ => false,
    })
}

/// The key that a container shares with the next one of its name.
fn key(verb: &str, entry: &JournalEntry) -> String {
    match entry.kind() {
        JournalKind::JournalPod => format!("{verb} pod"),
        JournalKind::JournalContainer => format!("{verb} {}", entry.name),
        JournalKind::JournalImage => format!("pull {}", entry.name),
    }
}

/// The keys of the troubles that an entry shows to be overcome.
fn overcome(entry: &JournalEntry) -> Vec<String> {
    match entry.action() {
        JournalAction::JournalCreate => {
            let image = format!("pull {}", whole_reference(&entry.image));
            vec![key("run", entry), key("create", entry), key("start", entry), key("end", entry), image]
        }
        JournalAction::JournalStart => vec![key("start", entry), key("reset", entry), key("end", entry)],
        JournalAction::JournalDie => vec![key("stop", entry)],
        JournalAction::JournalDestroy => vec![key("stop", entry), key("remove", entry)],
        JournalAction::JournalDone if entry.kind() == JournalKind::JournalImage => vec![key("pull", entry)],
        JournalAction::JournalDone => {
            let name = entry.operation.as_ref().map_or("", |operation| &operation.name);
            vec![key(name.split('_').next().unwrap_or_default(), entry)]
        }
        JournalAction::JournalStop
        | JournalAction::JournalKill
        | JournalAction::JournalFail
        | JournalAction::JournalNote => Vec::new(),
    }
}

/// Operations that bring pods and containers up or down. A failed exec or update does not explain their
/// state, and its later success is not in the journal.
const VITAL: [&str; 7] = ["run", "create", "start", "stop", "remove", "reset", "pull"];

fn trouble(entry: &JournalEntry, before: &[&JournalEntry]) -> Option<Trouble> {
    let (of, text, is_bad) = match entry.action() {
        JournalAction::JournalFail => {
            let name = entry.operation.as_ref().map_or("", |operation| &operation.name);
            let verb = name.split('_').next().filter(|verb| VITAL.contains(verb))?;
            // A start under way is cancelled when its container is stopped.
            let is_asked_for = verb == "start" && was_stopped(entry, before);
            (key(verb, entry), failure(entry), !is_asked_for)
        }
        JournalAction::JournalDie if entry.kind() == JournalKind::JournalPod => {
            (key("end", entry), format!("the pod is not ready any more: {}", entry.text), true)
        }
        JournalAction::JournalDie => return end(entry, before),
        _ => return None,
    };
    let is_empty = entry.action() == JournalAction::JournalDie && entry.text.is_empty();
    (!is_empty).then_some(Trouble { of, text, is_over: false, is_bad })
}

fn end(entry: &JournalEntry, before: &[&JournalEntry]) -> Option<Trouble> {
    let exit = entry.exit.as_ref()?;
    if exit.reason == "StartError" {
        // The failed start has an entry of its own, which says more; a record may be the only source.
        let has_entry =
            before.iter().any(|other| other.id == entry.id && other.action() == JournalAction::JournalFail);
        if has_entry {
            return None;
        }
    }
    let was_stopped = was_stopped(entry, before);
    let meaning = explain(exit.code, &exit.reason, was_stopped);
    let more = if entry.text.is_empty() { String::new() } else { format!(": {}", entry.text) };
    let of = key("end", entry);
    // The supervisor of the pod gives the reason before it stops the pod.
    let stopped = format!("{} is stopped: ", entry.name);
    let why = before.iter().rev().take(4).find_map(|other| other.text.strip_prefix(&stopped));
    let (text, is_bad) = match why.filter(|_| was_stopped) {
        Some(why) => (format!("{} was stopped because its {why}; {meaning}", what(entry)), true),
        None if !was_stopped && let Some(signal) = killed_by(entry, before) => (
            format!(
                "{} was ended by a signal that was asked for: {signal}; exit code {}",
                what(entry),
                exit.code
            ),
            true,
        ),
        None => {
            let is_bad = (exit.code != 0 && !was_stopped) || exit.reason == "OOMKilled";
            (format!("{} ended: {meaning}{more}", what(entry)), is_bad)
        }
    };
    Some(Trouble { of, text, is_over: false, is_bad })
}

#[cfg(test)]
mod tests {
    use crisp_proto::crisp::v1::{JournalExit, JournalOperation};

    use super::*;

    fn entry(action: JournalAction, kind: JournalKind, text: &str) -> JournalEntry {
        JournalEntry {
            action: action.into(),
            kind: kind.into(),
            id: "c1".into(),
            name: "app".into(),
            text: text.into(),
            image: "busybox".into(),
            ..JournalEntry::default()
        }
    }

    fn container(action: JournalAction) -> JournalEntry {
        entry(action, JournalKind::JournalContainer, "")
    }

    fn died(code: i32, reason: &str) -> JournalEntry {
        let exit = JournalExit { code, reason: reason.into(), ..JournalExit::default() };
        JournalEntry { exit: Some(exit), ..container(JournalAction::JournalDie) }
    }

    fn failed(operation: &str, stage: &str, text: &str) -> JournalEntry {
        let operation =
            JournalOperation { name: operation.into(), stage: stage.into(), ..JournalOperation::default() };
        let kind =
            if operation.name == "run_pod" { JournalKind::JournalPod } else { JournalKind::JournalContainer };
        JournalEntry { operation: Some(operation), ..entry(JournalAction::JournalFail, kind, text) }
    }

    fn of(entries: &[JournalEntry]) -> Verdict {
        let subject = Subject {
            namespace: "lab".into(),
            pod: "web".into(),
            pod_uid: String::new(),
            container: None,
            id: None,
        };
        verdict(&entries.iter().collect::<Vec<_>>(), &subject)
    }

    #[test]
    fn the_last_thing_that_went_wrong_is_the_cause_until_it_goes_right() {
        let (create, start) =
            (container(JournalAction::JournalCreate), container(JournalAction::JournalStart));
        let crash = died(3, "Error");
        let cause = of(&[create.clone(), start.clone(), crash.clone()]);
        assert!(matches!(&cause, Verdict::Cause(text) if text.contains("exit code 3")), "{cause:?}");
        let before = of(&[create.clone(), start.clone(), crash, create.clone(), start.clone()]);
        assert!(matches!(&before, Verdict::Before(text) if text.contains("exit code 3")), "{before:?}");
        assert!(matches!(of(&[create.clone(), start.clone()]), Verdict::Fine(_)));
        let done = of(&[create.clone(), start.clone(), died(0, "Completed")]);
        assert!(matches!(&done, Verdict::Ended(text) if text.contains("done its work")), "{done:?}");
        let stopped = of(&[create, start, container(JournalAction::JournalStop), died(143, "Error")]);
        assert!(matches!(&stopped, Verdict::Ended(text) if text.contains("asked to stop")), "{stopped:?}");
    }

    #[test]
    fn failures_name_their_kind() {
        for (failed, words) in [
            (failed("run_pod", "network", "CNI plugin \"x\" (ADD): no room"), "a CNI plugin failed"),
            (failed("run_pod", "network", "not done after 50 ms"), "network was not done in time"),
            (failed("start_container", "monitor", "stage exec: \"/x\": no such file"), "command not found"),
            (failed("start_container", "compile", "mounts[9] at \"/d\": /x: gone"), "to be mounted"),
        ] {
            let cause = of(&[failed]);
            assert!(matches!(&cause, Verdict::Cause(text) if text.contains(words)), "{cause:?}");
        }
    }

    #[test]
    fn a_failed_probe_is_the_cause_of_the_stop_that_follows() {
        let note =
            entry(JournalAction::JournalNote, JournalKind::JournalPod, "app is stopped: livenessProbe: 500");
        let entries = [
            container(JournalAction::JournalCreate),
            container(JournalAction::JournalStart),
            note,
            container(JournalAction::JournalStop),
            died(143, "Error"),
        ];
        let cause = of(&entries);
        assert!(matches!(&cause, Verdict::Cause(text) if text.contains("livenessProbe: 500")), "{cause:?}");
    }

    #[test]
    fn a_client_that_asked_for_the_signal_is_named() {
        let kill = |number: i32| {
            let text = format!("SIG (signal {number}), asked for by crisp (process 7, user 0)");
            entry(JournalAction::JournalKill, JournalKind::JournalContainer, &text)
        };
        let (create, start) =
            (container(JournalAction::JournalCreate), container(JournalAction::JournalStart));
        let killed = of(&[create.clone(), start.clone(), kill(9), died(137, "Error")]);
        assert!(
            matches!(&killed, Verdict::Cause(text) if text.contains("asked for by crisp (process 7")),
            "{killed:?}"
        );
        for other in [
            vec![create.clone(), start.clone(), kill(1), died(137, "Error")],
            vec![create.clone(), start.clone(), kill(9), start.clone(), died(137, "Error")],
            vec![create, start, kill(9), container(JournalAction::JournalStop), died(137, "Error")],
        ] {
            let verdict = of(&other);
            assert!(!verdict.text().contains("asked for by"), "{verdict:?}");
        }
    }

    #[test]
    fn what_people_do_to_a_running_container_is_no_cause() {
        let (create, start) =
            (container(JournalAction::JournalCreate), container(JournalAction::JournalStart));
        let exec = failed("exec_stream", "program", "bash: not found");
        assert!(matches!(of(&[create.clone(), start.clone(), exec]), Verdict::Fine(_)));
        let stop = container(JournalAction::JournalStop);
        let cancelled = failed("start_container", "root", "cancelled");
        let asked_for = of(&[create, stop, cancelled]);
        assert!(matches!(asked_for, Verdict::Ended(_)), "{asked_for:?}");
    }

    #[test]
    fn an_init_container_that_has_ended_does_not_hide_the_one_that_runs() {
        let init = |entry: JournalEntry| JournalEntry { id: "c0".into(), name: "init".into(), ..entry };
        let done = [
            init(container(JournalAction::JournalCreate)),
            init(container(JournalAction::JournalStart)),
            init(died(0, "Completed")),
        ];
        assert!(matches!(of(&done), Verdict::Ended(_)));
        let app = [container(JournalAction::JournalCreate), container(JournalAction::JournalStart)];
        assert!(matches!(of(&[&done[..], &app].concat()), Verdict::Fine(_)));
    }
}
