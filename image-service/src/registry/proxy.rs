//! Chooses the requests that use the proxy of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
//!
//! The rules are those of Go's `golang.org/x/net/http/httpproxy`, because operators copy these settings from
//! containerd, CRI-O and kubelet. This machine itself is never reached through a proxy.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use ipnet::IpNet;

/// The proxy settings.
#[derive(Clone, Debug)]
pub(crate) struct Proxies(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    proxies: Matcher,
    exceptions: Vec<Exception>,
    /// Settings with a value that is not an address.
    unusable: Vec<InvalidProxy>,
}

/// A setting that is not the address of a proxy. Its value may have a password, and is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} in the environment is not the address of a proxy: expected http://HOST:PORT")]
pub(crate) struct InvalidProxy {
    name: &'static str,
    scheme: &'static str,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    Network(IpNet),
    Address(IpAddr, Option<u16>),
    /// The name with a leading dot. Without `only_below` the name itself matches too.
    Domain {
        suffix: String,
        port: Option<u16>,
        only_below: bool,
    },
}

impl Proxies {
    /// The settings in this process's environment.
    pub(crate) fn from_env() -> Self {
        let get = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let either = |upper: &str, lower: &str| get(upper).or_else(|| get(lower)).unwrap_or_default();
        Self::new(
            &either("HTTP_PROXY", "http_proxy"),
            &either("HTTPS_PROXY", "https_proxy"),
            &either("NO_PROXY", "no_proxy"),
        )
    }

    pub(crate) fn new(http: &str, https: &str, no_proxy: &str) -> Self {
        let proxies = Matcher::builder().http(http.to_owned()).https(https.to_owned()).build();
        let all = [("HTTP_PROXY", "http", http), ("HTTPS_PROXY", "https", https)];
        let unusable = all.into_iter().filter(|(_, _, value)| !value.is_empty() && !is_usable(value));
        let unusable = unusable.map(|(name, scheme, _)| InvalidProxy { name, scheme }).collect();
        Self(Arc::new(Settings { proxies, exceptions: exceptions(no_proxy), unusable }))
    }

    /// Checks that a proxy for the request is usable.
    ///
    /// # Errors
    /// A proxy is set for such requests and cannot be used: sending them directly was not requested.
    pub(super) fn check(&self, uri: &Uri) -> Result<(), InvalidProxy> {
        let unusable = self.0.unusable.iter().find(|setting| uri.scheme_str() == Some(setting.scheme));
        unusable.filter(|_| !self.is_direct(uri)).map_or(Ok(()), |setting| Err(*setting))
    }

    /// The proxy for a request; `None` when it is sent directly.
    pub(super) fn for_uri(&self, uri: &Uri) -> Option<Intercept> {
        if self.is_direct(uri) { None } else { self.0.proxies.intercept(uri) }
    }

    fn is_direct(&self, uri: &Uri) -> bool {
        let Some(host) = uri.host() else { return true };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return true;
        }
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        self.0.exceptions.iter().any(|exception| exception.matches(&host, ip, port))
    }

    /// The header for an unencrypted request through a proxy. Tunnels have their own.
    pub(super) fn authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() == Some("https") {
            return None;
        }
        self.for_uri(uri)?.basic_auth().cloned()
    }
}

impl Exception {
    fn matches(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        let port_fits = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match (self, ip) {
            (Self::All, _) => true,
            (Self::Network(network), Some(ip)) => network.contains(&ip),
            (Self::Address(address, wanted), Some(ip)) => *address == ip && port_fits(wanted),
            (Self::Domain { suffix, port: wanted, only_below }, None) => {
                (host.ends_with(suffix) || (!only_below && *host == suffix[1..])) && port_fits(wanted)
            }
            (Self::Network(_) | Self::Address(..), None) | (Self::Domain { .. }, Some(_)) => false,
        }
    }
}

/// The library treats an address that it cannot parse as no proxy.
fn is_usable(proxy: &str) -> bool {
    let any = Uri::from_static("http://registry.invalid/");
    let parsed = Matcher::builder().http(proxy.to_owned()).build().intercept(&any);
    let authority = parsed.as_ref().and_then(|proxy| proxy.uri().authority());
    authority.is_some_and(|authority| {
        let port = authority.as_str()[authority.host().len()..].strip_prefix(':');
        !authority.host().is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok())
    })
}

/// Parses `NO_PROXY`: entries separated by commas. Malformed ones are ignored, as in Go.
fn exceptions(no_proxy: &str) -> Vec<Exception> {
    no_proxy.split(',').filter_map(|entry| exception(&entry.trim().to_ascii_lowercase())).collect()
}

