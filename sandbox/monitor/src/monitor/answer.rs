//! What an operation gets, and what goes back.

use crisp_monitor::wire::response::Event;
use crisp_monitor::wire::{Failure, Header, Kind};
use rustix::fd::OwnedFd;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Monitor;
use crate::launch::Requester;
use crate::poller::Key;

/// A request as it came.
pub(crate) struct Call {
    pub(crate) connection: Key,
    pub(crate) header: Header,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// The descriptors that came with a request, in order.
pub(crate) struct Descriptors(std::vec::IntoIter<OwnedFd>);

/// A successful response.
#[derive(Default)]
pub(crate) struct Reply {
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

pub(crate) enum Answer {
    Now(Reply),
    /// It will be given to the [`Requester`].
    Later,
}

impl Call {
    pub(super) fn new(connection: Key, header: Header, body: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        Self { connection, header, body, fds }
    }

    /// None for what is no request.
    pub(crate) fn requester(&self) -> Option<Requester> {
        (self.header.kind == Kind::Request)
            .then_some(Requester { connection: self.connection, header: self.header })
    }

    /// The body, and the descriptors that came with it.
    pub(crate) fn take<T: DeserializeOwned>(self) -> Result<(T, Descriptors), Failure> {
        let (sent, got) = (self.header.descriptors, self.fds.len());
        if got < usize::from(sent) {
            return Err(Failure::DescriptorsLost { sent, got: u16::try_from(got).unwrap_or(u16::MAX) });
        }
        let body = parse(&self.body)?;
        Ok((body, Descriptors(self.fds.into_iter())))
    }

    pub(crate) fn body<T: DeserializeOwned>(self) -> Result<T, Failure> {
        self.take().map(|(body, _)| body)
    }
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    postcard::from_bytes(bytes).map_err(|error| Failure::Malformed { reason: error.to_string() })
}

impl Descriptors {
    pub(crate) fn next(&mut self, what: &str) -> Result<OwnedFd, Failure> {
        self.0.next().ok_or_else(|| Failure::Malformed { reason: format!("no descriptor for {what} came") })
    }

    pub(crate) fn next_if(&mut self, asked: bool, what: &str) -> Result<Option<OwnedFd>, Failure> {
        asked.then(|| self.next(what)).transpose()
    }

    pub(crate) fn rest(self) -> Vec<OwnedFd> {
        self.0.collect()
    }
}

impl Reply {
    pub(crate) fn new(body: &impl Serialize, fds: Vec<OwnedFd>) -> Result<Self, Failure> {
        let body = postcard::to_allocvec(body)
            .map_err(|error| Failure::Malformed { reason: format!("response: {error}") })?;
        Ok(Self { body, fds })
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Now(reply)
    }
}

impl Answer {
    /// Done, and nothing to say about it.
    pub(crate) fn done() -> Self {
        Self::Now(Reply::default())
    }

    pub(crate) fn with(body: &impl Serialize) -> Result<Self, Failure> {
        Reply::new(body, Vec::new()).map(Self::Now)
    }
}

impl Monitor {
    /// Answers; to somebody who has left: nothing.
    pub(crate) fn reply(&mut self, to: Requester, reply: Reply) {
        self.send(to.connection, to.header.response(false), reply.body, reply.fds);
    }

    pub(crate) fn refuse(&mut self, to: Requester, failure: Failure) {
        if let Ok(body) = postcard::to_allocvec(&failure) {
            self.send(to.connection, to.header.response(true), body, Vec::new());
        }
    }

    pub(crate) fn broadcast(&mut self, event: &Event) {
        let keys: Vec<Key> = self.connections.keys().copied().collect();
        for key in keys {
            self.tell(key, event);
        }
    }

    pub(crate) fn tell(&mut self, connection: Key, event: &Event) {
        if let Ok(body) = postcard::to_allocvec(event) {
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
