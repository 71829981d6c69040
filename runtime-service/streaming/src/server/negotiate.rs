//! Chooses the framing and the sub-protocol from the headers of an upgrade request, and makes the response.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::process::Protocol;
use crate::websocket;

const SPDY_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY_ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The kind of session that a URL is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Process,
    PortForward,
}

/// The framing of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The protocol is used for processes only.
    Spdy {
        protocol: Protocol,
    },
    WebSocket {
        protocol: Protocol,
        base64: bool,
    },
    /// SPDY in a WebSocket.
    Tunnel,
}

/// The agreed framing, and the headers of the response.
#[derive(Debug)]
pub(super) struct Negotiated {
    framing: Framing,
    headers: Vec<(HeaderName, HeaderValue)>,
}

type Refusal = (StatusCode, String);

const SPDY_PROCESS: &[(&str, Framing)] = &[
    ("v4.channel.k8s.io", Framing::Spdy { protocol: Protocol::V4 }),
    ("v3.channel.k8s.io", Framing::Spdy { protocol: Protocol::V3 }),
    ("v2.channel.k8s.io", Framing::Spdy { protocol: Protocol::V2 }),
    ("channel.k8s.io", Framing::Spdy { protocol: Protocol::V1 }),
];

const SPDY_FORWARD: &[(&str, Framing)] = &[("portforward.k8s.io", Framing::Spdy { protocol: Protocol::V1 })];

const fn websocket(protocol: Protocol, base64: bool) -> Framing {
    Framing::WebSocket { protocol, base64 }
}

const WEBSOCKET_PROCESS: &[(&str, Framing)] = &[
    ("v5.channel.k8s.io", websocket(Protocol::V5, false)),
    ("v4.channel.k8s.io", websocket(Protocol::V4, false)),
    ("v4.base64.channel.k8s.io", websocket(Protocol::V4, true)),
    ("channel.k8s.io", websocket(Protocol::V1, false)),
    ("base64.channel.k8s.io", websocket(Protocol::V1, true)),
];

const WEBSOCKET_FORWARD: &[(&str, Framing)] = &[
    ("SPDY/3.1+portforward.k8s.io", Framing::Tunnel),
    ("v4.channel.k8s.io", websocket(Protocol::V4, false)),
    ("v4.base64.channel.k8s.io", websocket(Protocol::V4, true)),
];

/// # Errors
/// The status and text of the response to a request that cannot become a session.
pub(super) fn negotiate(headers: &HeaderMap, kind: Kind) -> Result<Negotiated, Refusal> {
    if !has_word(headers, &header::CONNECTION, "upgrade") {
        return Err(bad("this is for streams: the request must ask for an upgrade of the connection"));
    }
    if has_word(headers, &header::UPGRADE, "websocket") {
        return negotiate_websocket(headers, kind);
    }
    if has_word(headers, &header::UPGRADE, "spdy/3.1") {
        return negotiate_spdy(headers, kind);
    }
    Err(bad("the connection can be upgraded to SPDY/3.1 or websocket only"))
}

