//! Every number that this process tells, by its name. docs/metrics.md explains them; `tests/observability` holds that dashboard and
//! alert rules use no other.
//!
//! They are the process's: servers that share one, as in tests, count together. What only a server knows, like the length of its
//! queues, `app::metrics` asks it for when somebody looks.

use std::time::Duration;

use super::kinds::{Bounds, Counter, Family, Gauge, Histogram, HotCounter};
use super::methods::{METHODS, Method};
use super::text::Text;

const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000_000;
const SECONDS: u64 = 1_000_000_000;

/// Of calls: 0.5 ms to 30 s.
static CALL_BOUNDS: Bounds = Bounds::of_nanos(&[
    500 * MICROS,
    MILLIS,
    2_500 * MICROS,
    5 * MILLIS,
    10 * MILLIS,
    25 * MILLIS,
    50 * MILLIS,
    100 * MILLIS,
    250 * MILLIS,
    500 * MILLIS,
    SECONDS,
    2_500 * MILLIS,
    5 * SECONDS,
    10 * SECONDS,
    30 * SECONDS,
]);
/// Of streams: a second to a day.
static STREAM_BOUNDS: Bounds = Bounds::of_nanos(&[
    SECONDS,
    10 * SECONDS,
    60 * SECONDS,
    300 * SECONDS,
    1_800 * SECONDS,
    3_600 * SECONDS,
    6 * 3_600 * SECONDS,
    24 * 3_600 * SECONDS,
]);
/// Of a batch's commit: 0.1 ms to 10 s.
static COMMIT_BOUNDS: Bounds = Bounds::of_nanos(&[
    100 * MICROS,
    250 * MICROS,
    500 * MICROS,
    MILLIS,
    2_500 * MICROS,
    5 * MILLIS,
    10 * MILLIS,
    25 * MILLIS,
    50 * MILLIS,
    100 * MILLIS,
    250 * MILLIS,
    500 * MILLIS,
    SECONDS,
    2_500 * MILLIS,
    10 * SECONDS,
]);
/// Of a batch's size.
static BATCH_BOUNDS: Bounds = Bounds::of(&[1, 2, 4, 8, 16, 32, 64, 128, 256]);

/// What was built, where whoever built it has said so.
const REVISION: &str = match option_env!("CHAT_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    _ => "unknown",
};

/// gRPC's codes by their numbers.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// How long the calls of each method took, by the code they ended with; of streams how long they were open.
static CALLS: [[Histogram; CODES.len()]; METHODS.len()] = [const { [const { Histogram::new(&CALL_BOUNDS) }; CODES.len()] }; METHODS.len()];
static STREAM_CALLS: [[Histogram; CODES.len()]; METHODS.len()] =
    [const { [const { Histogram::new(&STREAM_BOUNDS) }; CODES.len()] }; METHODS.len()];

/// Counts a call that has ended. `code`: gRPC's number.
pub fn call(method: Method, code: usize, took: Duration) {
    let calls = if method.is_stream() { &STREAM_CALLS } else { &CALLS };
    calls[method.index()][code.min(CODES.len() - 1)].observe_time(took);
}

pub static STREAMS_OPEN: Gauge = Gauge::new(0);
/// Messages given to streams as they were published.
pub static DELIVERIES_LIVE: HotCounter = HotCounter::new();
/// Messages given to streams that were a little behind, from what is kept of the chat's last messages.
pub static DELIVERIES_RECENT: HotCounter = HotCounter::new();
/// Messages given to streams from the repository.
pub static DELIVERIES_CAUGHT_UP: HotCounter = HotCounter::new();
pub static CATCH_UP_PAGES: Counter = Counter::new();

/// Why something had to be read that should have come by itself.
#[derive(Clone, Copy, Debug)]
pub enum Heal {
    /// A stream was slower than its chat's ring.
    Lagged,
    /// A stream saw that messages were missing.
    Hole,
    /// The sweep found messages that were never published here.
    Sweep,
}
static LAG_HEALS: Family<3> = Family::new("cause", ["lagged", "hole", "sweep"]);

pub fn heal(cause: Heal) {
    LAG_HEALS.of(cause as usize).one();
}

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug)]
pub enum Appended {
    Stored,
    /// Stored before: a retry.
    Duplicate,
    /// Refused for what it is or who sent it.
    Refused,
    /// The store couldn't, or couldn't be asked.
    Failed,
    /// Its caller had given up.
    Abandoned,
}
static APPENDED: Family<5> = Family::new("outcome", ["stored", "duplicate", "refused", "failed", "abandoned"]);

