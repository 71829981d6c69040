//! A client of port-forward.

use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use super::message::Encoding;
use crate::Result;
use crate::link::{Endpoint, Link, Tunnel, websocket_until_closed};
use crate::spdy::{Event, Session};

const SPDY: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const WEBSOCKET: &str = "v4.channel.k8s.io";
const BASE64: &str = "v4.base64.channel.k8s.io";

/// A protocol of port-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardProtocol {
    Spdy,
    /// SPDY in the messages of a WebSocket.
    Tunnel,
    /// Its ports are those of the request for the URL. Without half closes.
    WebSocketV4,
    /// The same in text.
    Base64V4,
}

/// A session with one connection to a port of a pod.
pub struct Forward {
    wire: Wire,
    data: Vec<u8>,
    error: Vec<u8>,
    /// The server has ended or reset both streams, or the connection.
    is_over: bool,
    /// Over SPDY.
    data_ended: bool,
    error_ended: bool,
}

enum Wire {
    Spdy { session: Box<Session>, data: u32, error: u32 },
    WebSocket(Box<WebSocket<Box<dyn Link>>>, Encoding),
}

impl Wire {
    /// Opens a connection to this port.
    fn spdy(mut session: Session, port: u16) -> Result<Self> {
        let port = port.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
        let error = session.stream(&headers("error"), true)?;
        let data = session.stream(&headers("data"), false)?;
        Ok(Self::Spdy { session: Box::new(session), data, error })
    }

    /// The bytes of a stream without the port number, with which each begins in a WebSocket.
    fn content<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Spdy { .. } => bytes,
            Self::WebSocket(..) => bytes.get(2..).unwrap_or_default(),
        }
    }
}

impl ForwardProtocol {
    pub const ALL: [Self; 4] = [Self::Spdy, Self::Tunnel, Self::WebSocketV4, Self::Base64V4];

    #[must_use]
    pub fn has_half_close(self) -> bool {
        matches!(self, Self::Spdy | Self::Tunnel)
    }
}

impl Forward {
    /// Connects to the URL of a port-forward, which must be for this port, and opens a connection to it.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn open<'a>(endpoint: impl Into<Endpoint<'a>>, protocol: ForwardProtocol, port: u16) -> Result<Self> {
        let endpoint = endpoint.into();
        let wire = match protocol {
            ForwardProtocol::Spdy => Wire::spdy(Session::open(endpoint, SPDY)?, port)?,
            ForwardProtocol::Tunnel => {
                let tunnel = Tunnel::new(endpoint.websocket(TUNNEL)?);
                Wire::spdy(Session::over(Box::new(tunnel)), port)?
            }
            ForwardProtocol::WebSocketV4 => {
                Wire::WebSocket(Box::new(endpoint.websocket(WEBSOCKET)?), Encoding::Binary)
            }
            ForwardProtocol::Base64V4 => {
                Wire::WebSocket(Box::new(endpoint.websocket(BASE64)?), Encoding::Base64)
            }
        };
        let (data, error) = (Vec::new(), Vec::new());
        Ok(Self { wire, data, error, is_over: false, data_ended: false, error_ended: false })
    }

    /// # Errors
    /// When the connection is lost.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy { session, data, .. } => session.write(*data, bytes),
            Wire::WebSocket(socket, encoding) => Ok(socket.send(encoding.message(0, bytes))?),
        }
    }

    /// Sends bytes as they are, behind the frames before them; through a tunnel, in a message.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy { session, .. } => session.send(bytes),
            Wire::WebSocket(socket, _) => Ok(socket.get_mut().write_all(bytes)?),
        }
    }

    /// Sends the end of the data: see [`ForwardProtocol::has_half_close`].
    ///
    /// # Errors
    /// When the connection is lost, or the protocol has no half closes.
    pub fn close(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy { session, data, .. } => session.close(*data),
            Wire::WebSocket(..) => Err("this protocol has no half closes".into()),
        }
    }

    /// The data of the port so far.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.wire.content(&self.data)
    }

    /// The reason why the connection failed.
    #[must_use]
    pub fn error(&self) -> String {
        String::from_utf8_lossy(self.wire.content(&self.error)).into_owned()
    }

    /// Waits until `is_so` returns true.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn until(&mut self, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        while !is_so(self) {
            if self.is_over {
                let (bytes, error) = (self.data().len(), self.error());
                return Err(format!("the connection ended after {bytes} bytes: {error}").into());
            }
            self.receive()?;
        }
        Ok(())
    }

    /// Waits until the port has sent everything and this side has closed, or the connection failed. In a WebSocket only
    /// a failure has an end.
    ///
    /// # Errors
    /// When the connection to the server is lost.
    pub fn to_end(&mut self) -> Result<()> {
        while !self.is_over {
            self.receive()?;
        }
        Ok(())
    }

    /// Waits until the server has closed the session's connection, or reset it.
    ///
    /// # Errors
    /// When it stays open.
    pub fn until_closed(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy { session, .. } => session.until_closed(),
            Wire::WebSocket(socket, _) => websocket_until_closed(socket),
        }
    }

    fn receive(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy { session, data, error } => match session.event()? {
                Event::Data { stream, .. } if stream == *data => self.data.extend_from_slice(session.data()),
                Event::Data { stream, .. } if stream == *error => {
                    self.error.extend_from_slice(session.data())
                }
                Event::Data { .. } => return Err("data of an unknown stream".into()),
                Event::End { stream } | Event::Reset { stream } => {
                    self.data_ended |= stream == *data;
                    // When this side has closed its own data too, or the connection failed.
                    self.error_ended |= stream == *error;
                    self.is_over |= self.data_ended && self.error_ended;
                }
                Event::Closed => self.is_over = true,
            },
            Wire::WebSocket(socket, encoding) => match socket.read() {
                Ok(message @ (Message::Binary(_) | Message::Text(_))) => match encoding.read(&message)? {
                    (0, bytes) => self.data.extend_from_slice(&bytes),
                    (1, bytes) => self.error.extend_from_slice(&bytes),
                    _ => return Err("data of an unknown channel".into()),
                },
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
