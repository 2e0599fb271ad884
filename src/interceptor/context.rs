//! What is known of a request, for logs.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use uuid::Uuid;

use crate::model::UserId;
use crate::observe::trace::Served;

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
    /// Known once the token is verified.
    pub user_id: OnceLock<UserId>,
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
}
