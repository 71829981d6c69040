//! The header of every message. It never changes: servers and monitors of all releases share it.
//!
//! ```text
//!  0      2      3        4      6             8            16
//!  | version | kind | status | op   | descriptors | id        |  little-endian
//! ```

/// The newest protocol of this build. The crate's page explains when it increases.
pub const PROTOCOL: u16 = 4;

/// An operation. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Requests the [`Greeting`](super::response::Greeting).
    Hello = 1,
    /// Requests all containers: [`PodReport`](super::response::PodReport).
    Report = 2,
    /// [`Signal`](super::request::Signal).
    Signal = 3,
    /// [`Shutdown`](super::request::Shutdown).
    Shutdown = 4,
    /// The monitor's own messages, never a request: [`Event`](super::response::Event).
    Event = 5,
    /// [`OpenPod`](super::request::OpenPod).
    OpenPod = 32,
    /// Requests the pod's [`PodNetwork`](super::response::PodNetwork).
    Network = 33,
    /// [`StartRequest`](super::request::StartRequest).
    Start = 34,
    /// [`ExecRequest`](super::request::ExecRequest).
    Exec = 35,
    /// [`KillExec`](super::request::KillExec).
    KillExec = 36,
    /// [`ReopenLog`](super::request::ReopenLog).
    ReopenLog = 37,
    /// [`Forget`](super::request::Forget).
    Forget = 38,
    /// [`Resize`](super::request::Resize).
    Resize = 39,
    /// [`OpenStdin`](super::request::OpenStdin).
    OpenStdin = 40,
    /// [`CloseStdin`](super::request::CloseStdin).
    CloseStdin = 41,
    /// [`Attach`](super::request::Attach).
    Attach = 42,
    /// [`SignalExec`](super::request::SignalExec).
    SignalExec = 43,
    /// [`HoldPorts`](super::request::HoldPorts).
    HoldPorts = 44,
    /// [`CopyPorts`](super::request::CopyPorts).
    CopyPorts = 45,
}

impl Op {
    /// Operations with a smaller number are served to a client of any protocol, even a newer one.
    pub const FIRST_NEGOTIATED: u16 = 32;

    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Hello,
        Self::Report,
        Self::Signal,
        Self::Shutdown,
        Self::Event,
        Self::OpenPod,
        Self::Network,
        Self::Start,
        Self::Exec,
        Self::KillExec,
        Self::ReopenLog,
        Self::Forget,
        Self::Resize,
        Self::OpenStdin,
        Self::CloseStdin,
        Self::Attach,
        Self::SignalExec,
        Self::HoldPorts,
        Self::CopyPorts,
    ];

    /// The operation with that number, if this build knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|op| *op as u16 == number)
    }

    /// The name in errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Report => "report",
            Self::Signal => "signal",
            Self::Shutdown => "shutdown",
            Self::Event => "event",
            Self::OpenPod => "open pod",
            Self::Network => "network",
            Self::Start => "start",
            Self::Exec => "exec",
            Self::KillExec => "kill exec",
            Self::ReopenLog => "reopen log",
            Self::Forget => "forget",
            Self::Resize => "resize",
            Self::OpenStdin => "open stdin",
            Self::CloseStdin => "close stdin",
            Self::Attach => "attach",
            Self::SignalExec => "signal exec",
            Self::HoldPorts => "hold ports",
            Self::CopyPorts => "copy ports",
        }
    }
}

/// The direction and the purpose of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Request = 1,
    Response = 2,
    Event = 3,
}

/// The first 16 bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The protocol in which the body is written.
    pub version: u16,
    pub kind: Kind,
    /// In a response: the body is a [`Failure`](super::Failure).
    pub failed: bool,
    /// The number of an [`Op`], perhaps one that this build does not know.
    pub op: u16,
    /// The number of descriptors that were sent. If fewer arrive, the receiver's limit of open files is
    /// reached.
    pub descriptors: u16,
    /// Chosen by the client, repeated in the response; 0 in events.
    pub id: u64,
}

/// Bytes that are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes without a valid header")]
pub struct MalformedHeader {
    pub len: usize,
}

impl Header {
    /// Bytes of an encoded header.
    pub const LEN: usize = 16;

    /// A request for `op` in this build's [`PROTOCOL`].
    #[must_use]
    pub fn request(op: Op, id: u64) -> Self {
        Self { version: PROTOCOL, kind: Kind::Request, failed: false, op: op as u16, descriptors: 0, id }
    }

    /// The response to the request that had this header, in the same protocol.
    #[must_use]
    pub fn response(&self, failed: bool) -> Self {
        Self { kind: Kind::Response, failed, descriptors: 0, ..*self }
    }

    /// A message without a request.
    #[must_use]
    pub fn event() -> Self {
        Self {
            version: PROTOCOL,
            kind: Kind::Event,
            failed: false,
            op: Op::Event as u16,
            descriptors: 0,
            id: 0,
        }
    }

    /// The bytes of the header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..2].copy_from_slice(&self.version.to_le_bytes());
        bytes[2] = self.kind as u8;
        bytes[3] = u8::from(self.failed);
        bytes[4..6].copy_from_slice(&self.op.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.descriptors.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// The header at the start of a message.
    ///
    /// # Errors
    /// [`MalformedHeader`] for a short message or a kind that does not exist.
    pub fn parse(message: &[u8]) -> Result<Self, MalformedHeader> {
        let malformed = MalformedHeader { len: message.len() };
        let bytes: &[u8; Self::LEN] = message.first_chunk().ok_or(malformed)?;
        let kind = match bytes[2] {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Event,
            _ => return Err(malformed),
        };
        let [v0, v1, _, failed, o0, o1, d0, d1, id @ ..] = *bytes;
        Ok(Self {
            version: u16::from_le_bytes([v0, v1]),
            kind,
            failed: failed != 0,
            op: u16::from_le_bytes([o0, o1]),
            descriptors: u16::from_le_bytes([d0, d1]),
            id: u64::from_le_bytes(id),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_written() {
        let header = Header { descriptors: 253, ..Header::request(Op::Exec, u64::MAX - 1) };
        assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        let response = header.response(true);
        assert_eq!((response.id, response.op, response.failed), (header.id, header.op, true));
    }

    #[test]
    fn the_header_has_the_layout_of_every_release() {
        let header = Header { version: 0x0102, descriptors: 0x0304, ..Header::request(Op::Report, 5) };
        assert_eq!(header.to_bytes(), [2, 1, 1, 0, 2, 0, 4, 3, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Header::parse(&[0; 15]).is_err());
        assert!(Header::parse(&[0; 16]).is_err());
    }
}
