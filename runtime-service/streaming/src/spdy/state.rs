//! The streams of one connection, their windows, and the queued control frames.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::frame::{self, Encoder, ResetReason};
use super::windows::{Announced, Window};
use crate::slots::Slot;
use crate::stream::{Queue, StreamError, WINDOW};

/// The side of the connection: streams of a client have odd numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

pub(super) struct State {
    pub(super) streams: HashMap<u32, Stream>,
    session: Window,
    announced: Announced,
    pub(super) encoder: Encoder,
    pub(super) control: Vec<u8>,
    pub(super) last_of_peer: u32,
    pub(super) next_of_ours: u32,
}

pub(super) struct Stream {
    queue: Arc<Queue>,
    window: Window,
    /// Wakes the writer when the window has grown or the stream has ended.
    room: Arc<Notify>,
    we_closed: bool,
    peer_closed: bool,
    /// None on the client's side, which limits its own streams.
    _slot: Option<Slot>,
}

/// The destination of the bytes of a data frame.
pub(super) enum Target {
    /// `heeds_windows`: the peer has windows of its own, so it must respect this one.
    Queue {
        queue: Arc<Queue>,
        heeds_windows: bool,
    },
    Discard,
}

impl Stream {
    pub(super) fn end(&self, end: Result<(), StreamError>) {
        self.queue.end(end);
        self.room.notify_one();
    }
}

impl State {
    pub(super) fn new(role: Role) -> Self {
        let announced = Announced::nothing(role == Role::Client);
        let mut control = Vec::new();
        let window = u32::try_from(WINDOW).unwrap_or(u32::MAX >> 1);
        frame::settings(&mut control, window);
        frame::window_update(&mut control, 0, window);
        Self {
            streams: HashMap::new(),
            session: Window::new(announced.initial),
            announced,
            encoder: Encoder::default(),
            control,
            last_of_peer: 0,
            next_of_ours: if role == Role::Client { 1 } else { 2 },
        }
    }

    pub(super) fn add(&mut self, stream: u32, we_closed: bool, slot: Option<Slot>) -> Arc<Queue> {
        let queue = Arc::new(Queue::default());
        let window = Window::new(self.announced.initial);
        let (room, peer_closed) = (Arc::default(), false);
        let entry = Stream { queue: queue.clone(), window, room, we_closed, peer_closed, _slot: slot };
        self.streams.insert(stream, entry);
        queue
    }

    pub(super) fn reset_with(&mut self, stream: u32, reason: ResetReason) {
        frame::rst_stream(&mut self.control, stream, reason);
    }

    /// Finds the destination of a data frame's bytes. For the window of the session they always count as
    /// read: the session holds only what its streams hold, and its window is never the smaller one.
    pub(super) fn target(&mut self, stream: u32, bytes: usize) -> Target {
        if let Some(delta) = self.session.free(bytes) {
            frame::window_update(&mut self.control, 0, delta);
        }
        match self.streams.get(&stream) {
            Some(entry) if !entry.peer_closed => {
                Target::Queue { queue: entry.queue.clone(), heeds_windows: self.announced.streams }
            }
            // The peer may have sent it before it learned of a reset.
            None if stream <= self.last_of_peer || stream < self.next_of_ours => Target::Discard,
            None => {
                self.reset_with(stream, ResetReason::InvalidStream);
                Target::Discard
            }
            // For the peer the reset ends both directions.
            Some(_) => {
                self.reset_with(stream, ResetReason::StreamAlreadyClosed);
                let ended = self.streams.remove(&stream);
                ended.iter().for_each(|stream| stream.end(Err(StreamError::Reset)));
                Target::Discard
            }
        }
    }

    pub(super) fn settings(&mut self, initial_window: Option<u32>) {
        let Some(window) = initial_window else { return };
        let wider = i64::from(window) - self.announced.initial;
        self.announced.stream_window(Some(window.into()));
        for stream in self.streams.values_mut() {
            stream.window.widen(wider);
            stream.room.notify_one();
        }
    }

    pub(super) fn window_update(&mut self, stream: u32, delta: i64) {
        if stream == 0 {
            self.announced.session_window();
            self.session.widen(delta);
            self.streams.values().for_each(|stream| stream.room.notify_one());
        } else if let Some(stream) = self.streams.get_mut(&stream) {
            self.announced.stream_window(None);
            stream.window.widen(delta);
            stream.room.notify_one();
        }
    }

    /// Notes that the peer has accepted a stream. A server that has announced no window before
    /// (moby/spdystream) has none.
    pub(super) fn replied(&mut self) {
        if self.announced.are_denied() {
            self.streams.values().for_each(|stream| stream.room.notify_one());
        }
    }

    /// Reserves a part of the windows for `wanted` bytes. The inner error is the event to wait for.
    pub(super) fn reserve(
        &mut self,
        stream: u32,
        wanted: usize,
    ) -> Result<Result<usize, Arc<Notify>>, StreamError> {
        let entry = self.streams.get_mut(&stream).ok_or(StreamError::Reset)?;
        let bytes = self.announced.room(&entry.window, &self.session).min(wanted);
        if bytes == 0 {
            return Ok(Err(entry.room.clone()));
        }
        entry.window.sent(bytes);
        self.session.sent(bytes);
        Ok(Ok(bytes))
    }

    /// Notes that the reader has taken this many bytes.
    pub(super) fn taken(&mut self, stream: u32, bytes: usize) {
        let Some(entry) = self.streams.get_mut(&stream).filter(|entry| !entry.peer_closed) else { return };
        if let Some(delta) = entry.window.free(bytes) {
            frame::window_update(&mut self.control, stream, delta);
        }
    }

    pub(super) fn peer_closes(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.peer_closed = true;
            entry.queue.end(Ok(()));
            if entry.we_closed {
                self.streams.remove(&stream);
            }
        }
    }

    pub(super) fn we_close(&mut self, stream: u32) -> Result<(), StreamError> {
        let entry = self.streams.get_mut(&stream).ok_or(StreamError::Reset)?;
        entry.we_closed = true;
        if entry.peer_closed {
            self.streams.remove(&stream);
        }
        Ok(())
    }
}
