//! What crisp itself says about a pod, as it happens.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Display, Formatter};
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
    /// Says one thing. A standard error that is closed must not fail a run, which still has a pod to remove:
    /// `eprintln!` would panic.
    pub fn say(&self, text: impl Display) {
        match self {
            // One write, so that lines do not mix with those of containers.
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
    /// Says what goes as it should.
    pub fn routine(&self, text: impl Display) {
        match self {
            Self::Failures => {}
            // What the server's own journal of events has without it.
            Self::Journal(journal) => journal.add(text.to_string()),
            Self::Screen(_) => self.say(text),
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
        Self { pod, lines: Mutex::default(), new: broadcast::Sender::new(KEPT), keep: OnceLock::new() }
    }

    /// Gives each line from now on, but for those of routine, to `keep` too. The first call counts.
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