pub fn appended(outcome: Appended, messages: u64) {
    APPENDED.of(outcome as usize).add(messages);
}

pub static APPEND_BATCH_MESSAGES: Histogram = Histogram::new(&BATCH_BOUNDS);
pub static APPEND_COMMIT: Histogram = Histogram::new(&COMMIT_BOUNDS);
pub static APPEND_UNKNOWN_OUTCOMES: Counter = Counter::new();

/// 1: what is published reaches other nodes, or there are none.
pub static BROKER_UP: Gauge = Gauge::new(1);
pub static BROKER_PUBLISH_FAILURES: Counter = Counter::new();

/// What came of looking at a token.
#[derive(Clone, Copy, Debug)]
pub enum AuthResult {
    Accepted,
    Missing,
    Invalid,
    Expired,
    Denied,
    /// Whoever vouches for tokens couldn't be asked, or was asked too much.
    Unavailable,
}
static AUTH_RESULTS: Family<6> = Family::new("result", ["accepted", "missing", "invalid", "expired", "denied", "unavailable"]);

pub fn authenticated(result: AuthResult) {
    AUTH_RESULTS.of(result as usize).one();
}

/// A limit that somebody ran into.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    UserSends,
    UserCalls,
    Address,
    /// The lanes' queue was full.
    AppendQueue,
    ChatsPerStream,
    /// A client took nothing for too long.
    SendTimeout,
    FirstFrame,
    RequestDue,
    /// A reflection stream asked, or lived, for too long.
    Reflection,
}
static LIMIT_HITS: Family<9> = Family::new(
    "limit",
    ["user_sends", "user_calls", "address", "append_queue", "chats_per_stream", "send_timeout", "first_frame", "request_due", "reflection"],
);

pub fn limit_hit(limit: Limit) {
    LIMIT_HITS.of(limit as usize).one();
}

pub static CONNECTIONS_OPEN: Gauge = Gauge::new(0);
pub static CONNECTIONS_ACCEPTED: Counter = Counter::new();

/// Why a connection was closed before it asked for anything.
#[derive(Clone, Copy, Debug)]
pub enum Turned {
    /// Its address has too many.
    Address,
    HandshakeFailed,
    HandshakeLate,
    /// It didn't say which protocol it speaks.
    Silent,
}
static CONNECTIONS_REFUSED: Family<4> = Family::new("reason", ["address_limit", "handshake_failed", "handshake_late", "silent"]);

pub fn connection_refused(reason: Turned) {
    CONNECTIONS_REFUSED.of(reason as usize).one();
}

pub static SWEEP: Histogram = Histogram::new(&CALL_BOUNDS);
pub static SWEEP_FAILURES: Counter = Counter::new();
pub static PURGED_ROWS: Counter = Counter::new();
/// Wherever they happen: the panic hook counts them.
pub static PANICS: Counter = Counter::new();

pub static SPANS_EXPORTED: Counter = Counter::new();
/// Spans that the collector didn't get.
pub static SPANS_LOST: Counter = Counter::new();

/// Writes them all.
pub fn render(out: &mut Text) {
    out.begin("chat_build_info", "gauge", "Always 1; the labels tell what runs.");
    out.sample("chat_build_info", &[("version", env!("CARGO_PKG_VERSION")), ("revision", REVISION)], 1);
    calls(out);
    streams(out);
    appends(out);
    access(out);
    background(out);
}

/// Each method and code that was seen.
fn seen(
    calls: &'static [[Histogram; CODES.len()]; METHODS.len()],
) -> impl Iterator<Item = ([(&'static str, &'static str); 2], &'static Histogram)> {
    let methods = METHODS.into_iter().zip(calls);
    let each = methods
        .flat_map(|(method, codes)| CODES.into_iter().zip(codes).map(move |(code, calls)| ([("method", method), ("code", code)], calls)));
    each.filter(|(_, calls)| calls.snapshot().count > 0)
}

fn calls(out: &mut Text) {
    out.begin("chat_rpc_requests_total", "counter", "Calls that have ended, streams included, by method and gRPC code.");
    for (labels, calls) in seen(&CALLS).chain(seen(&STREAM_CALLS)) {
        out.sample("chat_rpc_requests_total", &labels, calls.snapshot().count);
    }
    out.begin("chat_rpc_duration_seconds", "histogram", "How long calls took, streams apart, to the answer's last byte.");
    for (labels, calls) in seen(&CALLS) {
        out.spread("chat_rpc_duration_seconds", &labels, calls);
    }
    out.begin("chat_rpc_stream_duration_seconds", "histogram", "How long streams that have ended were open.");
    for (labels, calls) in seen(&STREAM_CALLS) {
        out.spread("chat_rpc_stream_duration_seconds", &labels, calls);
    }
}

