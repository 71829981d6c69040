//! Fuzz targets: functions that must return for any bytes.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use tokio_tungstenite::tungstenite::WebSocket;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::process;
use crate::spdy::{Decoder, Inflater};
use crate::websocket::{self, Channels};

/// SPDY frames with their header blocks, which arrive in pieces.
pub fn spdy(bytes: &[u8]) {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    let step = bytes.first().map_or(1, |first| usize::from(*first) + 1);
    for piece in bytes.get(1..).unwrap_or_default().chunks(step) {
        input.extend_from_slice(piece);
        while let Ok(frame) = decoder.next(&mut input) {
            if frame.is_none() {
                break;
            }
        }
    }
}

/// Header blocks of one connection: one byte with a sixteenth of the block's length, then the block.
pub fn header_blocks(mut bytes: &[u8]) {
    let mut inflater = Inflater::default();
    while let Some((length, rest)) = bytes.split_first() {
        let (block, rest) = rest.split_at(rest.len().min(usize::from(*length) * 16));
        if inflater.read(block).is_err() {
            return;
        }
        bytes = rest;
    }
}

/// The data that a client sends over a WebSocket after the handshake, in both forms of messages, with sizes
/// of the client's terminal.
pub fn websocket(bytes: &[u8]) {
    for base64 in [false, true] {
        let channels = Channels { read: vec![0, 4], base64, half_close: true, patience: None };
        let mut socket =
            WebSocket::from_raw_socket(Peer { rest: bytes }, Role::Server, Some(websocket::config()));
        let mut sizes = BytesMut::new();
        while let Ok(message) = socket.read() {
            if let Some((4, text)) = channels.decode(message) {
                sizes.extend_from_slice(&text);
                while let Ok(Some(_)) = process::first(&mut sizes) {}
            }
        }
    }
}

/// A peer that has already sent all its bytes, and accepts everything that is sent to it.
struct Peer<'a> {
    rest: &'a [u8],
}

impl Read for Peer<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.rest.read(into)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
