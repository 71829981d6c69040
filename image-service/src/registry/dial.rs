//! Opens connections, directly or through a proxy.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::proxy::Proxies;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Opens the TCP connection below a request.
#[derive(Clone)]
pub(crate) struct Dialer {
    direct: HttpConnector,
    proxies: Proxies,
}

impl Dialer {
    pub(crate) fn new(connect_timeout: Duration, proxies: Proxies) -> Self {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_connect_timeout(Some(connect_timeout));
        direct.set_nodelay(true);
        direct.set_keepalive(Some(Duration::from_secs(30)));
        Self { direct, proxies }
    }
}

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Dialed, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut direct = self.direct.clone();
        let Some(proxy) = self.proxies.for_uri(&uri) else {
            let connecting = direct.call(uri);
            return Box::pin(async move { Ok(Dialed { io: connecting.await?, proxied: false }) });
        };
        Box::pin(async move {
            let address = proxy.uri().clone();
            let name = name_of(&address);
            if address.scheme_str() != Some("http") {
                return Err(format!("proxy {name}: only http:// proxies are supported").into());
            }
            let through =
                |e: BoxError| BoxError::from(format!("through proxy {name}: {}", super::error::chain(&*e)));
            if uri.scheme_str() == Some("https") {
                let mut tunnel = Tunnel::new(address, direct);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                let io = tunnel.call(uri).await.map_err(|e| through(e.into()))?;
                Ok(Dialed { io, proxied: false })
            } else {
                let io = direct.call(address).await.map_err(|e| through(e.into()))?;
                Ok(Dialed { io, proxied: true })
            }
        })
    }
}

/// Only host and port: a proxy's address may have a password.
fn name_of(proxy: &Uri) -> String {
    let host = proxy.host().unwrap_or_default();
    proxy.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A connection, and whether it goes to a proxy that reads the request lines.
pub(crate) struct Dialed {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Dialed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::http::{HttpClient, HttpRequest, Timeouts};
    use crate::registry::tls::Authorities;
    use crate::registry::{TlsOptions, Url};
    use http::Method;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Responds to one request with 418 and returns the request line.
    async fn proxy() -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 418 teapot\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (format!("http://user:pass@{address}"), asked)
    }

    fn client(proxy: &str) -> HttpClient {
        let proxies = Proxies::new(proxy, proxy, "direct.example");
        HttpClient::new(TlsOptions::default(), Authorities::of_system(), Timeouts::default(), proxies)
    }

    #[tokio::test]
    async fn plain_requests_go_through_a_proxy_unencrypted() {
        let (address, asked) = proxy().await;
        let request = HttpRequest::new(Method::GET, Url::parse("http://far.example/v2/x?y").unwrap());
        let response = client(&address).send(&request).await.unwrap();
        assert_eq!(response.status(), 418);
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET http://far.example/v2/x?y HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("proxy-authorization: Basic dXNlcjpwYXNz\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_proxy_that_cannot_be_understood_is_not_gone_past() {
        let request = |url| HttpRequest::new(Method::GET, Url::parse(url).unwrap());
        let client = client("http://user:secret@proxy:port");
        for url in ["http://far.example/v2/x", "https://far.example/v2/x"] {
            let error = client.send(&request(url)).await.unwrap_err().to_string();
            assert!(error.contains("_PROXY") && !error.contains("secret"), "{error}");
        }
        let error = client.send(&request("http://127.0.0.1:1/")).await.unwrap_err().to_string();
        assert!(error.contains("cannot connect"), "{error}");
    }

    #[tokio::test]
    async fn encrypted_requests_tunnel_and_the_proxys_refusal_is_in_the_error() {
        let (address, asked) = proxy().await;
        let request = HttpRequest::new(Method::GET, Url::parse("https://far.example/v2/x").unwrap());
        let error = client(&address).send(&request).await.unwrap_err().to_string();
        assert!(error.contains("through proxy 127.0.0.1:") && !error.contains("pass"), "{error}");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("CONNECT far.example:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("dXNlcjpwYXNz"), "{asked}");
    }
}
