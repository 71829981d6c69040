//! A SPDY/3.1 client for a runtime's streaming server. Like the library in kubelet and kubectl it neither announces nor
//! respects windows.

use crate::Result;
use crate::link::{self, Endpoint, Link};

const SYN_STREAM: u16 = 1;
const RST_STREAM: u32 = 3;
const FIN: u8 = 1;
/// Size of one read.
const PIECE: usize = 256 << 10;
const MAX_DATA: usize = 32 << 10;

/// One session with a server.
pub struct Session {
    socket: Box<dyn Link>,
    next: u32,
    /// Whether no stream has been opened yet.
    is_first: bool,
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    left: std::ops::Range<usize>,
    /// The rest of the present frame: its stream, or None for a control frame; the number of bytes; whether
    /// it is the last.
    frame: (Option<u32>, usize, bool),
    /// Whether the present frame resets a stream.
    is_reset: bool,
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
    /// The server has reset the stream.
    Reset {
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
        Self {
            socket,
            next: 1,
            is_first: true,
            buffer: vec![0; PIECE],
            left: 0..0,
            frame: (None, 0, false),
            is_reset: false,
            data: 0..0,
        }
    }

    /// Opens a stream. If `is_closed`, this side sends nothing on it.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn stream(&mut self, headers: &[(&str, &str)], is_closed: bool) -> Result<u32> {
        let stream = self.next;
        self.next += 2;
        self.stream_with(stream, headers, is_closed)?;
        Ok(stream)
    }

    /// Opens a stream with this number, which may be against the protocol.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn stream_with(&mut self, stream: u32, headers: &[(&str, &str)], is_closed: bool) -> Result<()> {
        let block = header_block(headers, self.is_first)?;
        self.is_first = false;
        let mut frame = vec![0x80, 3];
        frame.extend_from_slice(&SYN_STREAM.to_be_bytes());
        frame.push(if is_closed { FIN } else { 0 });
        frame.extend_from_slice(&length(10 + block.len())?);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&block);
        self.send(&frame)
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
            if std::mem::take(&mut self.is_reset) {
                let Some([stream, _reason]) = self.numbers()? else { return Ok(Event::Closed) };
                self.frame = (None, 0, false);
                return Ok(Event::Reset { stream });
            }
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

    /// Waits until the server has closed the connection, or reset it.
    ///
    /// # Errors
    /// When nothing arrives for a minute.
    pub fn until_closed(&mut self) -> Result<()> {
        loop {
            match self.event() {
                Ok(Event::Closed) => return Ok(()),
                Ok(_) => {}
                Err(error) => return link::ended(error),
            }
        }
    }

    fn fill(&mut self) -> Result<bool> {
        let bytes = self.socket.read(&mut self.buffer)?;
        self.left = 0..bytes;
        Ok(bytes > 0)
    }

    /// Reads two numbers. Returns None when there are no more.
    fn numbers(&mut self) -> Result<Option<[u32; 2]>> {
        let mut numbers = [0_u32; 2];
        for number in &mut numbers {
            for _ in 0..4 {
                if self.left.is_empty() && !self.fill()? {
                    return Ok(None);
                }
                *number = *number << 8 | u32::from(self.buffer[self.left.start]);
                self.left.start += 1;
            }
        }
        Ok(Some(numbers))
    }

    /// Reads the head of a frame. Returns false when there are no more.
    fn head(&mut self) -> Result<bool> {
        let Some([stream, rest]) = self.numbers()? else { return Ok(false) };
        let ([flags, ..], length) = (rest.to_be_bytes(), usize::try_from(rest & 0x00ff_ffff)?);
        let is_data = stream >> 31 == 0;
        self.is_reset = !is_data && stream & 0xffff == RST_STREAM && length == 8;
        self.frame = (is_data.then_some(stream), length, flags & FIN != 0);
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
