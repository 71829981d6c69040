//! The state of one SPDY connection: its streams, their windows, and what is to be sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crisp_operation::Cancel;
use tokio::io::WriteHalf;
use tokio::sync::{Notify, mpsc};

use super::frame::{self, Encoder, Frame, ResetReason};
use super::header_block::Headers;
use super::output::Output;
use super::windows::{Announced, Window};
use crate::stream::{Framing, Queue, Sent, StreamError, StreamReader, StreamWriter, WINDOW};
use crate::transport::{Duplex, Hangup};

/// Streams that may be open at once.
const MAX_STREAMS: usize = 1024;
/// The longest data frame: others get their turn after it.
const MAX_DATA: usize = 64 << 10;
/// Answers that wait for a peer that does not read.
const MAX_CONTROL: usize = 64 << 10;

/// Which side of the connection this is: streams of a client have odd numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// A stream that the peer opened.
pub(crate) struct Incoming {
    pub(crate) stream: u32,
    pub(crate) headers: Headers,
    pub(crate) reader: StreamReader,
    pub(crate) writer: StreamWriter,
}

pub(crate) struct Connection {
    role: Role,
    state: Mutex<State>,
    output: tokio::sync::Mutex<Output>,
    /// Control frames wait to be sent.
    pub(super) unsent: Notify,
    hangup: Hangup,
    /// Cancelled when the connection is over.
    pub(super) over: Cancel,
}

struct State {
    streams: HashMap<u32, Stream>,
    session: Window,
    announced: Announced,
    encoder: Encoder,
    control: Vec<u8>,
    last_of_peer: u32,
    next_of_ours: u32,
}

struct Stream {
    queue: Arc<Queue>,
    window: Window,
    /// The window has become wider, or the stream is over.
    room: Arc<Notify>,
    we_closed: bool,
    peer_closed: bool,
}

impl Stream {
    fn end(&self, end: Result<(), StreamError>) {
        self.queue.end(end);
        self.room.notify_one();
    }
}

/// What to do about the bytes of a data frame.
enum Target {
    Queue(Arc<Queue>),
    Discard,
}

