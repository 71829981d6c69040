//! Handles the frames of the peer. Only this task reads the connection: while it waits, all streams of the
//! session wait.
//!
//! | the peer, when a stream's reader has no room | effect |
//! |---|---|
//! | has announced windows, so it knows ours | it sent more than its window: the stream is reset |
//! | has no windows (moby/spdystream), in a port-forward session | the connection waits; after [`Rules::patience`] without progress, or forty times that when it is the only connection, the stream is reset |
//! | has no windows, in a session with one process | the connection waits: there is no other stream to delay |

use std::sync::Arc;

use tokio::sync::mpsc;

use super::connection::{Connection, Incoming, MAX_STREAMS};
use super::frame::{self, Frame, ResetReason};
use super::header_block::Headers;
use super::state::{Role, Target};
use crate::slots::OwnedSlots;
use crate::stream::{Put, StreamError};

/// The number of streams of one forwarded connection: data and error.
const PAIR: usize = 2;
/// The factor of the patience for a connection that is the only one.
const ALONE: u32 = 40;
/// Maximum size of the queued responses for a peer that does not read.
const MAX_CONTROL: usize = 64 << 10;

impl Connection {
    /// Handles one frame.
    pub(super) async fn receive(
        self: &Arc<Self>,
        frame: Frame,
        incoming: &mpsc::Sender<Incoming>,
    ) -> Result<(), StreamError> {
        match frame {
            Frame::SynStream { stream, headers, fin } => {
                self.syn_stream(stream, headers, incoming);
                self.fin(stream, fin);
            }
            Frame::SynReply { stream, fin } => {
                self.lock().replied();
                self.fin(stream, fin);
            }
            Frame::Headers { stream, fin } => self.fin(stream, fin),
            Frame::RstStream { stream } => {
                let ended = self.lock().streams.remove(&stream);
                ended.iter().for_each(|stream| stream.end(Err(StreamError::Reset)));
            }
            Frame::Settings { initial_window } => self.lock().settings(initial_window),
            Frame::Ping { id } => self.ping(id),
            // The peer opens no more streams; open streams continue.
            Frame::GoAway => {}
            Frame::WindowUpdate { stream, delta } => self.lock().window_update(stream, delta.into()),
            Frame::Data { stream, bytes, fin } => {
                self.data(stream, &bytes).await?;
                self.fin(stream, fin);
            }
        }
        if self.lock().control.len() > MAX_CONTROL {
            tracing::debug!("a peer asks for more answers than it reads");
            return Err(StreamError::Lost);
        }
        Ok(())
    }

    fn fin(&self, stream: u32, fin: bool) {
        if fin {
            self.lock().peer_closes(stream);
        }
    }

    fn syn_stream(self: &Arc<Self>, stream: u32, headers: Headers, incoming: &mpsc::Sender<Incoming>) {
        let mut state = self.lock();
        self.unsent.notify_one();
        let of_peer = (stream % 2 == 1) == (self.role == Role::Server);
        if !of_peer || stream <= state.last_of_peer {
            // A stream number may be used only once. The stream that was opened with it before ends too.
            let ended = state.streams.remove(&stream);
            state.reset_with(stream, ResetReason::ProtocolError);
            drop(state);
            ended.iter().for_each(|stream| stream.end(Err(StreamError::Reset)));
            return;
        }
        state.last_of_peer = stream;
        let slot = self.rules.slots.as_ref().map(OwnedSlots::take).transpose();
        let (Ok(place), Ok(slot), true) = (incoming.try_reserve(), slot, state.streams.len() < MAX_STREAMS)
        else {
            return state.reset_with(stream, ResetReason::RefusedStream);
        };
        let queue = state.add(stream, false, slot);
        let state_ref = &mut *state;
        state_ref.encoder.syn_reply(&mut state_ref.control, stream);
        drop(state);
        let (reader, writer) = self.ends(stream, queue);
        place.send(Incoming { stream, headers, reader, writer });
    }

    fn ping(&self, id: u32) {
        // A ping with a number of this side would be a reply, but this side sends no pings.
        if (id % 2 == 1) == (self.role == Role::Server) {
            frame::ping(&mut self.lock().control, id);
            self.unsent.notify_one();
        }
    }

    async fn data(&self, stream: u32, bytes: &[u8]) -> Result<(), StreamError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let target = self.with_answers(|state| state.target(stream, bytes.len()));
        let Target::Queue { queue, heeds_windows } = target else { return Ok(()) };
        let is_read = match queue.try_put(bytes) {
            Put::Queued => true,
            Put::Discarded => false,
            Put::Full if heeds_windows => {
                tracing::debug!(stream, "a peer sends more than the window of a stream");
                self.reset_for(stream, ResetReason::FlowControl);
                return Ok(());
            }
            Put::Full => {
                // No other open stream waits for it. But a stream that the peer opens now is not read before.
                let is_alone = self.lock().streams.len() <= PAIR;
                let patience = self.rules.patience.map(|time| if is_alone { time * ALONE } else { time });
                let put = tokio::select! {
                    biased;
                    put = queue.put(bytes, patience) => put,
                    // A server closes after its last byte, and its client must read that byte first.
                    () = self.hangup.wait(), if self.role == Role::Server => return Err(StreamError::Lost),
                    () = self.over.cancelled() => return Err(StreamError::Lost),
                };
                let Ok(is_read) = put else {
                    tracing::info!(
                        stream,
                        "a connection that takes nothing held up the others of its session: it is reset"
                    );
                    self.reset_for(stream, ResetReason::FlowControl);
                    return Ok(());
                };
                is_read
            }
        };
        if !is_read {
            // Discarded bytes count as read.
            self.with_answers(|state| state.taken(stream, bytes.len()));
        }
        Ok(())
    }
}
