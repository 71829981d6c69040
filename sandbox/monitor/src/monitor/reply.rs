//! The inputs and the response of an operation.

use crisp_monitor::wire::response::Event;
use crisp_monitor::wire::{Failure, Header, Kind, Message, Packet, Request, Response};
use rustix::fd::OwnedFd;

use super::Monitor;
use crate::launch::Requester;
use crate::poller::Key;

/// A received request.
pub(crate) struct Call {
    pub(crate) requester: Requester,
    message: Message,
}

pub(crate) enum Reply {
    Now(Message),
    /// It will be sent to the [`Requester`].
    Later,
}

impl Call {
    /// None for a packet that is not a request.
    pub(super) fn new(connection: Key, packet: Packet) -> Option<Self> {
        let Packet { header, body, fds } = packet;
        let requester = Requester { connection, header };
        (header.kind == Kind::Request).then_some(Self { requester, message: Message { body, fds } })
    }

    pub(crate) fn read<R: Request>(self) -> Result<R, Failure> {
        let Header { descriptors: sent, version, .. } = self.requester.header;
        let got = self.message.fds.len();
        if got < usize::from(sent) {
            return Err(Failure::DescriptorsLost { sent, got: u16::try_from(got).unwrap_or(u16::MAX) });
        }
        R::decode(self.message, version)
    }
}

impl Reply {
    pub(crate) fn with(response: impl Response) -> Result<Self, Failure> {
        Ok(Self::Now(response.encode()?))
    }

    /// Success without content.
    pub(crate) fn done() -> Self {
        Self::Now(Message::default())
    }
}

impl Monitor {
    /// Sends the response; does nothing when the client has disconnected.
    pub(crate) fn respond(&mut self, to: Requester, response: impl Response) {
        match response.encode() {
            Ok(message) => self.send_response(to, message),
            Err(error) => self.refuse(to, error.into()),
        }
    }

    pub(super) fn send_response(&mut self, to: Requester, message: Message) {
        self.send(to.connection, to.header.response(false), message.body, message.fds);
    }

    pub(crate) fn refuse(&mut self, to: Requester, failure: Failure) {
        if let Ok(body) = failure.encode() {
            self.send(to.connection, to.header.response(true), body, Vec::new());
        }
    }

    pub(crate) fn broadcast(&mut self, event: &Event) {
        let keys: Vec<Key> = self.connections.keys().copied().collect();
        for key in keys {
            self.send_event(key, event);
        }
    }

    pub(crate) fn send_event(&mut self, connection: Key, event: &Event) {
        if let Ok(body) = event.encode() {
            self.send(connection, Header::event(), body, Vec::new());
        }
    }

    fn send(&mut self, to: Key, header: Header, body: Vec<u8>, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&to) else { return };
        match connection.send(header, body, fds) {
            Ok(()) if connection.backed_up() => self.watch_for_room(to),
            Ok(()) => {}
            Err(_) => self.disconnect(to),
        }
    }
}