fn exception(entry: &str) -> Option<Exception> {
    if entry == "*" {
        return Some(Exception::All);
    }
    if let Ok(network) = entry.parse::<IpNet>() {
        return Some(Exception::Network(network));
    }
    let address = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    if let Some(address) = address(entry) {
        return Some(Exception::Address(address, None));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
        None => (entry, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Some(address) = address(host) {
        return Some(Exception::Address(address, port));
    }
    // `*.example.com` is `.example.com`.
    let host = if host.starts_with("*.") { &host[1..] } else { host };
    if host.is_empty() || host == "." {
        return None;
    }
    let only_below = host.starts_with('.');
    let suffix = if only_below { host.to_owned() } else { format!(".{host}") };
    Some(Exception::Domain { suffix, port, only_below })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a request is sent directly.
    fn direct(no_proxy: &str, uri: &str) -> bool {
        let proxies = Proxies::new("http://p:1", "http://p:1", no_proxy);
        proxies.for_uri(&uri.parse().unwrap()).is_none()
    }

    #[test]
    fn names_are_matched_as_go_programs_do() {
        for (no_proxy, uri, expected) in [
            ("*.local", "https://registry.local/v2", true),
            ("*.local", "https://a.b.local/v2", true),
            ("*.local", "https://local/v2", false),
            (".local", "https://registry.local/v2", true),
            (".local", "https://local/v2", false),
            ("local", "https://registry.local/v2", true),
            ("local", "https://local/v2", true),
            ("local", "https://notlocal/v2", false),
            ("a.io, *.LOCAL ,b.io", "https://Registry.Local/v2", true),
            ("r.io:5000", "https://r.io:5000/v2", true),
            ("r.io:5000", "https://r.io/v2", false),
            ("r.io:443", "https://r.io/v2", true),
            ("r.io:80", "http://r.io/v2", true),
            ("*", "https://r.io/v2", true),
            ("re*.io", "https://reg.io/v2", false),
            (":5000,.,,r.io:port", "https://r.io/v2", false),
        ] {
            assert_eq!(direct(no_proxy, uri), expected, "{no_proxy} {uri}");
        }
    }

    #[test]
    fn addresses_and_networks_are_matched_as_go_programs_do() {
        for (no_proxy, uri, expected) in [
            ("10.0.0.0/8", "http://10.1.2.3:5000/v2", true),
            ("10.0.0.0/8", "http://11.1.2.3/v2", false),
            ("10.1.2.3", "http://10.1.2.3:5000/v2", true),
            ("10.1.2.3:5000", "http://10.1.2.3:5000/v2", true),
            ("10.1.2.3:5000", "http://10.1.2.3/v2", false),
            ("fd00::/8", "http://[fd00::1]:5000/v2", true),
            ("fd00::1", "http://[fd00::1]:5000/v2", true),
            ("[fd00::1]:5000", "http://[fd00::1]:5000/v2", true),
            ("[fd00::1]:5000", "http://[fd00::1]/v2", false),
            ("2.3", "http://10.1.2.3/v2", false),
            ("*", "http://10.1.2.3/v2", true),
        ] {
            assert_eq!(direct(no_proxy, uri), expected, "{no_proxy} {uri}");
        }
    }

    #[test]
    fn settings_that_name_no_proxy_are_refused_for_what_they_are_for() {
        for bad in ["http:///p", "http://:1", "ftp://p:1", "http://p:port", "http://user:p w@p:1", "::"] {
            let proxies = Proxies::new("http://p:1", bad, "direct.example");
            let check = |uri: &str| proxies.check(&uri.parse().unwrap());
            let error = check("https://far.example/").unwrap_err().to_string();
            assert!(error.contains("HTTPS_PROXY") && !error.contains(bad), "{bad}: {error}");
            assert_eq!(check("http://far.example/"), Ok(()));
            assert_eq!(check("https://direct.example/"), Ok(()));
            assert_eq!(check("https://localhost:1/"), Ok(()));
        }
        for good in ["", "p:1", "http://u:p@p:1/", "https://p"] {
            let proxies = Proxies::new(good, good, "");
            assert_eq!(proxies.check(&"https://far.example/".parse().unwrap()), Ok(()), "{good}");
        }
    }

    #[test]
    fn this_machine_is_reached_directly() {
        for uri in ["http://localhost:5000/", "https://127.0.0.1/", "http://[::1]/", "http://LOCALHOST/"] {
            assert!(direct("", uri), "{uri}");
        }
        assert!(!direct("", "http://far.example/"));
    }
}
