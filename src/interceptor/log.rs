//! One line for each call, written when its answer has ended: method, code, duration_ms, user, request and trace id. Never
//! tokens or texts.

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

use super::context::{REQUEST_ID, RequestContext};
use super::{Answer, HttpService};

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
        let context = RequestContext::of(request.headers());
        let mut line = Line { method: request.uri().path().to_owned(), context: Arc::clone(&context), started: Instant::now(), code: None };
        request.extensions_mut().insert(Arc::clone(&context));
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            // Ids are made of characters that a header may hold.
            if let Ok(id) = HeaderValue::from_str(&context.request_id) {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            // What isn't gRPC tells its code beside its headers.
            line.code = code_of(response.headers()).or_else(|| response.extensions().get::<Code>().copied());
            Ok(response.map(|inner| Body::new(LoggedBody { inner, line })))
        })
    }
}

/// Writes itself when it goes: after the last frame, or when the client went away.
struct Line {
    method: String,
    context: Arc<RequestContext>,
    started: Instant,
    /// `None` until the status is known.
    code: Option<Code>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        let duration_ms = self.started.elapsed().as_secs_f64() * 1e3;
        let user_id = self.context.user_id.get().map_or("", |id| id.as_str());
        let (method, request_id, trace_id) = (&self.method, &self.context.request_id, &self.context.trace_id);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(target: "chat_service::rpc", %method, ?code, duration_ms, user_id, %request_id, %trace_id, "call")
            };
        }
        match code {
            Code::Internal | Code::Unknown | Code::DataLoss => line!(error),
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => line!(warn),
            _ => line!(info),
        }
    }
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
        if [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].contains(name) {
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
            .header("cookie", "session=hunter4");
        Log(inner).call(request.body(Body::empty()).unwrap()).await.unwrap();
        let shown = shown.lock().unwrap();
        assert!(shown.contains("authorization") && !shown.contains("hunter"), "{shown}");
    }
}
