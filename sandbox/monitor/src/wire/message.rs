//! A body with its descriptors, and the conversion of types to one.

use rustix::fd::OwnedFd;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{EncodeError, Failure, Malformed, Op, codec};

/// The part after the header: bytes, and the descriptors that are sent with them.
#[derive(Debug, Default)]
pub struct Message {
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// A request of the server.
pub trait Request: Sized {
    const OP: Op;
    type Response: Response;

    /// Encodes it for a monitor that reads `protocol`, which is never above [`PROTOCOL`](super::PROTOCOL).
    ///
    /// # Errors
    /// [`EncodeError::Unsupported`] when that protocol cannot express it.
    fn encode(self, protocol: u16) -> Result<Message, EncodeError>;

    /// Decodes the output of [`encode`](Self::encode) for `protocol`.
    ///
    /// # Errors
    /// [`Failure::Malformed`]; [`Failure::Version`] for a protocol whose form is no longer read.
    fn decode(message: Message, protocol: u16) -> Result<Self, Failure>;
}

/// The response to one kind of request.
pub trait Response: Sized {
    /// Encodes it. The form is the same in every protocol so far.
    ///
    /// # Errors
    /// [`EncodeError`].
    fn encode(self) -> Result<Message, EncodeError>;

    /// Decodes the output of [`encode`](Self::encode).
    ///
    /// # Errors
    /// [`Malformed`].
    fn decode(message: Message) -> Result<Self, Malformed>;
}

impl From<Malformed> for Failure {
    fn from(Malformed { reason }: Malformed) -> Self {
        Self::Malformed { reason }
    }
}

impl From<EncodeError> for Failure {
    fn from(error: EncodeError) -> Self {
        Self::Malformed { reason: error.to_string() }
    }
}

impl Message {
    /// A message without descriptors.
    pub(super) fn of(body: &impl Serialize) -> Result<Self, EncodeError> {
        Self::with(body, Vec::new())
    }

    pub(super) fn with(body: &impl Serialize, fds: Vec<OwnedFd>) -> Result<Self, EncodeError> {
        Ok(Self { body: codec::to_bytes(body)?, fds })
    }

    /// The body, and the descriptors in their order.
    pub(super) fn open<T: DeserializeOwned>(self) -> Result<(T, Descriptors), Malformed> {
        Ok((codec::from_bytes(&self.body)?, Descriptors(self.fds.into_iter())))
    }
}

/// The descriptors of a message, in their order.
pub(super) struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    pub(super) fn next(&mut self, what: &str) -> Result<OwnedFd, Malformed> {
        self.0.next().ok_or_else(|| Malformed { reason: format!("the descriptor of {what} is missing") })
    }

    pub(super) fn next_if(&mut self, sent: bool, what: &str) -> Result<Option<OwnedFd>, Malformed> {
        sent.then(|| self.next(what)).transpose()
    }

    pub(super) fn rest(self) -> Vec<OwnedFd> {
        self.0.collect()
    }
}

impl Response for () {
    fn encode(self) -> Result<Message, EncodeError> {
        Ok(Message::default())
    }

    fn decode(_: Message) -> Result<Self, Malformed> {
        Ok(())
    }
}