fn streams(out: &mut Text) {
    out.gauge("chat_streams_open", "ConnectChat streams that are open.", STREAMS_OPEN.get());
    out.begin(
        "chat_deliveries_total",
        "counter",
        "Messages given to streams, as they were published (live), from what is kept of a chat for a moment (recent), or from the database (catch_up).",
    );
    out.sample("chat_deliveries_total", &[("source", "live")], DELIVERIES_LIVE.get());
    out.sample("chat_deliveries_total", &[("source", "recent")], DELIVERIES_RECENT.get());
    out.sample("chat_deliveries_total", &[("source", "catch_up")], DELIVERIES_CAUGHT_UP.get());
    out.counter("chat_catch_up_pages_total", "Pages that streams read from the database.", CATCH_UP_PAGES.get());
    out.family("chat_lag_heals_total", "Times that something had to be read which should have come by itself, by its cause.", &LAG_HEALS);
    out.gauge("chat_connections_open", "Connections that are open.", CONNECTIONS_OPEN.get());
    out.counter("chat_connections_accepted_total", "Connections that were accepted.", CONNECTIONS_ACCEPTED.get());
    out.family("chat_connections_refused_total", "Connections closed before they asked for anything, by the reason.", &CONNECTIONS_REFUSED);
}

fn appends(out: &mut Text) {
    out.family("chat_append_messages_total", "Messages that were sent, by what became of them.", &APPENDED);
    out.histogram("chat_append_batch_messages", "Messages in a batch.", &APPEND_BATCH_MESSAGES);
    out.histogram("chat_append_commit_duration_seconds", "How long the database took for a batch.", &APPEND_COMMIT);
    let help = "Batches whose commit's answer was lost, so that they were appended again.";
    out.counter("chat_append_unknown_outcomes_total", help, APPEND_UNKNOWN_OUTCOMES.get());
    out.gauge("chat_broker_up", "1: what is published reaches the other nodes, or there are none; 0: it doesn't.", BROKER_UP.get());
    out.counter(
        "chat_broker_publish_failures_total",
        "Publishes that were given up; a newer message or the sweep delivers what they carried.",
        BROKER_PUBLISH_FAILURES.get(),
    );
}

fn access(out: &mut Text) {
    out.family("chat_auth_results_total", "Tokens that were looked at, by what came of it.", &AUTH_RESULTS);
    out.family("chat_limit_hits_total", "Times that a limit refused or ended something.", &LIMIT_HITS);
}

fn background(out: &mut Text) {
    out.histogram("chat_sweep_duration_seconds", "How long a sweep took.", &SWEEP);
    out.counter("chat_sweep_failures_total", "Sweeps that failed; the next one repeats them.", SWEEP_FAILURES.get());
    out.counter("chat_purged_rows_total", "Rows of deleted chats that were removed.", PURGED_ROWS.get());
    out.counter("chat_panics_total", "Panics, of calls, streams and what runs beside them.", PANICS.get());
    out.counter("chat_trace_spans_exported_total", "Spans that the collector took.", SPANS_EXPORTED.get());
    out.counter("chat_trace_spans_lost_total", "Spans that the collector did not take.", SPANS_LOST.get());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_by_its_method_and_code_alone() {
        call(Method::of("/a/made-up-method"), 5, Duration::from_millis(3));
        call(Method::of("/another/made-up-method"), 5, Duration::from_millis(3));
        call(Method::of("/chat.v1.ChatService/ConnectChat"), 99, Duration::from_secs(90));
        let mut text = Text::default();
        render(&mut text);
        let text = text.into_string();
        assert!(text.contains("chat_rpc_requests_total{method=\"other\",code=\"NOT_FOUND\"} 2\n"), "{text}");
        assert!(text.contains(
            "chat_rpc_stream_duration_seconds_bucket{method=\"chat.v1.ChatService/ConnectChat\",code=\"UNAUTHENTICATED\",le=\"300\"}"
        ));
        assert!(!text.contains("made-up"));
    }

    #[test]
    fn each_metric_is_told_once_and_has_a_unit() {
        let mut text = Text::default();
        render(&mut text);
        let text = text.into_string();
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let told = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), told);
        let units = ["_total", "_seconds", "_bytes", "_messages", "_open", "_up", "_info"];
        assert!(names.iter().all(|name| units.iter().any(|unit| name.ends_with(unit))), "{names:?}");
    }
}
