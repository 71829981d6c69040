use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty};
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::Metrics;
use crate::trace::{TraceConfig, current, in_current};

const KNOWN: &[&str] =
    &["/runtime.v1.RuntimeService/Version", "/runtime.v1.RuntimeService/GetContainerEvents"];

/// A body with these frames.
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
    RpcLayer::new(RpcMetrics::register(&Registry::new()).unwrap(), Arc::default(), KNOWN, &KNOWN[1..])
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

#[tokio::test]
async fn streams_are_measured_apart() {
    let layer = layer();
    let service = layer.layer(service_fn(|_| async {
        Ok::<_, Infallible>(http::Response::new(Frames([Frame::trailers(status("0"))].into())))
    }));
    let response = service.oneshot(request(KNOWN[1])).await.unwrap();
    response.into_body().collect().await.unwrap();
    let labels = ["RuntimeService", "GetContainerEvents", "OK"];
    assert_eq!(count(&layer, labels), 0);
    assert_eq!(layer.metrics.stream_duration.with_label_values(&labels).get_sample_count(), 1);
}

#[tokio::test]
async fn a_sampled_request_and_its_tasks_are_in_the_trace_of_the_client() {
    let metrics = Metrics::new("1").unwrap();
    let config = TraceConfig { endpoint: "127.0.0.1:1".to_owned(), rate_per_million: 0, version: "1" };
    let tracing = metrics.start_tracing(config).unwrap();
    let layer = metrics.rpc_layer(KNOWN, &KNOWN[1..]);
    let is_traced = async |path: &str, parent: &str| {
        let (sender, mut traced) = tokio::sync::mpsc::unbounded_channel();
        let service = layer.layer(service_fn(move |_| {
            let sender = sender.clone();
            async move {
                let in_task = tokio::spawn(in_current(async { current().is_some() })).await.unwrap();
                sender.send((current().is_some(), in_task)).unwrap();
                Ok::<_, Infallible>(http::Response::new(Frames([Frame::trailers(status("0"))].into())))
            }
        }));
        let mut request = request(path);
        request.headers_mut().insert("traceparent", parent.parse().unwrap());
        service.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
        traced.recv().await.unwrap()
    };
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for parent in [format!("00-{trace}-{span}-00"), format!("00-{trace}-{span}"), "nonsense".to_owned()] {
        assert_eq!(is_traced(KNOWN[0], &parent).await, (false, false), "{parent}");
    }
    assert!(!metrics.openmetrics().contains(trace));
    assert_eq!(is_traced(KNOWN[0], &format!("00-{trace}-{span}-01")).await, (true, true));
    assert!(current().is_none(), "after the request");
    let exemplar = format!(" # {{trace_id=\"{trace}\"}} ");
    assert_eq!(metrics.openmetrics().matches(&exemplar).count(), 1);
    // A stream is as long as its client wants.
    assert_eq!(is_traced(KNOWN[1], &format!("00-{trace}-{span}-01")).await, (true, true));
    assert_eq!(metrics.openmetrics().matches(&exemplar).count(), 1);
    tracing.shut_down().await;
}
