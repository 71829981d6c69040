//! The signals that ask this program to end while it has changed the user's terminal.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that end this program: it restores the terminal first.
pub struct Signals([(u8, Signal); 3]);

impl Signals {
    /// Hears them from now on, instead of ending.
    ///
    /// # Errors
    /// The system has no room.
    pub fn new() -> std::io::Result<Self> {
        let hear = |number, kind| Ok::<_, std::io::Error>((number, signal(kind)?));
        Ok(Self([
            hear(1, SignalKind::hangup())?,
            hear(2, SignalKind::interrupt())?,
            hear(15, SignalKind::terminate())?,
        ]))
    }

    /// The number of the next one.
    pub async fn next(&mut self) -> u8 {
        let [hangup, interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = hangup.1.recv() => hangup.0,
            _ = interrupt.1.recv() => interrupt.0,
            _ = terminate.1.recv() => terminate.0,
        }
    }
}
