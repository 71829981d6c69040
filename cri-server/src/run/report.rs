//! What crisp itself says about a pod, as it happens.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

/// So many lines are kept for those who ask later.
const KEPT: usize = 100;

/// Where it is said.
#[derive(Debug, Clone)]
pub enum Report {
    /// On standard error, behind this text.
    Screen(String),
    /// On standard error, only what goes wrong: the screen is a container's.
    Failures,
    /// In the server's log, and to clients.
    Journal(Arc<Journal>),
}

/// The newest lines about one pod.
#[derive(Debug)]
pub struct Journal {
    pod: String,
    lines: Mutex<VecDeque<String>>,
    new: broadcast::Sender<String>,
}

impl Report {
    /// Says one thing. A standard error that is closed must not fail a run, which still has a pod to remove:
    /// `eprintln!` would panic.
    pub fn say(&self, text: impl Display) {
        match self {
            // One write, so that lines do not mix with those of containers.
            Self::Screen(prefix) => write(prefix, text),
            Self::Failures => write("", text),
            Self::Journal(journal) => journal.add(text.to_string()),
        }
    }
}

impl Report {
    /// Says what goes as it should.
    pub fn routine(&self, text: impl Display) {
        if !matches!(self, Self::Failures) {
            self.say(text);
        }
    }
}

fn write(prefix: &str, text: impl Display) {
    let line = format!("crisp: {prefix}{text}\n");
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

impl Journal {
    /// Of the pod of that name.
    pub fn new(pod: String) -> Self {
        Self { pod, lines: Mutex::default(), new: broadcast::Sender::new(KEPT) }
    }

    fn add(&self, line: String) {
        tracing::info!(pod = self.pod, "{line}");
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.clone());
        // Without a receiver there is nothing to do.
        let _ = self.new.send(line);
    }

    /// The lines so far, and those that come.
    pub fn follow(&self) -> (Vec<String>, broadcast::Receiver<String>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.iter().cloned().collect(), self.new.subscribe())
    }
}

/// Writes a line to standard error that is about no pod.
pub fn notice(text: impl Display) {
    Report::Screen(String::new()).say(text);
}
