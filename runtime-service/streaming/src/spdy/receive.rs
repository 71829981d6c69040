//! Handles the frames of the peer. This is the only task that reads the connection: while it waits, all
//! streams of the session wait.
//!
//! | a stream's reader has no room | |
//! |---|---|
//! | the peer has announced windows, so it knows ours | it broke its window: the stream is reset |
//! | it has none (moby/spdystream), the session forwards ports | waited for; after [`Rules::patience`] without progress, or forty times that where it is the only connection, the stream is reset |
//! | it has none, the session has one process | waited for: no other stream is there to be held up |

use std::sync::Arc;

use tokio::sync::mpsc;

use super::connection::{Connection, Incoming, MAX_STREAMS};
use super::frame::{self, Frame, ResetReason};
use super::header_block::Headers;
use super::state::{Role, Target};
use crate::slots::OwnedSlots;
use crate::stream::{Put, StreamError};

/// The streams of one forwarded connection: its bytes, and its error.
const PAIR: usize = 2;
/// How many times its patience a connection has that is the only one.
const ALONE: u32 = 40;
/// Answers that wait for a peer that does not read.
const MAX_CONTROL: usize = 64 << 10;

impl Connection {
    /// Does what a frame asks.
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
            // The peer opens no more streams; those that are open go on.
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
            // A number is used once. What was opened under it before is in doubt, too.
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
        // Its own come back; none were sent from here.
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
                // It holds up no other that is known of. But one that comes now is not read before this is.
                let is_alone = self.lock().streams.len() <= PAIR;
                let patience = self.rules.patience.map(|time| if is_alone { time * ALONE } else { time });
                let put = tokio::select! {
                    biased;
                    put = queue.put(bytes, patience) => put,
                    // A server closes behind its last byte: its client reads that first.
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
            // Thrown away is as good as read.
            self.with_answers(|state| state.taken(stream, bytes.len()));
        }
        Ok(())
    }
}
