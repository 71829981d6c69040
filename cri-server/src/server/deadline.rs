//! The time limits of clients: a call that outlasts its own ends with the code DeadlineExceeded.
//!
//! tonic has a timer for the same header, outside of all layers, which ends the call as Canceled: a client would take
//! that for a call that it has given up itself. So the call is ended here, just before.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::codegen::{BoxFuture, Service, http};

/// The time before the limit at which a call is ended. Timers count whole milliseconds: with the same end, it would
/// be chance which of the two is seen first.
const MARGIN: Duration = Duration::from_millis(2);

/// The service of a server, with the limits of its clients.
#[derive(Clone)]
pub(super) struct Deadline<S>(pub S);

impl<S, B, R> Service<http::Request<B>> for Deadline<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<http::Response<R>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let limit = match limit(request.headers()) {
            Ok(limit) => limit,
            Err(malformed) => {
                let refused = Status::invalid_argument(malformed.to_string());
                return Box::pin(async { Ok(refused.into_http()) });
            }
        };
        let end = limit.and_then(|limit| Instant::now().checked_add(limit.saturating_sub(MARGIN)));
        let answer = self.0.call(request);
        let (Some(limit), Some(end)) = (limit, end) else { return Box::pin(answer) };
        Box::pin(async move {
            let over = || {
                let reason = format!("the client's time limit of {limit:?} is over");
                Ok(Status::deadline_exceeded(reason).into_http())
            };
            before(end, answer).await.unwrap_or_else(over)
        })
    }
}

/// Waits for `answer` until `end`. It looks at the clock too, because a timer that is due fires late on a busy host.
async fn before<F: Future>(end: Instant, answer: F) -> Option<F::Output> {
    let (mut answer, mut timer) = (pin!(answer), pin!(sleep_until(end)));
    poll_fn(|context| match answer.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending if Instant::now() >= end => Poll::Ready(None),
        Poll::Pending => timer.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// A header that is no limit. Ignored, it would leave a call without the limit that its client relies on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout: {0:?}: expected one to eight digits and one of the units H, M, S, m, u, n")]
struct Malformed(http::HeaderValue);

/// The header `grpc-timeout`: one to eight digits and a unit (the gRPC protocol over HTTP/2, "Requests").
fn limit(headers: &http::HeaderMap) -> Result<Option<Duration>, Malformed> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    parse(value.as_bytes()).map(Some).ok_or_else(|| Malformed(value.clone()))
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number: u64, digit| 10 * number + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(3600 * number)),
        b'M' => Some(Duration::from_secs(60 * number)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_all_units_and_others_refused() {
        for (value, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("12345678S", Some(Duration::from_secs(12_345_678))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("5d", None),
            ("99999999999S", None),
            ("123456789S", None),
            ("000000005S", None),
            ("+5S", None),
            ("5 S", None),
        ] {
            let headers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                value.parse().unwrap(),
            )]);
            let limit = limit(&headers);
            match expected {
                Some(expected) => assert_eq!(limit, Ok(Some(expected)), "{value}"),
                None => assert!(limit.unwrap_err().to_string().contains(value), "{value}"),
            }
        }
        assert_eq!(limit(&http::HeaderMap::new()), Ok(None));
    }

    struct Unreached;

    impl Service<http::Request<()>> for Unreached {
        type Response = http::Response<()>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<()>) -> Self::Future {
            unreachable!("the call was not refused")
        }
    }

    #[tokio::test]
    async fn a_call_with_a_malformed_limit_is_refused() {
        let request = http::Request::builder().header("grpc-timeout", "+5S").body(()).unwrap();
        let answer = Deadline(Unreached).call(request).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "3", "invalid argument");
    }
}
