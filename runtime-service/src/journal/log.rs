//! Writes the entries of the journal to the server's log: one event per change of a pod or container, with its
//! ids, operation and stage as fields.
//!
//! A thread does it, so that neither an operation nor the journal waits for a log that is not read, and the log does not
//! wait for the journal's disk.

use std::sync::mpsc::{SyncSender, sync_channel};

use crisp_metrics::without_passwords;
use tracing::{Level, enabled, info, warn};

use super::entry::{Action, Entry, Kind};

/// Limit for lines that wait for the log.
const QUEUE: usize = 1024;

/// The thread that logs. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Logger(Option<SyncSender<String>>);

impl Logger {
    /// Without a thread nothing is logged.
    pub(super) fn start() -> Self {
        let (sender, lines) = sync_channel::<String>(QUEUE);
        let log_all = move || lines.into_iter().for_each(|line| log(&line));
        let thread = std::thread::Builder::new().name("journal-log".to_owned()).spawn(log_all);
        Self(thread.is_ok().then_some(sender))
    }

    /// Logs a line that [`Entry::line`] has made. Returns false when it is lost.
    pub(super) fn add(&self, line: &str) -> bool {
        !enabled!(Level::WARN) || self.0.as_ref().is_some_and(|lines| lines.try_send(line.to_owned()).is_ok())
    }
}

fn log(line: &str) {
    if let Some(entry) = Entry::parse(line.as_bytes()) {
        log_entry(&entry);
    }
}

fn log_entry(entry: &Entry<'_>) {
    let some = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let image = without_passwords(if entry.kind == Kind::Image { &entry.name } else { &entry.image });
    let (container, image) = match entry.kind {
        Kind::Container => (some(&entry.id), some(&image)),
        Kind::Image => (None, some(&image)),
        Kind::Pod => (None, None),
    };
    let pod = some(&entry.pod_id);
    let name = name(entry);
    let name = some(&name);
    let operation = entry.operation.as_ref();
    let stage = operation.and_then(|operation| some(&operation.stage));
    let took_ms = operation.map(|operation| operation.took_ns / 1_000_000);
    let operation = operation.and_then(|operation| some(&operation.name));
    let text = without_passwords(&entry.text);
    let text = some(&text);
    match entry.action {
        Action::Fail => {
            warn!(
                pod,
                container,
                image,
                name,
                operation,
                stage,
                took_ms,
                error = text,
                "an operation failed"
            );
        }
        Action::Done => info!(pod, container, image, name, operation, took_ms, text, "an operation is done"),
        Action::Die => {
            let (code, reason) = entry.exit.as_ref().map(|exit| (exit.code, &*exit.reason)).unzip();
            info!(pod, container, name, code, reason, text, "ended");
        }
        Action::Create => info!(pod, container, image, name, "created"),
        Action::Start => info!(pod, container, name, "started"),
        Action::Destroy => info!(pod, container, name, "removed"),
        Action::Stop => info!(pod, container, name, text, "a stop was requested"),
        Action::Kill => info!(pod, container, name, text, "a signal was requested"),
        Action::Note => info!(pod, container, name, text, "note"),
    }
}

/// `NAMESPACE/POD` or `NAMESPACE/POD/CONTAINER`, as far as it is known.
fn name(entry: &Entry<'_>) -> String {
    let container = if entry.kind == Kind::Container { &*entry.name } else { "" };
    let names = [&*entry.namespace, &*entry.pod, container];
    names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::super::entry::{Ended, Operation};
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(entries: impl IntoIterator<Item = Entry<'static>>) -> Vec<String> {
        let (written, lines) = (Written::default(), entries.into_iter().map(Entry::line).collect::<String>());
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false);
        tracing::subscriber::with_default(subscriber.finish(), || lines.lines().for_each(log));
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn each_change_is_one_event_with_its_fields() {
        let in_pod =
            Entry { pod_id: "p1".into(), pod: "web".into(), namespace: "lab".into(), ..Entry::default() };
        let container =
            Entry { kind: Kind::Container, id: "c1".into(), name: "app".into(), ..in_pod.clone() };
        let started = Entry { action: Action::Start, ..container.clone() };
        let exit = Ended { code: 137, reason: "OOMKilled".into(), ..Ended::default() };
        let ended = Entry { action: Action::Die, exit: Some(exit), ..container.clone() };
        let operation = Operation {
            name: "start_container".into(),
            stage: "root".into(),
            took_ns: 7_000_000,
            slow: vec![],
        };
        let failed = Entry {
            action: Action::Fail,
            operation: Some(operation),
            text: "no space\nleft".into(),
            ..container
        };
        let removed = Entry { action: Action::Destroy, id: "p1".into(), name: "web".into(), ..in_pod };
        assert_eq!(
            logged([started, ended, failed, removed]),
            [
                r#"INFO started pod="p1" container="c1" name="lab/web/app""#,
                r#"INFO ended pod="p1" container="c1" name="lab/web/app" code=137 reason="OOMKilled""#,
                r#"WARN an operation failed pod="p1" container="c1" name="lab/web/app" operation="start_container" stage="root" took_ms=7 error="no space\nleft""#,
                r#"INFO removed pod="p1" name="lab/web""#,
            ]
        );
    }
}