fn negotiate_spdy(headers: &HeaderMap, kind: Kind) -> Result<Negotiated, Refusal> {
    let (known, default) = match kind {
        Kind::Process => (SPDY_PROCESS, Framing::Spdy { protocol: Protocol::V1 }),
        Kind::PortForward => (SPDY_FORWARD, Framing::Spdy { protocol: Protocol::V1 }),
    };
    let mut answer = vec![(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"))];
    let framing = match choose(headers, &SPDY_PROTOCOL, known) {
        Choice::Negotiated(name, framing) => {
            answer.push((SPDY_PROTOCOL, HeaderValue::from_static(name)));
            framing
        }
        Choice::NoneOffered => default,
        Choice::NoneInCommon(text) => return Err((StatusCode::FORBIDDEN, text)),
    };
    if let Ok(all) = HeaderValue::from_str(&names(known)) {
        answer.push((SPDY_ACCEPTED, all));
    }
    Ok(Negotiated { framing, headers: answer })
}

fn negotiate_websocket(headers: &HeaderMap, kind: Kind) -> Result<Negotiated, Refusal> {
    if !has_word(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(bad("the WebSocket must be of version 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("there is no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::from_str(&websocket::accept_key(key.as_bytes()));
    let accept = accept.map_err(|_| bad("the Sec-WebSocket-Key cannot be used"))?;
    let (known, default) = match kind {
        Kind::Process => (WEBSOCKET_PROCESS, websocket(Protocol::V1, false)),
        Kind::PortForward => (WEBSOCKET_FORWARD, websocket(Protocol::V4, false)),
    };
    let mut answer = vec![
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    let framing = match choose(headers, &header::SEC_WEBSOCKET_PROTOCOL, known) {
        Choice::Negotiated(name, framing) => {
            answer.push((header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name)));
            framing
        }
        Choice::NoneOffered => default,
        Choice::NoneInCommon(text) => return Err((StatusCode::FORBIDDEN, text)),
    };
    Ok(Negotiated { framing, headers: answer })
}

enum Choice {
    Negotiated(&'static str, Framing),
    NoneOffered,
    NoneInCommon(String),
}

/// Chooses the first of the client's protocols that is known.
fn choose(headers: &HeaderMap, name: &HeaderName, known: &[(&'static str, Framing)]) -> Choice {
    let offered: Vec<&str> = words(headers, name).collect();
    if offered.is_empty() {
        return Choice::NoneOffered;
    }
    let negotiated = offered.iter().find_map(|word| known.iter().find(|(name, _)| name == word));
    match negotiated {
        Some((name, framing)) => Choice::Negotiated(name, *framing),
        None => Choice::NoneInCommon(format!(
            "unable to negotiate a protocol: the client speaks {}, this server {}",
            offered.join(", "),
            names(known)
        )),
    }
}

fn names(known: &[(&str, Framing)]) -> String {
    known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|found| found.eq_ignore_ascii_case(word))
}

fn bad(text: &str) -> Refusal {
    (StatusCode::BAD_REQUEST, text.to_owned())
}

/// Over a WebSocket each port has two of the 255 channels that a byte can number; one more closes others.
pub(super) const MAX_FIXED_PORTS: usize = 127;

impl Negotiated {
    /// # Errors
    /// The session could not have all the named ports.
    pub(super) fn check_ports(&self, ports: &[u16]) -> Result<(), Refusal> {
        let is_fixed = matches!(self.framing, Framing::WebSocket { .. });
        if is_fixed && ports.len() > MAX_FIXED_PORTS {
            let count = ports.len();
            return Err(bad(&format!(
                "a WebSocket carries {MAX_FIXED_PORTS} ports at most, and {count} were named"
            )));
        }
        Ok(())
    }

    /// The answer, and what is spoken after it.
    pub(super) fn accept(self) -> (Response<()>, Framing) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        (response, self.framing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_kubelets_request_gets_its_first_known_protocol() {
        let request = headers(&[
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", "v9.channel.k8s.io"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io, v3.channel.k8s.io"),
        ]);
        let (response, framing) = negotiate(&request, Kind::Process).unwrap().accept();
        assert_eq!(framing, Framing::Spdy { protocol: Protocol::V4 });
        assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
        assert_eq!(response.status(), 101);
    }

    #[test]
    fn a_client_of_kubernetes_1_0_names_no_protocol() {
        let request = headers(&[("Connection", "upgrade"), ("Upgrade", "SPDY/3.1")]);
        let (response, framing) = negotiate(&request, Kind::Process).unwrap().accept();
        assert_eq!(framing, Framing::Spdy { protocol: Protocol::V1 });
        assert!(response.headers().get("x-stream-protocol-version").is_none());
    }

    #[test]
    fn a_websocket_gets_proof_and_protocol() {
        let request = headers(&[
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
        ]);
        let (response, framing) = negotiate(&request, Kind::Process).unwrap().accept();
        assert_eq!(framing, websocket(Protocol::V5, false));
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let refused = negotiate(&request, Kind::PortForward).unwrap_err();
        assert_eq!(refused.0, StatusCode::FORBIDDEN);
        assert!(
            refused.1.contains("v5.channel.k8s.io") && refused.1.contains("portforward"),
            "{}",
            refused.1
        );
    }

    #[test]
    fn what_asks_for_no_stream_is_refused() {
        for pairs in [
            &[][..],
            &[("Upgrade", "SPDY/3.1")],
            &[("Connection", "Upgrade"), ("Upgrade", "h2c")],
            &[("Connection", "Upgrade"), ("Upgrade", "websocket")],
            &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        ] {
            assert_eq!(negotiate(&headers(pairs), Kind::Process).unwrap_err().0, StatusCode::BAD_REQUEST);
        }
    }
}