impl Connection {
    pub(super) fn new(role: Role, io: WriteHalf<Box<dyn Duplex>>, hangup: Hangup) -> Self {
        let announced = Announced::nothing(role == Role::Client);
        let mut control = Vec::new();
        let window = u32::try_from(WINDOW).unwrap_or(u32::MAX >> 1);
        frame::settings(&mut control, window);
        frame::window_update(&mut control, 0, window);
        let state = State {
            streams: HashMap::new(),
            session: Window::new(announced.initial),
            announced,
            encoder: Encoder::default(),
            control,
            last_of_peer: 0,
            next_of_ours: if role == Role::Client { 1 } else { 2 },
        };
        let unsent = Notify::new();
        unsent.notify_one();
        Self {
            role,
            state: Mutex::new(state),
            output: tokio::sync::Mutex::new(Output::new(io)),
            unsent,
            hangup,
            over: Cancel::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues control frames.
    fn control(&self, state: &mut State, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        write(&mut state.encoder, &mut state.control);
        self.unsent.notify_one();
    }

    /// Ends everything: readers and writers get [`StreamError::Lost`].
    pub(super) fn lose(&self) {
        self.over.cancel();
        let streams = std::mem::take(&mut self.lock().streams);
        streams.values().for_each(|stream| stream.end(Err(StreamError::Lost)));
    }

    /// Opens a stream towards the peer. `fin`: this side sends nothing on it.
    pub(crate) fn open(
        self: &Arc<Self>,
        headers: &Headers,
        fin: bool,
    ) -> Result<(StreamReader, StreamWriter), StreamError> {
        let mut state = self.lock();
        if self.over.is_cancelled() || state.streams.len() >= MAX_STREAMS {
            return Err(StreamError::Lost);
        }
        let stream = state.next_of_ours;
        state.next_of_ours += 2;
        let queue = state.add(stream, fin);
        self.control(&mut state, |encoder, bytes| encoder.syn_stream(bytes, stream, headers, fin));
        Ok(self.ends(stream, queue))
    }

    fn ends(self: &Arc<Self>, stream: u32, queue: Arc<Queue>) -> (StreamReader, StreamWriter) {
        let framing: Arc<dyn Framing> = self.clone();
        (StreamReader::new(framing.clone(), stream, queue), StreamWriter::new(framing, stream))
    }

    /// Does what a frame asks. Waits while the reader of a stream has no room.
    pub(super) async fn receive(
        self: &Arc<Self>,
        frame: Frame,
        incoming: &mpsc::Sender<Incoming>,
    ) -> Result<(), StreamError> {
        match frame {
            Frame::SynStream { stream, headers, fin } => {
                self.syn_stream(stream, headers, incoming);
                self.peer_closes(stream, fin);
            }
            Frame::SynReply { stream, fin } | Frame::Headers { stream, fin } => self.peer_closes(stream, fin),
            Frame::RstStream { stream } => {
                if let Some(stream) = self.lock().streams.remove(&stream) {
                    stream.end(Err(StreamError::Reset));
                }
            }
            Frame::Settings { initial_window } => self.lock().settings(initial_window),
            Frame::Ping { id } => self.ping(id),
            // The peer opens no more streams; those that are open go on.
            Frame::GoAway => {}
            Frame::WindowUpdate { stream, delta } => self.lock().window_update(stream, delta.into()),
            Frame::Data { stream, bytes, fin } => {
                self.data(stream, &bytes).await?;
                self.peer_closes(stream, fin);
            }
        }
        if self.lock().control.len() > MAX_CONTROL {
            tracing::debug!("a peer asks for more answers than it reads");
            return Err(StreamError::Lost);
        }
        Ok(())
    }

    fn syn_stream(self: &Arc<Self>, stream: u32, headers: Headers, incoming: &mpsc::Sender<Incoming>) {
        let mut state = self.lock();
        let of_peer = (stream % 2 == 1) == (self.role == Role::Server);
        if !of_peer || stream <= state.last_of_peer {
            // A number is used once. What was opened under it before is in doubt, too.
            let ended = state.streams.remove(&stream);
            self.reset_with(&mut state, stream, ResetReason::ProtocolError);
            drop(state);
            ended.iter().for_each(|stream| stream.end(Err(StreamError::Reset)));
            return;
        }
        state.last_of_peer = stream;
        let Ok(place) = incoming.try_reserve() else {
            return self.reset_with(&mut state, stream, ResetReason::RefusedStream);
        };
        if state.streams.len() >= MAX_STREAMS {
            return self.reset_with(&mut state, stream, ResetReason::RefusedStream);
        }
        let queue = state.add(stream, false);
        self.control(&mut state, |encoder, bytes| encoder.syn_reply(bytes, stream));
        drop(state);
        let (reader, writer) = self.ends(stream, queue);
        place.send(Incoming { stream, headers, reader, writer });
    }

    fn reset_with(&self, state: &mut State, stream: u32, reason: ResetReason) {
        self.control(state, |_, bytes| frame::rst_stream(bytes, stream, reason));
    }

    fn ping(&self, id: u32) {
        // Its own come back; none were sent from here.
        if (id % 2 == 1) == (self.role == Role::Server) {
            self.control(&mut self.lock(), |_, bytes| frame::ping(bytes, id));
        }
    }

    async fn data(&self, stream: u32, bytes: &[u8]) -> Result<(), StreamError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Target::Queue(queue) = self.target(stream, bytes.len()) {
            let put = async {
                tokio::select! {
                    biased;
                    put = queue.put(bytes) => Ok(put),
                    () = self.hangup.wait() => Err(StreamError::Lost),
                    () = self.over.cancelled() => Err(StreamError::Lost),
                }
            };
            if !put.await? {
                // Thrown away is as good as read.
                self.taken(stream, bytes.len());
            }
        }
        Ok(())
    }

    fn target(&self, stream: u32, bytes: usize) -> Target {
        let mut state = self.lock();
        // The session as a whole holds what its streams hold: it is never the tighter window.
        if let Some(delta) = state.session.free(bytes) {
            self.control(&mut state, |_, control| frame::window_update(control, 0, delta));
        }
        match state.streams.get(&stream) {
            Some(entry) if !entry.peer_closed => Target::Queue(entry.queue.clone()),
            // It may have been sent before the peer learned of a reset.
            None if stream <= state.last_of_peer || stream < state.next_of_ours => Target::Discard,
            Some(_) | None => {
                self.reset_with(&mut state, stream, ResetReason::InvalidStream);
                Target::Discard
            }
        }
    }

    fn peer_closes(&self, stream: u32, fin: bool) {
        let mut state = self.lock();
        if let Some(entry) = state.streams.get_mut(&stream).filter(|_| fin) {
            entry.peer_closed = true;
            entry.queue.end(Ok(()));
            if entry.we_closed {
                state.streams.remove(&stream);
            }
        }
    }

    /// Waits until at least one byte may be sent, and returns how many of `wanted` may.
    async fn reserve(&self, stream: u32, wanted: usize) -> Result<usize, StreamError> {
        loop {
            let room = match self.lock().reserve(stream, wanted)? {
                Ok(bytes) => return Ok(bytes),
                Err(room) => room,
            };
            room.notified().await;
        }
    }

    async fn send(&self, stream: u32, data: &[u8], fin: bool) -> Result<(), StreamError> {
        let mut output = self.output.lock().await;
        let control = std::mem::take(&mut self.lock().control);
        output.push(&control);
        output.push(&frame::data_head(stream, data.len(), fin));
        output.push(data);
        self.flush(&mut output).await
    }

    /// Sends the control frames that wait.
    pub(super) async fn send_control(&self) -> Result<(), StreamError> {
        let mut output = self.output.lock().await;
        let control = std::mem::take(&mut self.lock().control);
        output.push(&control);
        self.flush(&mut output).await
    }

    async fn flush(&self, output: &mut Output) -> Result<(), StreamError> {
        /// Has the flush task go on when a writer is dropped.
        struct GoOn<'a>(&'a Notify, bool);
        impl Drop for GoOn<'_> {
            fn drop(&mut self) {
                if !self.1 {
                    self.0.notify_one();
                }
            }
        }
        let mut go_on = GoOn(&self.unsent, false);
        let flushed = tokio::select! {
            flushed = output.flush() => flushed.map_err(|_| StreamError::Lost),
            () = self.over.cancelled() => Err(StreamError::Lost),
        };
        go_on.1 = true;
        if flushed.is_err() {
            self.lose();
        }
        flushed
    }

    /// Sends what is left and says that nothing more comes.
    pub(super) async fn shut_down(&self) {
        {
            let mut state = self.lock();
            let last = state.last_of_peer;
            self.control(&mut state, |_, bytes| frame::go_away(bytes, last));
        }
        if self.send_control().await.is_ok() {
            let _ = self.output.lock().await.shut_down().await;
        }
    }
}

