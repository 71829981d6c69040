//! A collector of traces: the OTLP/gRPC service, inside the test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::Result;

/// A running collector. Dropping it ends it.
pub struct Collector {
    pub address: SocketAddr,
    received: Received,
    task: JoinHandle<()>,
}

/// One span, as it was received.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub name: String,
    /// As in the protocol: 1 internal, 2 server, 3 client.
    pub kind: i32,
    /// In nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    /// The text of its error, if it has failed.
    pub error: Option<String>,
    pub events: Vec<String>,
    /// The attributes of the server that has sent it.
    pub resource: BTreeMap<String, String>,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let serving = tonic::transport::Server::builder().add_service(service);
        let task = tokio::spawn(async move {
            let served = serving.serve_with_incoming(TcpIncoming::from(listener)).await;
            served.expect("the collector serves");
        });
        Ok(Self { address, received, task })
    }

    /// The spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.received.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits up to ten seconds for a set of spans that is as it should be.
    ///
    /// # Errors
    /// There is none; with the spans.
    pub async fn until(&self, is_complete: impl Fn(&[Span]) -> bool) -> Result<Vec<Span>> {
        let start = Instant::now();
        loop {
            let spans = self.spans();
            if is_complete(&spans) {
                return Ok(spans);
            }
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("spans are missing among {spans:#?}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_resource in request.into_inner().resource_spans {
            let resource = attributes(of_resource.resource.unwrap_or_default().attributes);
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            all.extend(spans.map(|span| Span {
                trace: hexadecimal(&span.trace_id),
                id: hexadecimal(&span.span_id),
                parent: hexadecimal(&span.parent_span_id),
                name: span.name,
                kind: span.kind,
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
                error: span.status.filter(|status| status.code == 2).map(|status| status.message),
                events: span.events.into_iter().map(|event| event.name).collect(),
                resource: resource.clone(),
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    list.into_iter().map(|KeyValue { key, value, .. }| (key, text(value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
