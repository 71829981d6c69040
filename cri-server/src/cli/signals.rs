//! The signals that end this program while the user's terminal is changed.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that end this program after it has restored the terminal.
pub struct Signals([(u8, Option<Signal>); 4]);

impl Signals {
    /// From now on these signals are received here and no longer end the program. A hang-up that was ignored
    /// when this program began, as with nohup, stays ignored.
    ///
    /// # Errors
    /// The system has no resources left.
    pub fn new() -> std::io::Result<Self> {
        let hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
        let hear = |number, kind| Ok::<_, std::io::Error>((number, Some(signal(kind)?)));
        Ok(Self([
            (1, hangup),
            hear(2, SignalKind::interrupt())?,
            hear(3, SignalKind::quit())?,
            hear(15, SignalKind::terminate())?,
        ]))
    }

    /// Waits for the next signal and returns its number.
    pub async fn next(&mut self) -> u8 {
        let [hangup, interrupt, quit, terminate] = &mut self.0;
        tokio::select! {
            () = receive(&mut hangup.1) => hangup.0,
            () = receive(&mut interrupt.1) => interrupt.0,
            () = receive(&mut quit.1) => quit.0,
            () = receive(&mut terminate.1) => terminate.0,
        }
    }
}

async fn receive(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}

/// From the mask of ignored signals, see proc_pid_status(5).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