impl State {
    fn add(&mut self, stream: u32, we_closed: bool) -> Arc<Queue> {
        let queue = Arc::new(Queue::default());
        let window = Window::new(self.announced.initial);
        let entry =
            Stream { queue: queue.clone(), window, room: Arc::default(), we_closed, peer_closed: false };
        self.streams.insert(stream, entry);
        queue
    }

    fn settings(&mut self, initial_window: Option<u32>) {
        let Some(window) = initial_window else { return };
        let wider = i64::from(window) - self.announced.initial;
        self.announced.initial = window.into();
        self.announced.streams = true;
        for stream in self.streams.values_mut() {
            stream.window.widen(wider);
            stream.room.notify_one();
        }
    }

    fn window_update(&mut self, stream: u32, delta: i64) {
        if stream == 0 {
            self.announced.session = true;
            self.session.widen(delta);
            self.streams.values().for_each(|stream| stream.room.notify_one());
        } else if let Some(stream) = self.streams.get_mut(&stream) {
            self.announced.streams = true;
            stream.window.widen(delta);
            stream.room.notify_one();
        }
    }

    /// The inner error is what to wait for.
    fn reserve(&mut self, stream: u32, wanted: usize) -> Result<Result<usize, Arc<Notify>>, StreamError> {
        let entry = self.streams.get_mut(&stream).ok_or(StreamError::Reset)?;
        let bytes = self.announced.room(&entry.window, &self.session).min(wanted);
        if bytes == 0 {
            return Ok(Err(entry.room.clone()));
        }
        entry.window.sent(bytes);
        self.session.sent(bytes);
        Ok(Ok(bytes))
    }
}

impl Framing for Connection {
    fn write<'a>(&'a self, stream: u32, data: &'a [u8]) -> Sent<'a> {
        Box::pin(async move {
            let mut rest = data;
            while !rest.is_empty() {
                if self.over.is_cancelled() {
                    return Err(StreamError::Lost);
                }
                let bytes = self.reserve(stream, rest.len().min(MAX_DATA)).await?;
                let (now, later) = rest.split_at(bytes);
                self.send(stream, now, false).await?;
                rest = later;
            }
            Ok(())
        })
    }

    fn close(&self, stream: u32) -> Sent<'_> {
        Box::pin(async move {
            {
                let mut state = self.lock();
                let entry = state.streams.get_mut(&stream).ok_or(StreamError::Reset)?;
                entry.we_closed = true;
                if entry.peer_closed {
                    state.streams.remove(&stream);
                }
            }
            self.send(stream, &[], true).await
        })
    }

    fn reset(&self, stream: u32) {
        let mut state = self.lock();
        if let Some(entry) = state.streams.remove(&stream) {
            self.reset_with(&mut state, stream, ResetReason::Cancel);
            drop(state);
            entry.end(Err(StreamError::Reset));
        }
    }

    fn taken(&self, stream: u32, bytes: usize) {
        let mut state = self.lock();
        let Some(entry) = state.streams.get_mut(&stream).filter(|entry| !entry.peer_closed) else { return };
        if let Some(delta) = entry.window.free(bytes) {
            self.control(&mut state, |_, control| frame::window_update(control, stream, delta));
        }
    }
}
