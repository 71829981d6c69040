//! A port-forward session: any number of connections to ports, each with streams of its own.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::carrier::Carrier;
use crate::slots::Slot;
use crate::spdy::Incoming;
use crate::stream::{StreamReader, StreamWriter};

/// How long a stream waits for the other stream of its pair.
const PARTNER: Duration = Duration::from_secs(30);
/// How many streams may wait for their partners: a client that opens many connections at once opens all their
/// error streams first.
pub(crate) const MAX_WAITING: usize = 1024;

/// A client that forwards ports.
pub struct PortForwardSession {
    pub(crate) source: Source,
    pub(crate) carrier: Carrier,
}

/// One connection to a port.
pub struct PortStream {
    pub port: u16,
    pub reader: StreamReader,
    pub writer: StreamWriter,
    /// Sends the reason, as text, when the connection failed.
    pub error: StreamWriter,
    /// Whether the client sees that `writer` was dropped without an end. A WebSocket with fixed ports has no way
    /// to say that: such a client sees only what is sent to `error`, and cannot end its own direction alone.
    pub is_reset_seen: bool,
    /// None when each stream has its own slot.
    pub(crate) _slot: Option<Slot>,
}

/// The source of a session's connections.
pub(crate) enum Source {
    /// The client named all ports at the start.
    Fixed(VecDeque<PortStream>),
    /// The client opens connections during the session.
    Pairs(Pairs),
}

impl PortForwardSession {
    /// Returns the next connection. None when there will be no more; open connections may continue. Dropping
    /// this future loses no connection.
    pub async fn next(&mut self) -> Option<PortStream> {
        match &mut self.source {
            Source::Pairs(pairs) => pairs.next().await,
            Source::Fixed(streams) => streams.pop_front(),
        }
    }

    /// Returns when the client is gone.
    pub async fn gone(&self) {
        self.carrier.gone().await;
    }

    /// Whether a client that is gone has closed its session properly. Without half closes, that is how it
    /// reports the end of its input, so its data can be read to the end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.carrier.is_closed()
    }

    /// Closes the session.
    pub async fn finish(self) {
        self.carrier.finish().await;
    }
}

/// Pairs the streams of a client: an error stream and a data stream with the same request id.
pub(crate) struct Pairs {
    incoming: mpsc::Receiver<Incoming>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    key: String,
    until: Instant,
    stream: Half,
}

enum Half {
    Error(Incoming),
    Data(Incoming),
}

impl Pairs {
    pub(crate) fn new(incoming: mpsc::Receiver<Incoming>) -> Self {
        Self { incoming, waiting: VecDeque::new() }
    }

    async fn next(&mut self) -> Option<PortStream> {
        loop {
            let first = self.waiting.front().map(|waiting| waiting.until);
            let expiry = async {
                match first {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let incoming = tokio::select! {
                incoming = self.incoming.recv() => incoming?,
                () = expiry => {
                    // Dropping the stream resets it.
                    self.waiting.pop_front();
                    continue;
                }
            };
            if let Some(pair) = self.pair(incoming) {
                return Some(pair);
            }
        }
    }

    /// Returns None when the stream waits for its partner, or when it is not valid and is reset.
    fn pair(&mut self, incoming: Incoming) -> Option<PortStream> {
        let key = key(&incoming)?;
        let half = match incoming.headers.get("streamtype")? {
            "error" => Half::Error(incoming),
            "data" => Half::Data(incoming),
            _ => return None,
        };
        let partner = self.waiting.iter().position(|waiting| {
            waiting.key == key && matches!(waiting.stream, Half::Error(_)) != matches!(half, Half::Error(_))
        });
        let Some(partner) = partner.and_then(|at| self.waiting.remove(at)) else {
            // The new stream is refused, not the oldest: the partner of the oldest is already on its way.
            if self.waiting.len() >= MAX_WAITING {
                return None;
            }
            self.waiting.push_back(Waiting { key, until: Instant::now() + PARTNER, stream: half });
            return None;
        };
        let (error, data) = match (partner.stream, half) {
            (Half::Error(error), Half::Data(data)) | (Half::Data(data), Half::Error(error)) => (error, data),
            _ => return None,
        };
        let port = data.headers.get("port")?.parse().ok().filter(|port| *port != 0)?;
        Some(PortStream {
            port,
            reader: data.reader,
            writer: data.writer,
            error: error.writer,
            is_reset_seen: true,
            _slot: None,
        })
    }
}

/// Returns a key that both streams of a pair share. Old clients send no request id; their data stream is the
/// one that was opened next after the error stream.
fn key(incoming: &Incoming) -> Option<String> {
    if let Some(id) = incoming.headers.get("requestid") {
        return Some(id.to_owned());
    }
    let is_data = incoming.headers.get("streamtype")? == "data";
    Some(format!("stream {}", if is_data { incoming.stream.wrapping_sub(2) } else { incoming.stream }))
}
