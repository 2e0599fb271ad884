//! The steps of a traced request, as spans.
//!
//! A span is made where two things hold: traces are exported at all, and what happens is part of a trace that is sampled. Else the
//! macros give `Span::none()`, after a look at a flag, or at one and the thread's current context. docs/tracing.md has the names.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::{Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, Status, TraceContextExt};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of every span. The exporter's layer takes nothing else, so no library's span and no log line leaves with a trace; the
/// log doesn't show it.
pub const TARGET: &str = "chat_service::span";
/// Deliveries of one message that have a span: a chat may have any number of streams.
const DELIVERIES_MAX: u32 = 16;

static ON: AtomicBool = AtomicBool::new(false);

/// Whether traces are exported.
pub fn on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// From now on traces are exported.
pub fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

/// Whether what runs here and now is part of a trace that is sampled.
pub fn inside() -> bool {
    on() && Context::map_current(|context| context.span().span_context().is_sampled())
}

/// A span within the one that this thread is in; none outside of a trace that is sampled.
macro_rules! child_span {
    ($name:literal $(, $($field:tt)+)?) => {
        if $crate::observe::trace::inside() {
            ::tracing::info_span!(target: $crate::observe::trace::TARGET, $name, $($($field)+)?)
        } else {
            ::tracing::Span::none()
        }
    };
}

/// A span that begins a trace of its own, linked to where it comes from, an `Option<&Origin>`; none where it isn't sampled.
macro_rules! root_span {
    ($from:expr, $name:literal $(, $($field:tt)+)?) => {
        if $crate::observe::trace::on() {
            let span = ::tracing::info_span!(target: $crate::observe::trace::TARGET, parent: None, $name, $($($field)+)?);
            $crate::observe::trace::begin(span, $from)
        } else {
            ::tracing::Span::none()
        }
    };
}

pub(crate) use child_span;
pub(crate) use root_span;

/// Where something comes from: a span of a trace that is sampled. It outlives the span.
#[derive(Debug)]
pub struct Origin(Box<Inner>);

#[derive(Debug)]
struct Inner {
    context: SpanContext,
    /// Spans that were made of its deliveries.
    deliveries: AtomicU32,
}

impl Origin {
    /// The span that this thread is in.
    pub fn current() -> Option<Self> {
        if !on() {
            return None;
        }
        Context::map_current(|context| Self::of(context.span().span_context()))
    }

    fn of(context: &SpanContext) -> Option<Self> {
        let sampled = context.is_valid() && context.is_sampled();
        sampled.then(|| Self(Box::new(Inner { context: context.clone(), deliveries: AtomicU32::new(0) })))
    }

    /// As W3C's `traceparent`, to be carried to another process.
    pub fn traceparent(&self) -> String {
        let context = &self.0.context;
        format!("00-{}-{}-01", context.trace_id(), context.span_id())
    }

    /// What [`Origin::traceparent`] has told; `None` where traces aren't exported here, too.
    pub fn parse(traceparent: &str) -> Option<Self> {
        if !on() {
            return None;
        }
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", traceparent.parse().ok()?);
        Self::of(remote(&headers).span().span_context())
    }

    /// Says that the message which came from here was given to a stream: a span, as long as there aren't too many of them.
    pub fn delivered(&self, sequence: i64) {
        let made = &self.0.deliveries;
        if made.load(Ordering::Relaxed) < DELIVERIES_MAX && made.fetch_add(1, Ordering::Relaxed) < DELIVERIES_MAX {
            let span =
                tracing::info_span!(target: TARGET, parent: None, "stream.deliver", otel.kind = "consumer", chat.sequence = sequence);
            drop(continues(span, self));
        }
    }
}

/// Makes a span part of the trace that it comes from. The span is new.
pub fn continues(span: Span, from: &Origin) -> Span {
    let parent = Context::new().with_remote_span_context(from.0.context.clone());
    if span.set_parent(parent).is_err() {
        return Span::none();
    }
    span
}

/// Links a span to another one's.
pub fn link(span: &Span, to: &Origin) {
    span.add_link(to.0.context.clone());
}

/// What [`root_span!`] does with its span.
pub fn begin(span: Span, from: Option<&Origin>) -> Span {
    if let Some(from) = from {
        link(&span, from);
    }
    if is_sampled(&span.context()) { span } else { Span::none() }
}

fn is_sampled(context: &Context) -> bool {
    context.span().span_context().is_sampled()
}

/// The span that this thread is in, for work that goes on elsewhere.
pub fn current() -> Span {
    if inside() { Span::current() } else { Span::none() }
}

/// The trace that this thread is in; empty outside of one that is sampled.
pub fn current_id() -> String {
    if inside() { Context::map_current(|context| context.span().span_context().trace_id().to_string()) } else { String::new() }
}

/// Ends a span now, and not when it was left for the last time.
pub fn end(span: Span) {
    if !span.is_disabled() {
        span.in_scope(|| ());
    }
}

/// Notes that what the span stands for has failed.
pub fn fail(span: &Span) {
    if !span.is_disabled() {
        span.set_status(Status::error(""));
    }
}

/// Gives a span a number.
pub fn note(span: &Span, name: &'static str, value: i64) {
    if !span.is_disabled() {
        span.set_attribute(name, value);
    }
}

/// A request's span.
#[derive(Debug)]
pub struct Served {
    /// None where it isn't sampled.
    pub span: Span,
    pub trace_id: String,
    pub span_id: String,
    pub sampled: bool,
}

impl Served {
    /// As W3C's `traceparent`, for the client.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-0{}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// Makes a new span a request's: part of the client's trace, where its headers name one.
pub fn serve(span: Span, headers: &HeaderMap) -> Served {
    let parent = remote(headers);
    // It fails where nothing is exported; then the span has no ids.
    if span.set_parent(parent).is_err() {
        return Served { span: Span::none(), trace_id: String::new(), span_id: String::new(), sampled: false };
    }
    let context = span.context();
    let ids = context.span().span_context().clone();
    let (sampled, trace_id, span_id) = (ids.is_sampled(), ids.trace_id().to_string(), ids.span_id().to_string());
    Served { span: if sampled { span } else { Span::none() }, trace_id, span_id, sampled }
}

/// What `traceparent` and `tracestate` tell.
fn remote(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
}

/// Hands the trace that this thread is in on to another service, as headers.
pub fn hand_on(put: impl FnMut(&str, String)) {
    struct Put<F>(F);
    impl<F: FnMut(&str, String)> Injector for Put<F> {
        fn set(&mut self, key: &str, value: String) {
            if !value.is_empty() {
                (self.0)(key, value);
            }
        }
    }
    if inside() {
        TraceContextPropagator::new().inject_context(&Context::current(), &mut Put(put));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_exported_nothing_is_made() {
        assert!(child_span!("service.send_message").is_none());
        assert!(root_span!(None, "stream.send", chat.id = "1").is_none());
        assert!(Origin::current().is_none() && current().is_none());
        assert!(Origin::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").is_none());
        hand_on(|name, _| panic!("{name} is handed on"));
    }
}
