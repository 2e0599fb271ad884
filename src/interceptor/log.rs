//! A call's line, its count, and its span: written when its answer has ended, with method, code, duration_ms, user, request, trace and
//! span id. Never tokens or texts. docs/logging.md lists the fields.
//!
//! One layer for the three, because each needs the answer's end, and finding it costs a body around the body.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Code;
use tower::Service;
use tracing::{Instrument, Span};

use super::cors::is_preflight;
use super::{Answer, HttpService};
use crate::observe::methods::Method;
use crate::observe::metrics;
use crate::observe::request::{REQUEST_ID, RequestContext, TRACEPARENT};
use crate::observe::trace::{self, Served, TARGET};

#[derive(Clone)]
pub struct Log<S>(pub S);

impl<S: HttpService> Service<Request<Body>> for Log<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        hide_credentials(request.headers_mut());
        let path = request.uri().path();
        // A preflight is not the call that it asks about.
        let (known, unknown) = if is_preflight(&request) {
            (Method::PREFLIGHT, Some(format!("OPTIONS {path}")))
        } else {
            let known = Method::of(path);
            (known, (!known.is_call()).then(|| path.to_owned()))
        };
        let served = trace::on().then(|| serve(known, request.headers()));
        let context = RequestContext::of(request.headers(), served.as_ref());
        let traceparent = served.as_ref().map(Served::traceparent);
        let span = served.map_or_else(Span::none, |served| served.span);
        let mut line = Line { unknown, known, context: Arc::clone(&context), started: Instant::now(), code: None, span: span.clone() };
        request.extensions_mut().insert(Arc::clone(&context));
        let answer = context.begin(|| span.in_scope(|| self.0.call(request)));
        let answer = Arc::clone(&context).serve(answer.instrument(span));
        Box::pin(async move {
            let mut response = answer.await?;
            if let Some(id) = only_here(&context.request_id) {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            if let Some(traceparent) = traceparent.as_deref().and_then(only_here) {
                response.headers_mut().insert(TRACEPARENT, traceparent);
            }
            // What isn't gRPC tells its code beside its headers.
            line.code = code_of(response.headers()).or_else(|| response.extensions().get::<Code>().copied());
            if known.is_stream() && line.code.is_none() {
                // It has begun, and may go on for hours; its frames have spans of their own.
                trace::end(std::mem::replace(&mut line.span, Span::none()));
            }
            Ok(response.map(|inner| Body::new(LoggedBody { inner, line })))
        })
    }
}

/// A header's value that no other answer has: HTTP/2 is told to keep it out of its tables, on both sides, where it would drive others out.
/// (Ids are made of characters that a header may hold.)
fn only_here(id: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(id).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The request's span, of which the client's is the parent.
fn serve(method: Method, headers: &HeaderMap) -> Served {
    let (service, name) = method.parts();
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "rpc",
        otel.name = method.name(),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = name,
    );
    trace::serve(span, headers)
}

/// Writes itself when it goes: after the last frame, or when the client went away.
struct Line {
    known: Method,
    /// The path of what is no known call, behind a preflight's `OPTIONS`.
    unknown: Option<String>,
    context: Arc<RequestContext>,
    started: Instant,
    /// `None` until the status is known.
    code: Option<Code>,
    span: Span,
}

impl Drop for Line {
    fn drop(&mut self) {
        let code = self.code.unwrap_or_else(code_of_no_answer);
        let took = self.started.elapsed();
        metrics::call(self.known, code as usize, took);
        finish(std::mem::replace(&mut self.span, Span::none()), code);
        let duration_ms = took.as_secs_f64() * 1e3;
        let user_id = self.context.user_id.get().map_or("", |id| &**id);
        let (slash, method) = self.unknown.as_deref().map_or_else(|| ("/", self.known.name()), |path| ("", path));
        let request_id = &self.context.request_id;
        let (trace_id, span_id) = (&self.context.trace_id, &self.context.span_id);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(target: "chat_service::rpc", method = %format_args!("{slash}{method}"), ?code, duration_ms, user_id, %request_id, %trace_id, %span_id, "call")
            };
        }
        match code {
            Code::Internal | Code::Unknown | Code::DataLoss => line!(error),
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => line!(warn),
            _ => line!(info),
        }
    }
}

/// The code of an answer that went before its status was known: its client has gone away, or its body panics.
fn code_of_no_answer() -> Code {
    if std::thread::panicking() { Code::Internal } else { Code::Cancelled }
}

/// Ends a call's span.
fn finish(span: Span, code: Code) {
    if span.is_disabled() {
        return;
    }
    trace::note(&span, "rpc.grpc.status_code", i64::from(code as i32));
    let faults = [Code::Unknown, Code::DeadlineExceeded, Code::Unimplemented, Code::Internal, Code::Unavailable, Code::DataLoss];
    if faults.contains(&code) {
        trace::fail(&span);
    }
    trace::end(span);
}

struct LoggedBody {
    inner: Body,
    line: Line,
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.line.code = code_of(trailers);
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

/// Whatever shows the request from here on, shows that these are there and not what they are.
fn hide_credentials(headers: &mut HeaderMap) {
    for (name, value) in headers.iter_mut() {
        if [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SEC_WEBSOCKET_PROTOCOL].contains(name) {
            value.set_sensitive(true);
        }
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use http_body_util::BodyExt;

    use crate::observe::text::Text;

    #[tokio::test]
    async fn a_request_that_is_shown_does_not_show_its_credentials() {
        let shown = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&shown);
        let inner = tower::service_fn(move |request: Request<Body>| {
            *seen.lock().unwrap() = format!("{request:?}");
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        });
        let request = Request::builder()
            .header("authorization", "Bearer hunter2")
            .header("authorization", "Bearer hunter3")
            .header("cookie", "session=hunter4")
            .header("sec-websocket-protocol", "chat.v1, bearer.hunter5");
        Log(inner).call(request.body(Body::empty()).unwrap()).await.unwrap();
        let shown = shown.lock().unwrap();
        assert!(shown.contains("authorization") && !shown.contains("hunter"), "{shown}");
    }

    struct Defect;

    impl HttpBody for Defect {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("a defect, on purpose")
        }
    }

    #[tokio::test]
    async fn an_answer_whose_body_panics_is_a_fault_and_not_its_clients_affair() {
        let inner = tower::service_fn(|_: Request<Body>| std::future::ready(Ok::<_, Infallible>(Response::new(Body::new(Defect)))));
        let request = Request::post("/grpc.health.v1.Health/List").body(Body::empty()).unwrap();
        let answer = Log(inner).call(request).await.unwrap();
        tokio::spawn(answer.into_body().collect()).await.unwrap_err();
        let mut text = Text::default();
        metrics::render(&mut text);
        let text = text.into_string();
        assert!(text.contains("chat_rpc_requests_total{method=\"grpc.health.v1.Health/List\",code=\"INTERNAL\"} 1\n"), "{text}");
    }
}
