//! What is known of a request, for logs, and whose work a task does: so a line that is written far below can name the request, to which
//! nothing of it was passed on.

use std::sync::{Arc, OnceLock};

use futures_util::future::Either;
use http::HeaderMap;
use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

use super::trace::{self, Served};

/// The header that carries the request's id, in and out.
pub const REQUEST_ID: &str = "x-request-id";
/// W3C's header with a trace and a span in it. In: the client's; out, where traces are exported: the request's own.
pub const TRACEPARENT: &str = "traceparent";

/// In every request's extensions.
#[derive(Debug)]
pub struct RequestContext {
    /// The caller's, where it sent one that is fit for a log, else a new one.
    pub request_id: String,
    /// Its span's, where traces are exported; else of the caller's W3C traceparent, or a new one.
    pub trace_id: String,
    /// Its span's; empty where it has none.
    pub span_id: String,
    /// The user's; known once the token is verified.
    pub user_id: OnceLock<Arc<str>>,
}

tokio::task_local! {
    /// The request whose work is done.
    static SERVED: Arc<RequestContext>;
}

/// What a line has of the request that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Empty where what is done isn't one request's, as a batch.
    pub request_id: String,
    /// Then of the span that this thread is in, where it is part of a sampled trace.
    pub trace_id: String,
}

/// The ids of the request whose work is done here and now; `None` where it isn't one request's.
pub fn served() -> Option<Ids> {
    SERVED.try_with(|context| Ids { request_id: context.request_id.clone(), trace_id: context.trace_id.clone() }).ok()
}

/// What is known of whose work is done here and now.
pub fn current() -> Ids {
    served().unwrap_or_else(|| Ids { request_id: String::new(), trace_id: trace::current_id() })
}

/// Makes work that goes on in a task of its own the work of the same request.
pub fn inherit<F: Future>(work: F) -> impl Future<Output = F::Output> {
    match SERVED.try_with(Arc::clone) {
        Ok(context) => Either::Left(context.serve(work)),
        Err(_) => Either::Right(work),
    }
}

impl RequestContext {
    pub fn of(headers: &HeaderMap, served: Option<&Served>) -> Arc<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let request_id = text(REQUEST_ID).filter(|id| is_fit(id)).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
        let (trace_id, span_id) = match served.filter(|served| !served.trace_id.is_empty()) {
            Some(served) => (served.trace_id.clone(), served.span_id.clone()),
            // From the thread's own generator: no call of the system for each request.
            None => (
                text(TRACEPARENT).and_then(trace_id).map_or_else(|| Uuid::from_u128(rand::random()).simple().to_string(), str::to_owned),
                String::new(),
            ),
        };
        Arc::new(Self { request_id, trace_id, span_id, user_id: OnceLock::new() })
    }

    /// Does what can be done of the request's work without waiting.
    pub fn begin<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        SERVED.sync_scope(Arc::clone(self), work)
    }

    /// Does the request's work.
    pub fn serve<F: Future>(self: Arc<Self>, work: F) -> TaskLocalFuture<Arc<Self>, F> {
        SERVED.scope(self, work)
    }
}

/// Short and plain: it stands in logs and goes back to the caller.
fn is_fit(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

/// The trace id of `version-traceid-parentid-flags`.
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, id) = (parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (hex(version, 2) && hex(id, 32) && id.bytes().any(|b| b != b'0')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_ids_are_taken_where_they_are_fit_for_a_log() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, "abc-1".parse().unwrap());
        headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
        let context = RequestContext::of(&headers, None);
        assert_eq!((context.request_id.as_str(), context.trace_id.as_str()), ("abc-1", "4bf92f3577b34da6a3ce929d0e0e4736"));
        headers.insert(REQUEST_ID, "a b\"c".parse().unwrap());
        headers.insert("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01".parse().unwrap());
        let context = RequestContext::of(&headers, None);
        assert_eq!((context.request_id.len(), context.trace_id.len()), (36, 32));
        assert!(context.trace_id.bytes().any(|b| b != b'0'));
    }

    #[tokio::test]
    async fn a_requests_work_can_name_it_and_nobody_elses_can() {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(REQUEST_ID), "abc-1".parse().unwrap())]);
        let context = RequestContext::of(&headers, None);
        let ids = Ids { request_id: "abc-1".into(), trace_id: context.trace_id.clone() };
        assert_eq!(context.begin(current), ids);
        let (here, inherited, apart) = context
            .serve(async {
                let inherited = tokio::spawn(inherit(async { current() }));
                (current(), inherited.await.unwrap(), tokio::spawn(async { current() }).await.unwrap())
            })
            .await;
        assert_eq!((here, inherited), (ids.clone(), ids));
        assert_eq!((apart, current()), (Ids::default(), Ids::default()));
    }
}
