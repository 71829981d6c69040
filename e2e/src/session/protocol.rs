//! The protocols of exec and attach.

/// A protocol of exec and attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    SpdyV1,
    SpdyV2,
    SpdyV3,
    SpdyV4,
    WebSocketV1,
    WebSocketV4,
    WebSocketV5,
    /// The messages are text: the number of the channel as a digit, then base64.
    Base64V1,
    Base64V4,
}

/// The form in which streams travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Spdy,
    WebSocket,
    Base64,
}

impl Protocol {
    pub const ALL: [Self; 9] = [
        Self::SpdyV1,
        Self::SpdyV2,
        Self::SpdyV3,
        Self::SpdyV4,
        Self::WebSocketV1,
        Self::WebSocketV4,
        Self::WebSocketV5,
        Self::Base64V1,
        Self::Base64V4,
    ];

    /// Those that clients of today use.
    pub const USUAL: [Self; 3] = [Self::SpdyV4, Self::WebSocketV4, Self::WebSocketV5];

    /// Its framing, version, and name in requests.
    fn row(self) -> (Framing, u8, &'static str) {
        match self {
            Self::SpdyV1 => (Framing::Spdy, 1, "channel.k8s.io"),
            Self::SpdyV2 => (Framing::Spdy, 2, "v2.channel.k8s.io"),
            Self::SpdyV3 => (Framing::Spdy, 3, "v3.channel.k8s.io"),
            Self::SpdyV4 => (Framing::Spdy, 4, "v4.channel.k8s.io"),
            Self::WebSocketV1 => (Framing::WebSocket, 1, "channel.k8s.io"),
            Self::WebSocketV4 => (Framing::WebSocket, 4, "v4.channel.k8s.io"),
            Self::WebSocketV5 => (Framing::WebSocket, 5, "v5.channel.k8s.io"),
            Self::Base64V1 => (Framing::Base64, 1, "base64.channel.k8s.io"),
            Self::Base64V4 => (Framing::Base64, 4, "v4.base64.channel.k8s.io"),
        }
    }

    pub(super) fn framing(self) -> Framing {
        self.row().0
    }

    /// Its name in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Whether the end of standard input can be sent while the session goes on.
    #[must_use]
    pub fn has_half_close(self) -> bool {
        matches!(self.row(), (Framing::Spdy, ..) | (_, 5, _))
    }

    /// Whether the sizes of the client's terminal can be sent.
    #[must_use]
    pub fn has_sizes(self) -> bool {
        !matches!(self.row(), (Framing::Spdy, 1 | 2, _))
    }

    /// Whether the end of a session is a status in JSON. Before, it is a sentence, or nothing for a success.
    #[must_use]
    pub fn has_status(self) -> bool {
        self.row().1 >= 4
    }
}
