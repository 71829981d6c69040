//! Makes a session with all its streams out of an upgraded connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::SessionLimits;
use super::negotiate::{Framing, MAX_FIXED_PORTS};
use super::tokens::{Offer, Serve};
use crate::carrier::Carrier;
use crate::port_forward::{MAX_WAITING, Pairs, PortForwardSession, PortStream, Source};
use crate::process::{Outcome, ProcessRequest, ProcessSession, Protocol, Resizes};
use crate::slots::{Full, OwnedSlots, Slot};
use crate::spdy::{self, Incoming, Role, Rules};
use crate::stream::{StreamReader, StreamWriter};
use crate::transport::{Duplex, Hangup, Transport};
use crate::websocket::{self, Channels, Tunnel};

/// How long a client may take to open the requested streams.
const STREAMS: Duration = Duration::from_secs(30);
/// How many streams a client may open before the session takes them.
const WAITING: usize = 32;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// A connection that is about to use the agreed framing.
pub(super) struct Upgrading {
    pub(super) upgraded: OnUpgrade,
    pub(super) framing: Framing,
    pub(super) offer: Offer,
    /// The slot of the session.
    pub(super) slot: Slot,
    pub(super) owner: Arc<str>,
}

/// The connection of a session before any bytes of the framing.
struct Link {
    io: Box<dyn Duplex>,
    /// The bytes that were read after the request.
    read: BytesMut,
    hangup: Hangup,
    rules: Rules,
    /// The slots for long messages of a WebSocket.
    large: OwnedSlots,
}

/// Runs the session to its end.
pub(super) async fn run(upgrading: Upgrading, hangup: Hangup, limits: &SessionLimits) {
    let Upgrading { upgraded, framing, offer, slot, owner } = upgrading;
    let Ok(upgraded) = upgraded.await else { return };
    let Some((io, read)) = take_apart(upgraded) else { return };
    let slots = Some(OwnedSlots { slots: limits.streams.clone(), owner: owner.clone() });
    let large = OwnedSlots { slots: limits.large.clone(), owner };
    match offer {
        Offer::Process { request, serve } => {
            // Such a session has five streams at most, so they do not count against those of port-forward
            // sessions.
            let link = Link { io, read, hangup, rules: Rules::default(), large };
            process(request, serve, framing, link).await;
        }
        Offer::PortForward { ports, serve } => {
            let rules = Rules { slots, patience: Some(limits.stalled) };
            let link = Link { io, read, hangup, rules, large };
            let (carrier, source) = forward(&ports, framing, link).await;
            serve(PortForwardSession { source, carrier }).await;
        }
    }
    drop(slot);
}

/// Returns the connection below HTTP, and the bytes that were read after the request.
fn take_apart(upgraded: Upgraded) -> Option<(Box<dyn Duplex>, BytesMut)> {
    let parts = upgraded.downcast::<TokioIo<Transport>>().ok()?;
    Some((Box::new(parts.io.into_inner()), BytesMut::from(parts.read_buf)))
}

async fn process(request: ProcessRequest, serve: Serve<ProcessSession>, framing: Framing, link: Link) {
    let session = match framing {
        Framing::Spdy { protocol } => {
            let (running, incoming) = link.spdy(WAITING);
            by_name(request, protocol, running, incoming).await
        }
        Framing::WebSocket { protocol, base64 } => {
            let half_close = protocol >= Protocol::V5;
            let running = link.websocket(vec![STDIN, RESIZE], base64, half_close).await;
            Some(by_number(request, protocol, running).await)
        }
        Framing::Tunnel => None,
    };
    if let Some(session) = session {
        serve(session).await;
    }
}

impl Link {
    fn spdy(self, waiting: usize) -> (spdy::Running, mpsc::Receiver<Incoming>) {
        let Self { io, read, hangup, rules, .. } = self;
        spdy::Running::start(Role::Server, rules, io, read, hangup, waiting)
    }

    async fn websocket(self, read_from: Vec<u8>, base64: bool, half_close: bool) -> websocket::Running {
        let Self { io, read, hangup, rules, large } = self;
        let channels = Channels { read: read_from, base64, half_close, patience: rules.patience };
        websocket::Running::start(io, read, hangup, &channels, large).await
    }
}

/// Takes the streams that the client opens over SPDY. Returns None when it is gone, or does not open them in
/// time.
async fn by_name(
    request: ProcessRequest,
    protocol: Protocol,
    running: spdy::Running,
    mut incoming: mpsc::Receiver<Incoming>,
) -> Option<ProcessSession> {
    let mut streams = Streams::default();
    let all = async {
        while !streams.are_all(request, protocol) {
            streams.add(incoming.recv().await?);
        }
        Some(())
    };
    match tokio::time::timeout(STREAMS, all).await {
        Ok(Some(())) => {}
        Ok(None) => return None,
        Err(_) => {
            tracing::debug!(?request, "a client did not open all its streams in time");
            // While its input is not read, a client without windows would not get the failure.
            drop((streams.stdin.take(), streams.resize.take()));
            if let Some(error) = streams.error {
                let failure =
                    Outcome::Failed("the client did not open all streams that were asked for".to_owned());
                tokio::select! {
                    () = failure.send_status(error, protocol) => {}
                    () = running.gone() => {}
                }
            }
            running.finish().await;
            return None;
        }
    }
    let Streams { stdin, stdout, stderr, resize, error } = streams;
    Some(ProcessSession {
        stdin: stdin.filter(|_| request.stdin),
        stdout: stdout.filter(|_| request.stdout),
        stderr: stderr.filter(|_| request.stderr),
        resizes: resize.filter(|_| request.tty).map(Resizes::new),
        error: error?,
        protocol,
        carrier: Carrier::Spdy(running),
    })
}

