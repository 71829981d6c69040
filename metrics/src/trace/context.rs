//! The trace of the client, in the metadata of its request: W3C Trace Context, which kubelets send.

use std::str::FromStr as _;

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The length of a `traceparent` of version 00. Later versions may append to it.
const LENGTH: usize = 55;
/// A longer `tracestate` is dropped; so much must be passed on, by the specification.
const MAX_STATE: usize = 512;

/// The span of the client. None without one, or when it is malformed: then it has no effect, as the specification
/// requires.
pub(super) fn client_context(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (trace, span, flags) = parse(value.as_bytes())?;
    let context = SpanContext::new(trace, span, flags, true, state(headers));
    context.is_valid().then_some(context)
}

/// `VERSION-TRACE-SPAN-FLAGS`, all lower-case hexadecimal.
fn parse(value: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let [version @ .., b'-'] = known.get(..3)? else { return None };
    let version = hexadecimal::<1>(version)?;
    let is_complete = match version {
        [0] => rest.is_empty(),
        [255] => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    if !is_complete || known[35] != b'-' || known[52] != b'-' {
        return None;
    }
    let trace = TraceId::from_bytes(hexadecimal(&known[3..35])?);
    let span = SpanId::from_bytes(hexadecimal(&known[36..52])?);
    let [flags] = hexadecimal::<1>(&known[53..])?;
    Some((trace, span, TraceFlags::new(flags) & TraceFlags::SAMPLED))
}

fn hexadecimal<const BYTES: usize>(digits: &[u8]) -> Option<[u8; BYTES]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; BYTES];
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    if pairs.len() != BYTES {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn state(headers: &HeaderMap) -> TraceState {
    let value = headers.get("tracestate").and_then(|value| value.to_str().ok());
    let value = value.filter(|value| value.len() <= MAX_STATE);
    value.and_then(|value| TraceState::from_str(value).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn with(values: &[&str]) -> Option<SpanContext> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", value.parse().unwrap());
        }
        client_context(&headers)
    }

    #[test]
    fn a_traceparent_names_trace_and_span() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("03", true)] {
            let context = with(&[&format!("00-{TRACE}-{SPAN}-{flags}")]).unwrap();
            assert_eq!(
                (context.trace_id().to_string(), context.span_id().to_string()),
                (TRACE.into(), SPAN.into())
            );
            assert_eq!((context.is_sampled(), context.is_remote()), (is_sampled, true), "{flags}");
        }
        assert!(with(&[&format!("01-{TRACE}-{SPAN}-01-more")]).is_some(), "a later version");
    }

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let bad = [
            String::new(),
            "00".to_owned(),
            good[..54].to_owned(),
            format!("{good}-more"),
            format!("{good} "),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("+1-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}g-{SPAN}-01", &TRACE[..31]),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{TRACE}{SPAN}--01"),
            "é".repeat(40),
        ];
        for bad in bad {
            assert!(with(&[&bad]).is_none(), "{bad:?}");
        }
        assert!(with(&[]).is_none());
        assert!(with(&[&good, &good]).is_none(), "two of them");
    }

    #[test]
    fn a_tracestate_is_passed_on_within_its_limit() {
        let with_state = |state: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", format!("00-{TRACE}-{SPAN}-01").parse().unwrap());
            headers.insert("tracestate", state.parse().unwrap());
            client_context(&headers).unwrap().trace_state().header()
        };
        assert_eq!(with_state("a=1,b=2"), "a=1,b=2");
        assert_eq!(with_state("no state"), "");
        assert_eq!(with_state(&format!("a={}", "x".repeat(600))), "");
    }
}
