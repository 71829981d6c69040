//! The signals that ask this program to end while it has changed the user's terminal.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that end this program: it restores the terminal first.
pub struct Signals([(u8, Option<Signal>); 4]);

impl Signals {
    /// Hears them from now on, instead of ending. Those that were ignored when this program began, as by nohup,
    /// stay so.
    ///
    /// # Errors
    /// The system has no room.
    pub fn new() -> std::io::Result<Self> {
        let ignored = ignored();
        let hear = |kind: SignalKind| -> std::io::Result<_> {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or(u8::MAX);
            let is_ignored = ignored >> number.saturating_sub(1) & 1 == 1;
            Ok((number, if is_ignored { None } else { Some(signal(kind)?) }))
        };
        Ok(Self([
            hear(SignalKind::hangup())?,
            hear(SignalKind::interrupt())?,
            hear(SignalKind::quit())?,
            hear(SignalKind::terminate())?,
        ]))
    }

    /// The number of the next one.
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

/// A bit for each signal that is ignored, from 1 on, as proc_pid_status(5) says.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
