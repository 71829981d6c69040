//! Opens connections, directly or through the proxy that `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name.
//!
//! This machine itself is never reached through a proxy, as with Go programs.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Which requests go through a proxy.
#[derive(Clone, Debug)]
pub(crate) struct Proxies(Arc<Matcher>);

impl Proxies {
    /// What this process's environment says.
    pub(crate) fn from_env() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }

    fn for_uri(&self, uri: &Uri) -> Option<Intercept> {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let ip = host.parse::<std::net::IpAddr>();
        if host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback()) {
            return None;
        }
        self.0.intercept(uri)
    }

    /// The header that a request sent in the open through a proxy needs. Tunnels carry their own.
    pub(crate) fn authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() == Some("https") {
            return None;
        }
        self.for_uri(uri)?.basic_auth().cloned()
    }
}

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
            let place = proxy.uri().clone();
            if place.scheme_str() != Some("http") {
                return Err(format!("proxy {}: only http:// proxies are supported", place_of(&place)).into());
            }
            let name = place_of(&place);
            let through =
                |e: BoxError| BoxError::from(format!("through proxy {name}: {}", super::error::chain(&*e)));
            if uri.scheme_str() == Some("https") {
                let mut tunnel = Tunnel::new(place, direct);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                let io = tunnel.call(uri).await.map_err(|e| through(e.into()))?;
                Ok(Dialed { io, proxied: false })
            } else {
                let io = direct.call(place).await.map_err(|e| through(e.into()))?;
                Ok(Dialed { io, proxied: true })
            }
        })
    }
}

/// Host and port only: a proxy's address may carry a password.
fn place_of(proxy: &Uri) -> String {
    let host = proxy.host().unwrap_or_default();
    proxy.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A connection, and whether a proxy reads the request lines on it.
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
    use crate::registry::http::{Ask, HttpClient, Timeouts};
    use crate::registry::{TlsOptions, Url};
    use http::Method;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one request with 418 and says what was asked.
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
        let matcher = Matcher::builder().all(proxy.to_owned()).no("direct.example").build();
        HttpClient::new(TlsOptions::default(), Timeouts::default(), Proxies(Arc::new(matcher)))
    }

    #[tokio::test]
    async fn plain_requests_go_through_a_proxy_in_the_open() {
        let (address, asked) = proxy().await;
        let ask = Ask::new(Method::GET, Url::parse("http://far.example/v2/x?y").unwrap());
        let response = client(&address).send(&ask).await.unwrap();
        assert_eq!(response.status(), 418);
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET http://far.example/v2/x?y HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("proxy-authorization: Basic dXNlcjpwYXNz\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn encrypted_requests_tunnel_and_the_proxys_refusal_is_told() {
        let (address, asked) = proxy().await;
        let ask = Ask::new(Method::GET, Url::parse("https://far.example/v2/x").unwrap());
        let error = client(&address).send(&ask).await.unwrap_err().to_string();
        assert!(error.contains("through proxy 127.0.0.1:") && !error.contains("pass"), "{error}");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("CONNECT far.example:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("dXNlcjpwYXNz"), "{asked}");
    }

    #[test]
    fn this_machine_and_the_excepted_are_reached_directly() {
        let proxies = Proxies(Arc::new(Matcher::builder().all("http://p:1").no("direct.example").build()));
        for uri in ["http://localhost:5000/", "https://127.0.0.1/", "http://[::1]/", "http://direct.example/"]
        {
            assert!(proxies.for_uri(&uri.parse().unwrap()).is_none(), "{uri}");
        }
        assert!(proxies.for_uri(&"http://far.example/".parse().unwrap()).is_some());
    }
}
