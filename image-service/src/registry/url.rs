//! Addresses of requests, reduced to scheme, host, path and query.

use std::fmt;
use std::net::IpAddr;

use http::uri::{Authority, Uri};

/// The reason why a text is not the address of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {why}")]
pub struct InvalidUrl {
    text: String,
    why: String,
}

/// An `http://` or `https://` address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    https: bool,
    authority: Authority,
    /// Starts with `/`, or is empty; may carry a query.
    path: String,
}

impl Url {
    /// The only way to make one from outside text.
    ///
    /// # Errors
    /// [`InvalidUrl`] when the scheme is neither http nor https, or the host is missing or malformed.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        // Without the query: in redirects of blobs it has signatures.
        let shown = || text.split('?').next().unwrap_or_default().chars().take(200).collect();
        let fail = |why: &str| InvalidUrl { text: shown(), why: why.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| fail("expected http:// or https://"))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(fail("only http and https are supported")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if let Some((_, host)) = authority.rsplit_once('@') {
            let why = "a user name or password does not belong into an address".to_owned();
            return Err(InvalidUrl { text: format!("{scheme}://…@{host}"), why });
        }
        let authority: Authority = authority.parse().map_err(|_| fail("the host is malformed"))?;
        if authority.host().is_empty() {
            return Err(fail("the host is missing"));
        }
        let port = authority.as_str()[authority.host().len()..].strip_prefix(':');
        if port.is_some_and(|p| p.parse::<u16>().is_err()) {
            return Err(fail("the port is not a number from 0 to 65535"));
        }
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        let url = Self { https, authority, path };
        url.to_string().parse::<Uri>().map_err(|e| fail(&e.to_string()))?;
        Ok(url)
    }

    /// The address of a bare registry host: https, except on this machine itself.
    ///
    /// # Errors
    /// [`InvalidUrl`] when the host is malformed.
    pub fn of_registry(host: &str) -> Result<Self, InvalidUrl> {
        let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let secure = Self::parse(&format!("https://{host}"))?;
        Ok(Self { https: !secure.is_loopback(), ..secure })
    }

    /// The address in a `Location` header, read relative to this address.
    ///
    /// # Errors
    /// [`InvalidUrl`] when it is not an address.
    pub fn join(&self, location: &str) -> Result<Self, InvalidUrl> {
        if location.contains("://") && !location.starts_with(['/', '?']) {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme()));
        }
        let base = self.path.split('?').next().unwrap_or_default();
        let path = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{base}{location}")
        } else {
            let folder = base.rfind('/').map_or("", |slash| &base[..slash]);
            format!("{folder}/{location}")
        };
        Self::parse(&format!("{}://{}{path}", self.scheme(), self.authority))
    }

    /// This address with `more` appended to its path.
    #[must_use]
    pub fn with_path(&self, more: &str) -> Self {
        Self { path: format!("{}{more}", self.path), ..self.clone() }
    }

    /// This address with another path.
    #[must_use]
    pub(crate) fn replace_path(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// This address with `key=value` added to its query, both escaped.
    #[must_use]
    pub fn with_query(&self, key: &str, value: &str) -> Self {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let slash = if self.path.is_empty() { "/" } else { "" };
        let path = format!("{}{slash}{separator}{}={}", self.path, escape(key), escape(value));
        Self { path, ..self.clone() }
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// Whether the transport is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Host without brackets and port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, also when it was not given.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.https { 443 } else { 80 })
    }

    /// Host and, if it was given, port.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Scheme and host, for messages and metrics: without path and query, so nothing secret.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority)
    }

    /// Whether both are the same server, so that a secret for one may be sent to the other.
    #[must_use]
    pub fn same_server(&self, other: &Self) -> bool {
        self.https == other.https
            && self.host().eq_ignore_ascii_case(other.host())
            && self.port() == other.port()
    }

    /// Whether this is the machine itself: `localhost`, 127.0.0.0/8 or ::1.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// In hyper's form.
    pub(crate) fn to_uri(&self) -> Result<Uri, InvalidUrl> {
        let text = self.to_string();
        text.parse::<Uri>().map_err(|e| InvalidUrl { text: self.origin(), why: e.to_string() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.path)
    }
}

/// Debug does not show the query: in redirects of blobs it has signatures.
impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path.split('?').next().unwrap_or_default())
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn locations_are_joined_as_browsers_do() {
        let base = url("https://r.io:5000/v2/app/blobs/x?ns=docker.io");
        for (location, joined) in [
            ("https://cdn.io/b?sig=a/b#frag", "https://cdn.io/b?sig=a/b"),
            ("//cdn.io/b", "https://cdn.io/b"),
            ("/other?x=http://y", "https://r.io:5000/other?x=http://y"),
            ("sibling", "https://r.io:5000/v2/app/blobs/sibling"),
            ("?q=1", "https://r.io:5000/v2/app/blobs/x?q=1"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), joined);
        }
        assert!(base.join("ftp://x/y").is_err());
    }

    #[test]
    fn a_server_is_scheme_host_and_port() {
        let a = url("https://r.io/x");
        assert!(a.same_server(&url("https://R.io:443/y")));
        for other in ["http://r.io/x", "https://r.io:444", "https://evil.r.io", "https://r.io.evil"] {
            assert!(!a.same_server(&url(other)), "{other}");
        }
    }

    #[test]
    fn plain_http_only_on_this_machine() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(!Url::of_registry(host).unwrap().is_https(), "{host}");
        }
        assert_eq!(Url::of_registry("docker.io").unwrap().to_string(), "https://registry-1.docker.io");
        assert!(Url::of_registry("localhost.example.com").unwrap().is_https());
    }

    #[test]
    fn signatures_are_not_in_errors() {
        let here = url("https://a.io/v2/");
        for location in ["https://b.io:x/l?sig=secret", "ftp://b.io?sig=secret", "/l x?sig=secret"] {
            let error = here.join(location).unwrap_err().to_string();
            assert!(!error.contains("secret") && error.contains(".io"), "{error}");
        }
    }

    #[test]
    fn bad_addresses_are_refused() {
        for text in ["r.io", "ftp://r.io", "https://", "https://u:p@r.io", "https://r.io:x/"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn queries_are_escaped_and_kept_out_of_debug() {
        let url = url("https://a.io/token").with_query("scope", "repository:a/b:pull").with_query("k", "v w");
        assert_eq!(url.to_string(), "https://a.io/token?scope=repository%3Aa%2Fb%3Apull&k=v%20w");
        assert_eq!(format!("{url:?}"), "https://a.io/token");
    }
}
