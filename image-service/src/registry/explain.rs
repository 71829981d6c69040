//! Makes error texts for people: from hyper's errors, and from the error responses of registries.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use rustls::AlertDescription;
use serde::Deserialize;

use super::error::{EndpointError, Received, chain};
use super::url::Url;

/// hyper's own texts are not specific; the cause is deeper in the chain of errors.
pub(super) fn explain(error: &hyper_util::client::legacy::Error, url: &Url) -> EndpointError {
    let mut why = chain(error);
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref());
        let tls = cause.downcast_ref::<rustls::Error>().or_else(|| inner.and_then(|e| e.downcast_ref()));
        if let Some(tls) = tls {
            return EndpointError::Tls { why: explain_tls(tls) };
        }
        let connected = inner.map(|e| e as &(dyn std::error::Error + 'static));
        next = cause.source().or(connected.filter(|_| cause.source().is_none()));
    }
    if error.is_connect() {
        for noise in ["client error (Connect): ", "tcp connect error: "] {
            why = why.replace(noise, "");
        }
        return EndpointError::Connect { why };
    }
    let why = why.replace("client error (SendRequest): ", "");
    if why.contains("invalid HTTP version") && !url.is_https() {
        let why = format!("{why} (does it speak https? then write https:// in hosts.toml)");
        return EndpointError::Protocol { why };
    }
    EndpointError::Cut { received: Received { bytes: 0, of: None }, why }
}

fn explain_tls(error: &rustls::Error) -> String {
    let hint = match error {
        rustls::Error::InvalidCertificate(_) => {
            " (add its authority with ca = in hosts.toml, or skip_verify = true)"
        }
        rustls::Error::InvalidMessage(_) => " (does it speak plain http? then write http:// in hosts.toml)",
        // Go's servers also report BadCertificate when there was none.
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA,
        ) => " (it wants a certificate that it knows: client = in hosts.toml)",
        _ => "",
    };
    format!("{error}{hint}")
}

/// A longer `Retry-After` is reduced to this, so that sums of times do not overflow.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// `Retry-After` in either of its forms, as a time from now.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // A number with too many digits counts as the maximum.
        text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let at = httpdate::parse_http_date(text).ok()?;
        at.duration_since(SystemTime::now()).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    #[serde(default)]
    details: String,
    #[serde(default)]
    error_description: String,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's message in one printable line that starts with `: `, or an empty text.
pub(super) fn error_detail(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(said) if !said.errors.is_empty() => {
            let each = said.errors.iter().map(|e| format!("{} {}", e.code, e.message).trim().to_owned());
            each.collect::<Vec<_>>().join("; ")
        }
        Ok(said) => format!("{}{}", said.details, said.error_description),
        // A proxy's HTML page is not useful in an error.
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let printable = printable.trim();
    if printable.is_empty() { String::new() } else { format!(": {printable}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_becomes_one_line() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\nunknown","detail":{"x":1}}]}"#;
        assert_eq!(error_detail(body), ": MANIFEST_UNKNOWN manifest unknown");
        assert_eq!(
            error_detail(br#"{"details":"incorrect username or password"}"#),
            ": incorrect username or password"
        );
        assert_eq!(error_detail(b"404 page not found\n"), ": 404 page not found");
        assert_eq!(error_detail(b"<html>"), "");
        assert_eq!(error_detail(b""), "");
        assert_eq!(error_detail(&[b'x'; 5000]).len(), 302);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let get = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(get("7"), Some(Duration::from_secs(7)));
        assert_eq!(get("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        for endless in ["18446744073709551615", "99999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(get(endless), Some(MAX_RETRY_AFTER), "{endless}");
        }
        for unusable in ["soon", "-1", ""] {
            assert_eq!(get(unusable), None, "{unusable}");
        }
    }
}
