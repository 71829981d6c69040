//! The messages of a WebSocket whose streams are numbered.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_tungstenite::tungstenite::Message;

use crate::Result;

/// The encoding of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Binary,
    /// Text: the channel as a digit, then base64.
    Base64,
}

impl Encoding {
    pub(super) fn message(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Self::Binary => Message::binary([&[channel], data].concat()),
            Self::Base64 => Message::text(format!("{channel}{}", STANDARD.encode(data))),
        }
    }

    /// The channel and the data of a received message.
    ///
    /// # Errors
    /// When it has another form.
    pub(super) fn read(self, message: &Message) -> Result<(u8, Cow<'_, [u8]>)> {
        match (self, message) {
            (Self::Binary, Message::Binary(bytes)) => {
                let (channel, data) = bytes.split_first().ok_or("a message without a channel")?;
                Ok((*channel, data.into()))
            }
            (Self::Base64, Message::Text(text)) => {
                let (channel, data) = text.split_at_checked(1).ok_or("a message without a channel")?;
                Ok((channel.parse()?, STANDARD.decode(data)?.into()))
            }
            _ => Err(format!("no message of a {self:?} channel: {message:?}").into()),
        }
    }
}
