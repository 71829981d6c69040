//! One SPDY connection: the state that its streams share, and the sending of frames.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crisp_operation::Cancel;
use tokio::io::WriteHalf;
use tokio::sync::Notify;

use super::frame::{self, ResetReason};
use super::header_block::Headers;
use super::output::Output;
use super::state::{Role, State};
use crate::slots::OwnedSlots;
use crate::stream::{Framing, Queue, Sent, StreamError, StreamReader, StreamWriter};
use crate::transport::{Duplex, Hangup};

/// How many streams may be open at once.
pub(super) const MAX_STREAMS: usize = 1024;
/// The longest data frame. After each frame another writer gets its turn.
const MAX_DATA: usize = 64 << 10;

/// A stream that the peer opened.
pub(crate) struct Incoming {
    pub(crate) stream: u32,
    pub(crate) headers: Headers,
    pub(crate) reader: StreamReader,
    pub(crate) writer: StreamWriter,
}

/// The limits for a connection, in addition to those of the protocol.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    /// The slots for streams of the peer; each stream takes one.
    pub(crate) slots: Option<OwnedSlots>,
    /// How long a stream without windows may take nothing while the others wait for it; forty times as long
    /// when there are no others. None: without limit.
    pub(crate) patience: Option<Duration>,
}

pub(crate) struct Connection {
    pub(super) role: Role,
    pub(super) rules: Rules,
    state: Mutex<State>,
    output: tokio::sync::Mutex<Output>,
    /// Wakes the flush task when control frames are to be sent.
    pub(super) unsent: Notify,
    pub(super) hangup: Hangup,
    /// Cancelled when the connection is over.
    pub(super) over: Cancel,
}

impl Connection {
    pub(super) fn new(role: Role, rules: Rules, io: WriteHalf<Box<dyn Duplex>>, hangup: Hangup) -> Self {
        let unsent = Notify::new();
        unsent.notify_one();
        Self {
            role,
            rules,
            state: Mutex::new(State::new(role)),
            output: tokio::sync::Mutex::new(Output::new(io)),
            unsent,
            hangup,
            over: Cancel::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `act`, which may queue control frames, and has them sent.
    pub(super) fn with_answers<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let done = act(&mut state);
        if !state.control.is_empty() {
            self.unsent.notify_one();
        }
        done
    }

    /// Ends the whole connection: readers and writers get [`StreamError::Lost`].
    pub(super) fn lose(&self) {
        self.over.cancel();
        let streams = std::mem::take(&mut self.lock().streams);
        streams.values().for_each(|stream| stream.end(Err(StreamError::Lost)));
    }

    /// Opens a stream to the peer. `fin`: this side sends nothing on it.
    pub(crate) fn open(
        self: &Arc<Self>,
        headers: &Headers,
        fin: bool,
    ) -> Result<(StreamReader, StreamWriter), StreamError> {
        let mut state = self.lock();
        if self.over.is_cancelled() {
            return Err(StreamError::Lost);
        }
        if state.streams.len() >= MAX_STREAMS {
            return Err(StreamError::TooMany);
        }
        let stream = state.next_of_ours;
        state.next_of_ours += 2;
        let queue = state.add(stream, fin, None);
        let state = &mut *state;
        state.encoder.syn_stream(&mut state.control, stream, headers, fin);
        self.unsent.notify_one();
        Ok(self.ends(stream, queue))
    }

    pub(super) fn ends(self: &Arc<Self>, stream: u32, queue: Arc<Queue>) -> (StreamReader, StreamWriter) {
        let framing: Arc<dyn Framing> = self.clone();
        (StreamReader::new(framing.clone(), stream, queue), StreamWriter::new(framing, stream))
    }

    /// Ends a stream in both directions.
    pub(super) fn reset_for(&self, stream: u32, reason: ResetReason) {
        let mut state = self.lock();
        let Some(entry) = state.streams.remove(&stream) else { return };
        state.reset_with(stream, reason);
        drop(state);
        self.unsent.notify_one();
        entry.end(Err(StreamError::Reset));
    }

    /// Waits until at least one byte of `data` may be sent, sends as much as is allowed, and returns its
    /// length.
    async fn send_some(&self, stream: u32, data: &[u8]) -> Result<usize, StreamError> {
        loop {
            let room = {
                // Locked before a window is reserved: a writer that is dropped while it waits here has
                // reserved nothing.
                let mut output = self.turn().await?;
                let reserved = self.lock().reserve(stream, data.len().min(MAX_DATA));
                match reserved.map_err(|error| self.loss_or(error))? {
                    Ok(bytes) => {
                        self.send(&mut output, stream, &data[..bytes], false).await?;
                        return Ok(bytes);
                    }
                    Err(room) => room,
                }
            };
            room.notified().await;
        }
    }

    /// Waits for other writers, and sends the rest of a frame whose writer was dropped. So at most one frame
    /// is unfinished, however many writers are dropped.
    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, Output>, StreamError> {
        let mut output = self.output.lock().await;
        if output.has_pending() {
            self.flush(&mut output, &[]).await?;
        }
        Ok(output)
    }

    /// The reason why a stream is not open any more: a lost connection has ended all its streams.
    fn loss_or(&self, error: StreamError) -> StreamError {
        if self.over.is_cancelled() { StreamError::Lost } else { error }
    }

    async fn send(
        &self,
        output: &mut Output,
        stream: u32,
        data: &[u8],
        fin: bool,
    ) -> Result<(), StreamError> {
        let control = std::mem::take(&mut self.lock().control);
        output.push(&control);
        output.push(&frame::data_head(stream, data.len(), fin));
        self.flush(output, data).await
    }

    /// Sends the queued control frames.
    pub(super) async fn send_control(&self) -> Result<(), StreamError> {
        let mut output = self.turn().await?;
        let control = std::mem::take(&mut self.lock().control);
        output.push(&control);
        self.flush(&mut output, &[]).await
    }

    async fn flush(&self, output: &mut Output, data: &[u8]) -> Result<(), StreamError> {
        /// Wakes the flush task when a writer is dropped in the middle of a frame.
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
            flushed = output.send(data) => flushed.map_err(|_| StreamError::Lost),
            () = self.over.cancelled() => Err(StreamError::Lost),
        };
        go_on.1 = true;
        if flushed.is_err() {
            self.lose();
        }
        flushed
    }

    /// Sends all pending bytes and the end; waits for as long as the peer is connected.
    pub(super) async fn shut_down(&self) {
        {
            let mut state = self.lock();
            let last = state.last_of_peer;
            frame::go_away(&mut state.control, last);
        }
        if self.send_control().await.is_err() {
            return;
        }
        let mut output = self.output.lock().await;
        tokio::select! {
            _ = output.shut_down() => {}
            () = self.over.cancelled() => {}
        }
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
                let sent = self.send_some(stream, rest).await?;
                rest = &rest[sent..];
            }
            Ok(())
        })
    }

    fn close(&self, stream: u32) -> Sent<'_> {
        Box::pin(async move {
            let mut output = self.turn().await?;
            let closed = self.lock().we_close(stream);
            closed.map_err(|error| self.loss_or(error))?;
            self.send(&mut output, stream, &[], true).await
        })
    }

    fn reset(&self, stream: u32) {
        self.reset_for(stream, ResetReason::Cancel);
    }

    fn taken(&self, stream: u32, bytes: usize) {
        self.with_answers(|state| state.taken(stream, bytes));
    }
}
