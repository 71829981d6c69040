//! Messages of crisp about a pod.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Display, Formatter};
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::broadcast;

/// Lines that are kept for later clients.
const KEPT: usize = 100;

/// The destination of messages.
#[derive(Debug, Clone)]
pub enum Report {
    /// Standard error, with this prefix.
    Screen(String),
    /// Standard error, but only failures: the screen belongs to a container.
    Failures,
    /// The server's log and its clients.
    Journal(Arc<Journal>),
}

/// The newest lines about one pod.
pub struct Journal {
    pod: String,
    lines: Mutex<VecDeque<String>>,
    new: broadcast::Sender<String>,
    keep: OnceLock<Keep>,
}

type Keep = Box<dyn Fn(&str) + Send + Sync>;

impl Debug for Journal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("pod", &self.pod).finish_non_exhaustive()
    }
}

impl Report {
    /// Sends one message. A closed standard error must not end a run, which still has a pod to remove:
    /// `eprintln!` would panic.
    pub fn emit(&self, text: impl Display) {
        match self {
            // One write, so that the line does not mix with those of containers.
            Self::Screen(prefix) => write(prefix, text),
            Self::Failures => write("", text),
            Self::Journal(journal) => {
                let text = text.to_string();
                journal.keep.get().iter().for_each(|keep| keep(&text));
                journal.add(text);
            }
        }
    }
}

impl Report {
    /// Sends a message about normal progress.
    pub fn routine(&self, text: impl Display) {
        match self {
            Self::Failures => {}
            // The server's own journal of events has these events already.
            Self::Journal(journal) => journal.add(text.to_string()),
            Self::Screen(_) => self.emit(text),
        }
    }
}

fn write(prefix: &str, text: impl Display) {
    let line = format!("crisp: {prefix}{text}\n");
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

impl Journal {
    /// For the pod with that name.
    pub fn new(pod: String) -> Self {
        Self { pod, lines: Mutex::default(), new: broadcast::Sender::new(KEPT), keep: OnceLock::new() }
    }

    /// Passes each later line, except routine ones, to `keep` too. Only the first call has an effect.
    pub fn keep_in(&self, keep: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.keep.set(Box::new(keep));
    }

    fn add(&self, line: String) {
        tracing::info!(pod = self.pod, "{line}");
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.clone());
        // Fails when there is no receiver, which is fine.
        let _ = self.new.send(line);
    }

    /// The lines so far, and a receiver for later ones.
    pub fn follow(&self) -> (Vec<String>, broadcast::Receiver<String>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.iter().cloned().collect(), self.new.subscribe())
    }
}

/// Writes a line that is not about a pod to standard error.
pub fn notice(text: impl Display) {
    Report::Screen(String::new()).emit(text);
}
