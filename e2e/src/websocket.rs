//! WebSockets to servers of this machine, without TLS.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::Result;

pub type WebSocket = WebSocketStream<TcpStream>;

/// Connects to an `http` URL with this sub-protocol.
///
/// # Errors
/// The server's refusal.
pub async fn connect(url: &str, protocol: &str) -> Result<WebSocket> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url} is no http URL"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut socket = TcpStream::connect(authority).await?;
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    if !head.starts_with("HTTP/1.1 101") {
        return Err(format!("{url}: {head}").into());
    }
    Ok(WebSocketStream::from_raw_socket(socket, Role::Client, None).await)
}
