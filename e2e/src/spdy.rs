//! A SPDY/3.1 client for a runtime's streaming server. Like the library in kubelet and kubectl it neither announces nor
//! respects windows.

use crate::Result;
use crate::link::{Endpoint, Link};

const SYN_STREAM: u16 = 1;
const FIN: u8 = 1;
/// Size of one read.
const PIECE: usize = 256 << 10;
const MAX_DATA: usize = 32 << 10;

/// One session with a server.
pub struct Session {
    socket: Box<dyn Link>,
    next: u32,
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    left: std::ops::Range<usize>,
    /// The rest of the present frame: its stream, or None for a control frame; the number of bytes; whether
    /// it is the last.
    frame: (Option<u32>, usize, bool),
    /// The data of the last event in the buffer.
    data: std::ops::Range<usize>,
}

/// A received event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Data {
        stream: u32,
        bytes: usize,
    },
    /// The server has ended its data on the stream.
    End {
        stream: u32,
    },
    Closed,
}

impl Session {
    /// Connects to the URL of a session.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn open<'a>(endpoint: impl Into<Endpoint<'a>>, protocol: &str) -> Result<Self> {
        let endpoint = endpoint.into();
        Ok(Self::over(endpoint.upgrade(&endpoint.spdy_request(protocol)?, protocol)?))
    }

    /// Begins a session on a connection that has been upgraded.
    #[must_use]
    pub fn over(socket: Box<dyn Link>) -> Self {
        Self { socket, next: 1, buffer: vec![0; PIECE], left: 0..0, frame: (None, 0, false), data: 0..0 }
    }

    /// Opens a stream. If `is_closed`, this side sends nothing on it.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn stream(&mut self, headers: &[(&str, &str)], is_closed: bool) -> Result<u32> {
        let stream = self.next;
        self.next += 2;
        let block = header_block(headers, stream == 1)?;
        let mut frame = vec![0x80, 3];
        frame.extend_from_slice(&SYN_STREAM.to_be_bytes());
        frame.push(if is_closed { FIN } else { 0 });
        frame.extend_from_slice(&length(10 + block.len())?);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&block);
        self.send(&frame)?;
        Ok(stream)
    }

    /// Sends data, in frames of a size that every server takes.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn write(&mut self, stream: u32, data: &[u8]) -> Result<()> {
        data.chunks(MAX_DATA).try_for_each(|piece| self.frame(stream, 0, piece))
    }

    /// Sends the end of this side's data; the server may still send.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn close(&mut self, stream: u32) -> Result<()> {
        self.frame(stream, FIN, &[])
    }

    fn frame(&mut self, stream: u32, flags: u8, data: &[u8]) -> Result<()> {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.push(flags);
        frame.extend_from_slice(&length(data.len())?);
        frame.extend_from_slice(data);
        self.send(&frame)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.socket.write_all(bytes)?;
        Ok(self.socket.flush()?)
    }

    /// The data of the last event, when that was data.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.data.clone()]
    }

    /// Returns the next event.
    ///
    /// # Errors
    /// When the connection is lost, or nothing arrives for a minute.
    pub fn event(&mut self) -> Result<Event> {
        loop {
            if self.frame.1 > 0 {
                if self.left.is_empty() && !self.fill()? {
                    return Ok(Event::Closed);
                }
                let bytes = self.frame.1.min(self.left.len());
                self.data = self.left.start..self.left.start + bytes;
                self.left.start += bytes;
                self.frame.1 -= bytes;
                if let Some(stream) = self.frame.0 {
                    return Ok(Event::Data { stream, bytes });
                }
            } else if let (Some(stream), true) = (self.frame.0, self.frame.2) {
                self.frame = (None, 0, false);
                return Ok(Event::End { stream });
            } else if !self.head()? {
                return Ok(Event::Closed);
            }
        }
    }

    fn fill(&mut self) -> Result<bool> {
        let bytes = self.socket.read(&mut self.buffer)?;
        self.left = 0..bytes;
        Ok(bytes > 0)
    }

    /// Reads the head of a frame. Returns false when there are no more.
    fn head(&mut self) -> Result<bool> {
        let mut head = [0; 8];
        for byte in &mut head {
            if self.left.is_empty() && !self.fill()? {
                return Ok(false);
            }
            *byte = self.buffer[self.left.start];
            self.left.start += 1;
        }
        let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        let is_data = stream >> 31 == 0;
        self.frame = (is_data.then_some(stream), usize::try_from(length)?, head[4] & FIN != 0);
        Ok(true)
    }
}

fn length(bytes: usize) -> Result<[u8; 3]> {
    let [_, length @ ..] = u32::try_from(bytes)?.to_be_bytes();
    Ok(length)
}

/// Makes a header block in the format of zlib, but not compressed: a stored block, and an empty one, as after
/// a flush.
fn header_block(headers: &[(&str, &str)], is_first: bool) -> Result<Vec<u8>> {
    let mut text = u32::try_from(headers.len())?.to_be_bytes().to_vec();
    for (name, value) in headers {
        for part in [name, value] {
            text.extend_from_slice(&u32::try_from(part.len())?.to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
    }
    let length = u16::try_from(text.len())?;
    let mut block = if is_first { vec![0x78, 0x01] } else { Vec::new() };
    block.push(0);
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(&(!length).to_le_bytes());
    block.extend_from_slice(&text);
    block.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
    Ok(block)
}
