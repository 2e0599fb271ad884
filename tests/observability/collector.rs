//! An OpenTelemetry collector: takes spans over gRPC or HTTP, and keeps them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What came.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Kept {
    fn put(&self, request: ExportTraceServiceRequest) {
        self.0.lock().unwrap().push(request);
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.put(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

pub struct Collector {
    pub port: u16,
    kept: Kept,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub async fn grpc() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, kept) = (listener.local_addr().unwrap().port(), Kept::default());
        let server = Server::builder().add_service(TraceServiceServer::new(kept.clone()));
        let task = tokio::spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
        Self { port, kept, task }
    }

    pub async fn http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, kept) = (listener.local_addr().unwrap().port(), Kept::default());
        let all = kept.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = all.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| take(kept.clone(), request));
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { port, kept, task }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Everything that came, as text.
    pub fn text(&self) -> String {
        format!("{:?}", self.kept.0.lock().unwrap())
    }

    pub fn spans(&self) -> Spans {
        let kept = self.kept.0.lock().unwrap();
        let mut spans = Vec::new();
        for resource in kept.iter().flat_map(|request| &request.resource_spans) {
            let service = resource.resource.as_ref().map(|resource| attributes(&resource.attributes)).unwrap_or_default();
            let of = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
            spans.extend(of.map(|span| Seen::of(span, service.get("service.name").cloned().unwrap_or_default())));
        }
        Spans(spans)
    }
}

async fn take(kept: Kept, request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let right = request.uri().path() == "/v1/traces" && request.headers()["content-type"] == "application/x-protobuf";
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut response = hyper::Response::new(Full::new(Bytes::from(ExportTraceServiceResponse::default().encode_to_vec())));
    match ExportTraceServiceRequest::decode(body) {
        Ok(request) if right => kept.put(request),
        _ => *response.status_mut() = hyper::StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

/// A span.
#[derive(Clone, Debug)]
pub struct Seen {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty: none.
    pub parent: String,
    /// OTLP's number: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    /// Trace and span of each.
    pub links: Vec<(String, String)>,
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    pub start_nanos: u64,
    pub end_nanos: u64,
}

impl Seen {
    fn of(span: &otlp::Span, service: String) -> Self {
        Self {
            service,
            name: span.name.clone(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: span.kind,
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            attributes: attributes(&span.attributes),
            failed: span.status.as_ref().is_some_and(|status| status.code == otlp::status::StatusCode::Error as i32),
            start_nanos: span.start_time_unix_nano,
            end_nanos: span.end_time_unix_nano,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// Spans that came.
#[derive(Clone, Debug)]
pub struct Spans(pub Vec<Seen>);

impl Spans {
    pub fn named(&self, name: &str) -> Vec<&Seen> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    /// The one span with this name.
    #[track_caller]
    pub fn one(&self, name: &str) -> &Seen {
        match self.named(name)[..] {
            [span] => span,
            ref others => panic!("{} spans are called {name}:\n{}", others.len(), self.tree()),
        }
    }

    /// The traces, each with its spans below their parents.
    pub fn tree(&self) -> String {
        let mut traces: Vec<&str> = self.0.iter().map(|span| span.trace.as_str()).collect();
        traces.sort_unstable();
        traces.dedup();
        traces.sort_by_key(|trace| self.0.iter().filter(|span| span.trace == *trace).map(|span| span.start_nanos).min());
        let mut out = String::new();
        for trace in traces {
            let mut spans: Vec<&Seen> = self.0.iter().filter(|span| span.trace == trace).collect();
            spans.sort_by_key(|span| span.start_nanos);
            writeln!(out, "trace {trace}").unwrap();
            let begin = spans[0].start_nanos;
            for root in spans.iter().filter(|span| !spans.iter().any(|other| other.id == span.parent)) {
                branch(&mut out, root, &spans, begin, 1);
            }
        }
        out
    }
}

fn branch(out: &mut String, span: &Seen, spans: &[&Seen], begin: u64, depth: usize) {
    let kind = ["", "", "server", "client", "producer", "consumer"][usize::try_from(span.kind).unwrap().min(5)];
    let millis = |nanos: u64| nanos as f64 / 1e6;
    let (after, took) = (millis(span.start_nanos - begin), millis(span.end_nanos.saturating_sub(span.start_nanos)));
    let name = format!("{}{}", "  ".repeat(depth), span.name);
    write!(out, "{name:<52} +{after:>7.2} ms {took:>8.2} ms  {kind}").unwrap();
    if depth == 1 && !span.parent.is_empty() {
        write!(out, "  below the client's {}", span.parent).unwrap();
    }
    for (_, id) in &span.links {
        write!(out, "  linked to {id}").unwrap();
    }
    writeln!(out, "  [{}]", span.id).unwrap();
    for child in spans.iter().filter(|child| child.parent == span.id) {
        branch(out, child, spans, begin, depth + 1);
    }
}
