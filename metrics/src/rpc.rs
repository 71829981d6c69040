//! A tower layer that measures RPCs: how long until the last byte, and with which code they ended.
//!
//! The code of a gRPC call is in the trailers, after the body, or in the headers when there is no body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use prometheus::{HistogramOpts, HistogramVec, IntGauge, IntGaugeVec, Opts, Registry};
use tower_layer::Layer;
use tower_service::Service;

use crate::DURATION_BUCKETS;

/// What calls to paths that are no RPC of ours are counted as.
const OTHER: (&str, &str) = ("other", "other");

/// Names of the gRPC codes by number, as in the gRPC documentation.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[derive(Clone)]
pub(crate) struct RpcMetrics {
    duration: HistogramVec,
    in_flight: IntGaugeVec,
}

impl RpcMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "crisp_rpc_duration_seconds",
                "Duration of an RPC until its last byte, by the gRPC code it ended with.",
            )
            .buckets(DURATION_BUCKETS.to_vec()),
            &["service", "method", "code"],
        )?;
        let in_flight = IntGaugeVec::new(
            Opts::new("crisp_rpc_in_flight", "RPCs that have begun and not ended."),
            &["service", "method"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self { duration, in_flight })
    }
}

/// See [`crate::Metrics::rpc_layer`].
#[derive(Clone)]
pub struct RpcLayer {
    metrics: RpcMetrics,
    known: &'static [&'static str],
}

impl RpcLayer {
    pub(crate) fn new(metrics: RpcMetrics, known: &'static [&'static str]) -> Self {
        Self { metrics, known }
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;
    fn layer(&self, inner: S) -> RpcService<S> {
        RpcService { inner, layer: self.clone() }
    }
}

/// The service that [`RpcLayer`] makes.
#[derive(Clone)]
pub struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

impl<S, B, R> Service<http::Request<B>> for RpcService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    R: Body,
{
    type Response = http::Response<RpcBody<R>>;
    type Error = S::Error;
    type Future = RpcFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let call = Call::begin(&self.layer, request.uri().path());
        RpcFuture { inner: self.inner.call(request), call: Some(call) }
    }
}

/// One call under way; counts itself when dropped.
struct Call {
    metrics: RpcMetrics,
    labels: (&'static str, &'static str),
    in_flight: IntGauge,
    started: Instant,
    code: &'static str,
}

impl Call {
    fn begin(layer: &RpcLayer, path: &str) -> Self {
        let labels = layer.known.iter().find(|k| **k == path).map_or(OTHER, |known| split(known));
        let in_flight = layer.metrics.in_flight.with_label_values(&[labels.0, labels.1]);
        in_flight.inc();
        // Dropped before a code was seen: the client has gone.
        Self { metrics: layer.metrics.clone(), labels, in_flight, started: Instant::now(), code: "Canceled" }
    }

    fn see(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            let number = status.to_str().ok().and_then(|s| s.parse::<usize>().ok());
            self.code = number.and_then(|n| CODES.get(n)).unwrap_or(&"Unknown");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.in_flight.dec();
        self.metrics
            .duration
            .with_label_values(&[self.labels.0, self.labels.1, self.code])
            .observe(self.started.elapsed().as_secs_f64());
    }
}

/// `/runtime.v1.RuntimeService/Version` is service `RuntimeService`, method `Version`.
fn split(path: &'static str) -> (&'static str, &'static str) {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or(OTHER);
    (service.rsplit('.').next().unwrap_or(service), method)
}

pin_project! {
    /// The future of [`RpcService`].
    pub struct RpcFuture<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F, R, E> Future for RpcFuture<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    R: Body,
{
    type Output = Result<http::Response<RpcBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let mut call = this.call.take();
        Poll::Ready(match result {
            Ok(response) => {
                if let Some(call) = &mut call {
                    call.see(response.headers());
                    if response.body().is_end_stream() && call.code == "Canceled" {
                        call.code = "Unknown";
                    }
                }
                Ok(response.map(|inner| RpcBody { inner, call }))
            }
            Err(error) => {
                if let Some(call) = &mut call {
                    call.code = "Internal";
                }
                Err(error)
            }
        })
    }
}

pin_project! {
    /// A reply's body that ends the measurement with its last byte.
    pub struct RpcBody<R> {
        #[pin]
        inner: R,
        call: Option<Call>,
    }
}

impl<R: Body> Body for RpcBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(trailers), Some(call)) = (frame.trailers_ref(), this.call.as_mut()) {
                    call.see(trailers);
                    *this.call = None;
                }
            }
            Some(Err(_)) => {
                if let Some(mut call) = this.call.take() {
                    call.code = "Internal";
                }
            }
            None => *this.call = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Empty};
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    const KNOWN: &[&str] = &["/runtime.v1.RuntimeService/Version"];

    /// A body of given frames.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn status(number: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), number.parse().unwrap())])
    }

    fn layer() -> RpcLayer {
        RpcLayer::new(RpcMetrics::register(&Registry::new()).unwrap(), KNOWN)
    }

    fn request(path: &str) -> http::Request<Empty<Bytes>> {
        http::Request::builder().uri(path).body(Empty::new()).unwrap()
    }

    fn count(layer: &RpcLayer, labels: [&str; 3]) -> u64 {
        layer.metrics.duration.with_label_values(&labels).get_sample_count()
    }

    #[tokio::test]
    async fn the_code_in_the_trailers_counts_and_the_call_lasts_until_then() {
        let layer = layer();
        let service = layer.layer(service_fn(|_| async {
            let frames = [Frame::data(Bytes::from_static(b"x")), Frame::trailers(status("5"))];
            Ok::<_, Infallible>(http::Response::new(Frames(frames.into())))
        }));
        let response = service.oneshot(request(KNOWN[0])).await.unwrap();
        let in_flight = layer.metrics.in_flight.with_label_values(&["RuntimeService", "Version"]);
        assert_eq!(in_flight.get(), 1);
        response.into_body().collect().await.unwrap();
        assert_eq!(in_flight.get(), 0);
        assert_eq!(count(&layer, ["RuntimeService", "Version", "NotFound"]), 1);
    }

    #[tokio::test]
    async fn the_code_in_the_headers_counts_too() {
        let layer = layer();
        let service = layer.layer(service_fn(|_| async {
            let mut response = http::Response::new(Empty::<Bytes>::new());
            *response.headers_mut() = status("12");
            Ok::<_, Infallible>(response)
        }));
        drop(service.oneshot(request(KNOWN[0])).await.unwrap());
        assert_eq!(count(&layer, ["RuntimeService", "Version", "Unimplemented"]), 1);
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_counted_as_cancelled() {
        let layer = layer();
        let service = layer.layer(service_fn(|_| async {
            Ok::<_, Infallible>(http::Response::new(Frames([Frame::trailers(status("0"))].into())))
        }));
        drop(service.oneshot(request(KNOWN[0])).await.unwrap());
        assert_eq!(count(&layer, ["RuntimeService", "Version", "Canceled"]), 1);
    }

    #[tokio::test]
    async fn made_up_paths_make_no_series() {
        let layer = layer();
        for path in ["/a/b", "/runtime.v1.RuntimeService/Nonsense"] {
            let service = layer.layer(service_fn(|_| async {
                Ok::<_, Infallible>(http::Response::new(Frames([Frame::trailers(status("12"))].into())))
            }));
            service.oneshot(request(path)).await.unwrap().into_body().collect().await.unwrap();
        }
        assert_eq!(count(&layer, ["other", "other", "Unimplemented"]), 2);
    }
}
