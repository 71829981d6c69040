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
        let limit = limit(request.headers());
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

/// The header `grpc-timeout`: one to eight digits and a unit (the gRPC protocol over HTTP/2, "Requests").
fn limit(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let number: u64 = digits.parse::<u32>().ok()?.into();
    match unit {
        "H" => Some(Duration::from_secs(3600 * number)),
        "M" => Some(Duration::from_secs(60 * number)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_all_units_and_others_ignored() {
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
        ] {
            let headers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                value.parse().unwrap(),
            )]);
            assert_eq!(limit(&headers), expected, "{value}");
        }
    }
}
