//! Connections to a streaming server, up to the upgrade of the protocol.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, IpAddr, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use crate::Result;

/// A server that sends nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_HEAD: usize = 16 << 10;

/// Bytes in both directions: TCP, TLS over TCP, or the messages of a WebSocket.
pub trait Link: Read + Write + Send {}

impl<T: Read + Write + Send> Link for T {}

/// The URL of a session, and the certificate that is trusted when it begins with `https`.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    pub url: &'a str,
    /// In PEM.
    pub trusted: Option<&'a str>,
}

impl<'a> From<&'a str> for Endpoint<'a> {
    fn from(url: &'a str) -> Self {
        Self { url, trusted: None }
    }
}

impl<'a> From<&'a String> for Endpoint<'a> {
    fn from(url: &'a String) -> Self {
        Self::from(url.as_str())
    }
}

impl<'a> Endpoint<'a> {
    /// The scheme, the address and the path of the URL.
    fn parts(self) -> Result<(&'a str, &'a str, &'a str)> {
        let (scheme, rest) = self.url.split_once("://").ok_or_else(|| format!("{} is no URL", self.url))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        Ok((scheme, authority, path))
    }

    /// Connects, with TLS where the URL wants it.
    ///
    /// # Errors
    /// When the server is not reached, or shows another certificate.
    pub fn connect(self) -> Result<Box<dyn Link>> {
        let (scheme, authority, _) = self.parts()?;
        let socket = TcpStream::connect(authority)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        match (scheme, self.trusted) {
            ("http", _) => Ok(Box::new(socket)),
            ("https", Some(trusted)) => Ok(Box::new(tls(socket, trusted)?)),
            ("https", None) => Err("no certificate is trusted".into()),
            _ => Err(format!("{scheme} is not http or https").into()),
        }
    }

    /// The request for an upgrade to SPDY.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn spdy_request(self, protocol: &str) -> Result<String> {
        let (_, authority, path) = self.parts()?;
        Ok(format!(
            "POST /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             Content-Length: 0\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
        ))
    }

    /// The request for an upgrade to a WebSocket.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn websocket_request(self, protocol: &str) -> Result<String> {
        let (_, authority, path) = self.parts()?;
        Ok(format!(
            "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        ))
    }

    /// Connects and sends a request for an upgrade, which the server must grant with this protocol.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn upgrade(self, request: &str, protocol: &str) -> Result<Box<dyn Link>> {
        let mut link = self.connect()?;
        link.write_all(request.as_bytes())?;
        link.flush()?;
        let head = head(&mut *link)?;
        // Not in a list of all protocols, and not as the end of another's name.
        let is_granted = |line: &str| line.split_once(": ").is_some_and(|(_, value)| value == protocol);
        if head.starts_with("HTTP/1.1 101") && head.lines().any(is_granted) {
            return Ok(link);
        }
        Err(format!("{}: {head}", self.url).into())
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn websocket(self, protocol: &str) -> Result<WebSocket<Box<dyn Link>>> {
        let link = self.upgrade(&self.websocket_request(protocol)?, protocol)?;
        Ok(WebSocket::from_raw_socket(link, Role::Client, None))
    }
}

/// Reads the head of a response, up to the empty line or the end of the connection.
fn head(link: &mut dyn Link) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        let mut byte = [0];
        if link.read(&mut byte)? == 0 {
            break;
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Does the handshake: the server's certificate must be the trusted one, or signed by it, and name its address.
fn tls(socket: TcpStream, trusted: &str) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::IpAddress(IpAddr::from(socket.peer_addr()?.ip()));
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, socket);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

/// Returns the error of a connection that is still open: nothing has arrived on it for a minute. Any other error has
/// ended it.
pub(crate) fn ended(error: crate::Error) -> Result<()> {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    if matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)) {
        Err(error)
    } else {
        Ok(())
    }
}

/// Waits until the server has closed the connection below a WebSocket, or reset it.
pub(crate) fn websocket_until_closed(socket: &mut WebSocket<Box<dyn Link>>) -> Result<()> {
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(Error::Io(error)) => return ended(error.into()),
            Err(_) => return Ok(()),
        }
    }
}

/// The bytes in the messages of a WebSocket, whose boundaries have no meaning.
pub struct Tunnel {
    socket: WebSocket<Box<dyn Link>>,
    /// The unread rest of the last message.
    rest: Vec<u8>,
}

impl Tunnel {
    #[must_use]
    pub fn new(socket: WebSocket<Box<dyn Link>>) -> Self {
        Self { socket, rest: Vec::new() }
    }
}

fn failure(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl Read for Tunnel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.rest = bytes.to_vec(),
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(0),
                Ok(_) => {}
                Err(error) => return Err(failure(error)),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

impl Write for Tunnel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::binary(bytes.to_vec())).map_err(failure)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(failure)
    }
}