#[derive(Default)]
struct Streams {
    stdin: Option<StreamReader>,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    resize: Option<StreamReader>,
    error: Option<StreamWriter>,
}

impl Streams {
    /// Keeps the half of the stream that is used. A second stream of the same name, or one with an unknown
    /// name, is reset.
    fn add(&mut self, incoming: Incoming) {
        let Incoming { headers, reader, writer, .. } = incoming;
        match headers.get("streamtype").unwrap_or_default() {
            "stdin" if self.stdin.is_none() => self.stdin = Some(input(reader, writer)),
            "resize" if self.resize.is_none() => self.resize = Some(input(reader, writer)),
            "stdout" if self.stdout.is_none() => self.stdout = Some(writer),
            "stderr" if self.stderr.is_none() => self.stderr = Some(writer),
            "error" if self.error.is_none() => self.error = Some(writer),
            _ => {}
        }
    }

    fn are_all(&self, request: ProcessRequest, protocol: Protocol) -> bool {
        let resize = request.tty && protocol >= Protocol::V3;
        self.error.is_some()
            && (self.stdin.is_some() || !request.stdin)
            && (self.stdout.is_some() || !request.stdout)
            && (self.stderr.is_some() || !request.stderr)
            && (self.resize.is_some() || !resize)
    }
}

/// The half that the client does not read is neither closed nor reset.
fn input(reader: StreamReader, writer: StreamWriter) -> StreamReader {
    writer.leave();
    reader
}

/// Makes the streams of a WebSocket, which all exist from the start.
async fn by_number(
    request: ProcessRequest,
    protocol: Protocol,
    running: websocket::Running,
) -> ProcessSession {
    let first = match request {
        ProcessRequest { stdout: true, .. } => STDOUT,
        ProcessRequest { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    running.greet(first).await;
    ProcessSession {
        stdin: running.reader(STDIN).filter(|_| request.stdin),
        stdout: request.stdout.then(|| running.writer(STDOUT)),
        stderr: request.stderr.then(|| running.writer(STDERR)),
        resizes: running.reader(RESIZE).filter(|_| request.tty).map(Resizes::new),
        error: running.writer(ERROR),
        protocol,
        carrier: Carrier::WebSocket(running),
    }
}

async fn forward(ports: &[u16], framing: Framing, mut link: Link) -> (Carrier, Source) {
    if let Framing::WebSocket { base64, .. } = framing {
        return forward_fixed(ports, base64, link).await;
    }
    if framing == Framing::Tunnel {
        let (read, large) = (std::mem::take(&mut link.read), link.large.clone());
        link.io = Box::new(Tunnel::new(link.io, read, large).await);
    }
    let (running, incoming) = link.spdy(MAX_WAITING);
    (Carrier::Spdy(running), Source::Pairs(Pairs::new(incoming)))
}

async fn forward_fixed(ports: &[u16], base64: bool, mut link: Link) -> (Carrier, Source) {
    // The request was refused if there are more.
    let ports: Vec<(u8, u16)> =
        (0..).take(MAX_FIXED_PORTS).map(|n| n * 2).zip(ports.iter().copied()).collect();
    let read_from = ports.iter().map(|(channel, _)| *channel).collect();
    let slots = link.rules.slots.take();
    if ports.len() == 1 {
        // There is no other connection that waits for it.
        link.rules.patience = None;
    }
    let running = link.websocket(read_from, base64, false).await;
    let mut streams = VecDeque::new();
    for (channel, port) in ports {
        let slot = slots.as_ref().map(OwnedSlots::take).transpose();
        streams.extend(fixed(&running, channel, port, slot).await);
    }
    (Carrier::WebSocket(running), Source::Fixed(streams))
}

/// Sends the port number on both channels of a port, little-endian. Returns None when there is no slot for
/// it, or when the client is gone.
async fn fixed(
    running: &websocket::Running,
    channel: u8,
    port: u16,
    slot: Result<Option<Slot>, Full>,
) -> Option<PortStream> {
    // Without a slot the reader is dropped, and the data of the channel is discarded.
    let reader = running.reader(channel)?;
    let (mut writer, mut error) = (running.writer(channel), running.writer(channel + 1));
    writer.write(&port.to_le_bytes()).await.ok()?;
    error.write(&port.to_le_bytes()).await.ok()?;
    let Ok(_slot) = slot else {
        let _ = error.write(b"too many streams are open").await;
        return None;
    };
    Some(PortStream { port, reader, writer, error, is_reset_seen: false, _slot })
}
