//! A client of exec and attach.

use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use super::message::Encoding;
use super::protocol::{Framing, Protocol};
use crate::Result;
use crate::link::{Endpoint, Link, websocket_until_closed};
use crate::spdy::{Event, Session};

/// A stream of a session, with the number that it has in a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Stdin,
    Stdout,
    Stderr,
    Error,
    Resize,
}

/// The requested streams, besides stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    /// With it there is no stderr.
    pub tty: bool,
}

/// A session with a process.
pub struct Process {
    protocol: Protocol,
    wire: Wire,
    heard: [Vec<u8>; 5],
    is_over: bool,
}

enum Wire {
    /// The ids of the streams, by channel.
    Spdy(Box<Session>, [Option<u32>; 5]),
    WebSocket(Box<WebSocket<Box<dyn Link>>>, Encoding),
}

impl Channel {
    const ALL: [Self; 5] = [Self::Stdin, Self::Stdout, Self::Stderr, Self::Error, Self::Resize];

    fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Error => "error",
            Self::Resize => "resize",
        }
    }

    fn is_wanted(self, streams: Streams, protocol: Protocol) -> bool {
        match self {
            Self::Stdin => streams.stdin,
            Self::Stdout | Self::Error => true,
            Self::Stderr => !streams.tty,
            Self::Resize => streams.tty && protocol.has_sizes(),
        }
    }

    fn is_sent(self) -> bool {
        matches!(self, Self::Stdin | Self::Resize)
    }
}

impl Wire {
    fn websocket(endpoint: Endpoint<'_>, protocol: Protocol, encoding: Encoding) -> Result<Self> {
        Ok(Self::WebSocket(Box::new(endpoint.websocket(protocol.name())?), encoding))
    }
}

impl Process {
    /// Connects to the URL of an exec or attach with these streams.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn open<'a>(endpoint: impl Into<Endpoint<'a>>, protocol: Protocol, streams: Streams) -> Result<Self> {
        let endpoint = endpoint.into();
        let wire = match protocol.framing() {
            Framing::Spdy => {
                let mut session = Session::open(endpoint, protocol.name())?;
                let mut ids = [None; 5];
                for channel in Channel::ALL.into_iter().filter(|channel| channel.is_wanted(streams, protocol))
                {
                    let id = session.stream(&[("streamtype", channel.name())], !channel.is_sent())?;
                    ids[channel as usize] = Some(id);
                }
                Wire::Spdy(Box::new(session), ids)
            }
            Framing::WebSocket => Wire::websocket(endpoint, protocol, Encoding::Binary)?,
            Framing::Base64 => Wire::websocket(endpoint, protocol, Encoding::Base64)?,
        };
        Ok(Self { protocol, wire, heard: Default::default(), is_over: false })
    }

    /// # Errors
    /// When the connection is lost, or has no such stream.
    pub fn send(&mut self, channel: Channel, data: &[u8]) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy(session, ids) => session.write(ids[channel as usize].ok_or("no such stream")?, data),
            Wire::WebSocket(socket, encoding) => Ok(socket.send(encoding.message(channel as u8, data))?),
        }
    }

    /// Sends bytes as they are, behind the frames before them.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy(session, _) => session.send(bytes),
            Wire::WebSocket(socket, _) => Ok(socket.get_mut().write_all(bytes)?),
        }
    }

    /// Sends the size of the terminal.
    ///
    /// # Errors
    /// When the connection is lost, or there is no terminal.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
        self.send(Channel::Resize, size.as_bytes())
    }

    /// Sends the end of standard input: see [`Protocol::has_half_close`].
    ///
    /// # Errors
    /// When the connection is lost, or there is no standard input.
    pub fn close_stdin(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy(session, ids) => session.close(ids[Channel::Stdin as usize].ok_or("no such stream")?),
            Wire::WebSocket(socket, _) => Ok(socket.send(Message::binary(vec![255, Channel::Stdin as u8]))?),
        }
    }

    /// Everything that a stream has brought so far.
    #[must_use]
    pub fn heard(&self, channel: Channel) -> &[u8] {
        &self.heard[channel as usize]
    }

    #[must_use]
    pub fn text(&self, channel: Channel) -> String {
        String::from_utf8_lossy(self.heard(channel)).into_owned()
    }

    /// Waits until `is_so` returns true.
    ///
    /// # Errors
    /// When the session ends before.
    pub fn until(&mut self, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        while !is_so(self) {
            if self.is_over {
                let heard = self.heard.each_ref().map(|bytes| String::from_utf8_lossy(bytes));
                return Err(format!("the session has ended: {heard:?}").into());
            }
            self.receive()?;
        }
        Ok(())
    }

    /// Waits for the end of the session; returns the exit code.
    ///
    /// # Errors
    /// When there is none.
    pub fn exit_code(&mut self) -> Result<i32> {
        while !self.is_over {
            self.receive()?;
        }
        let text = self.text(Channel::Error);
        if self.protocol.has_status() { code_of_status(&text) } else { code_of_sentence(&text) }
    }

    /// Waits until the server has closed the connection, or reset it.
    ///
    /// # Errors
    /// When it stays open.
    pub fn until_closed(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy(session, _) => session.until_closed(),
            Wire::WebSocket(socket, _) => websocket_until_closed(socket),
        }
    }

    /// Receives one message or piece of data.
    fn receive(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy(session, ids) => {
                let channel = |stream: u32| ids.iter().position(|id| *id == Some(stream));
                match session.event()? {
                    Event::Data { stream, .. } => {
                        let channel = channel(stream).ok_or("data of an unknown stream")?;
                        self.heard[channel].extend_from_slice(session.data());
                    }
                    // The last stream that the server ends; then it waits for the client to close.
                    Event::End { stream } | Event::Reset { stream } => {
                        self.is_over |= channel(stream) == Some(Channel::Error as usize);
                    }
                    Event::Closed => self.is_over = true,
                }
            }
            Wire::WebSocket(socket, encoding) => match socket.read() {
                Ok(message @ (Message::Binary(_) | Message::Text(_))) => {
                    let (channel, data) = encoding.read(&message)?;
                    let heard = self.heard.get_mut(usize::from(channel)).ok_or("an unknown channel")?;
                    heard.extend_from_slice(&data);
                }
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    self.is_over = true;
                }
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(())
    }
}

/// Reads the exit code from a status in JSON.
fn code_of_status(text: &str) -> Result<i32> {
    let status: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text:?}"))?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let cause = &status["details"]["causes"][0];
    if cause["reason"] != "ExitCode" {
        return Err(format!("no exit code: {status}").into());
    }
    Ok(cause["message"].as_str().unwrap_or_default().parse()?)
}

/// Reads the exit code from the sentence of the protocols before v4: a client prints it as it is.
fn code_of_sentence(text: &str) -> Result<i32> {
    if text.is_empty() {
        return Ok(0);
    }
    let code = text.strip_prefix("command terminated with exit code ");
    Ok(code.ok_or_else(|| format!("no exit code: {text:?}"))?.parse()?)
}
