//! `/metrics`, and what is built on it: the dashboard and the alert rules.

use std::collections::BTreeSet;
use std::fs;

use chat_service::observe::methods::METHODS;
use chat_service::observe::metrics::CODES;
use chat_service::pb::chat::v1::{LeaveFrame, ListChatsRequest, RemoveMemberRequest, connect_chat_request::Frame};
use serde_json::Value;
use tokio::process::Command;
use tonic::Code;

use crate::common::process::Process;
use crate::common::*;
use crate::{get, metric, until_metric};

const DASHBOARD: &str = "deploy/grafana/dashboards/chat-service.json";
const RULES: &str = "deploy/prometheus/rules.yml";

/// Names of this project's metrics in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("chat_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Labels that Prometheus, or a histogram's buckets, give to samples.
const NOT_OURS: [&str; 3] = ["job", "instance", "le"];

/// A label's value that a text selects samples of a metric by: metric, label, value.
type Pair<'a> = (&'a str, &'a str, &'a str);

/// What a text selects samples by. Where a dashboard's variable stands nothing can be said.
fn pairs_in(text: &str) -> Vec<Pair<'_>> {
    let mut pairs = Vec::new();
    for (at, _) in text.match_indices('{') {
        let metric = text[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
        let selectors = text[at + 1..].split('}').next().unwrap();
        for selector in selectors.split(',').filter(|_| metric.starts_with("chat_")) {
            let label = selector.split(['=', '!']).next().unwrap().trim();
            let values = selector.split('"').nth(1).unwrap_or_else(|| panic!("{metric}{{{selectors}}}"));
            if !NOT_OURS.contains(&label) && !values.contains('$') {
                pairs.extend(values.split('|').map(|value| (metric, label, value)));
            }
        }
    }
    pairs
}

/// Whether a metric ever has such a sample. Methods and codes are told once they were seen, everything else always.
fn is_told(text: &str, (metric, label, value): Pair<'_>) -> bool {
    let samples = || text.lines().filter(move |line| line.split('{').next() == Some(metric));
    match label {
        "code" => CODES.contains(&value) && samples().any(|line| line.contains("code=\"")),
        "method" => METHODS.contains(&value) && samples().any(|line| line.contains("method=\"")),
        _ => samples().any(|line| line.contains(&format!("{label}=\"{value}\""))),
    }
}

/// Expressions of the dashboard's panels and variables.
fn dashboard_expressions() -> String {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    let of = |list: &Value, path: &str| -> Vec<String> {
        list.as_array().unwrap().iter().filter_map(|item| item.pointer(path).and_then(Value::as_str)).map(str::to_owned).collect()
    };
    let panels = dashboard["panels"].as_array().unwrap();
    let mut expressions: Vec<String> =
        panels.iter().filter_map(|panel| panel.get("targets")).flat_map(|targets| of(targets, "/expr")).collect();
    expressions.extend(of(&dashboard["templating"]["list"], "/query/query"));
    assert!(expressions.len() > panels.len() / 2, "each panel asks for something");
    expressions.join("\n")
}

/// Some of everything that happens.
async fn traffic(server: &Process, ground: &Ground) -> String {
    let mut alice = client(ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    for number in 0..3 {
        alice.send_message(send_request(&chat, &number.to_string(), "hello")).await.unwrap();
        stream.message().await;
    }
    alice.send_message(send_request(&chat, "0", "hello")).await.unwrap();
    let taken = alice.send_message(send_request(&chat, "0", "another text")).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    let mut history = Stream::open(&mut alice, join(&chat, Some(0))).await;
    history.half_close();
    assert_eq!(history.end().await.code(), Code::Ok);
    stream.half_close();
    assert_eq!(stream.end().await.code(), Code::Ok);
    let stranger = client(ground, server.port, "no token").await.list_chats(ListChatsRequest::default()).await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unauthenticated);
    chat
}

crate::on_both_stores!(dashboard_and_rules_use_metrics_that_exist);

async fn dashboard_and_rules_use_metrics_that_exist(on: On) {
    let ground = Ground::new(on).await;
    let server = Process::serve(&ground, 0, &[]).await;
    traffic(&server, &ground).await;
    // A call is counted when its answer's last byte was taken, which its client may see before.
    until_metric(&server, "chat_rpc_stream_duration_seconds_count", &["ConnectChat"], |count| count >= 2.0).await;
    let (head, text) = get(&server, "/metrics").await;
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    // Samples, and the names that a histogram's samples are made of.
    let told = text.lines().filter(|line| !line.starts_with("# HELP")).map(|line| line.strip_prefix("# TYPE ").unwrap_or(line));
    let there: BTreeSet<&str> = told.filter_map(|line| line.split(['{', ' ']).next()).collect();
    for (file, used) in [(DASHBOARD, dashboard_expressions()), (RULES, fs::read_to_string(RULES).unwrap())] {
        let (pairs, used) = (pairs_in(&used), names_in(&used));
        assert!(!used.is_empty() && !pairs.is_empty(), "{file}");
        let untold: Vec<Pair<'_>> = pairs.into_iter().filter(|pair| !is_told(&text, *pair)).collect();
        assert!(untold.is_empty(), "{file} selects samples that aren't there: {untold:?}");
        let missing: Vec<&String> = used.iter().filter(|name| !there.contains(name.as_str())).collect();
        // What the system tells of a process is told on Linux.
        let missing: Vec<&String> = missing.into_iter().filter(|name| cfg!(target_os = "linux") || !name.starts_with("process_")).collect();
        assert!(missing.is_empty(), "{file} uses metrics that aren't there: {missing:?}");
    }
    let documented = fs::read_to_string("docs/metrics.md").unwrap();
    let undocumented: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).filter(|name| !documented.contains(name)).collect();
    assert!(undocumented.is_empty(), "docs/metrics.md lacks {undocumented:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_what_happened() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &[]).await;
    let chat = traffic(&server, &ground).await;
    until_metric(&server, "chat_rpc_requests_total", &["SendMessage"], |count| count >= 5.0).await;
    let value = async |name: &str, labels: &[&str]| metric(&server, name, labels).await;
    assert_eq!(value("chat_rpc_requests_total", &["SendMessage", "code=\"OK\""]).await, 4.0);
    assert_eq!(value("chat_rpc_duration_seconds_count", &["SendMessage", "ALREADY_EXISTS"]).await, 1.0);
    assert_eq!(value("chat_rpc_duration_seconds_count", &["ConnectChat"]).await, 0.0, "streams are apart");
    for (outcome, messages) in [("stored", 3.0), ("duplicate", 1.0), ("refused", 1.0), ("failed", 0.0)] {
        assert_eq!(value("chat_append_messages_total", &[outcome]).await, messages, "{outcome}");
    }
    assert_eq!(value("chat_append_batch_messages_sum", &[]).await, 5.0);
    // The second stream came while the first was there. On a machine that took long for it recent messages are gone, and it read.
    let delivered = async |source: &str| value("chat_deliveries_total", &[format!("source=\"{source}\"").as_str()]).await;
    let caught_up = delivered("catch_up").await;
    assert_eq!((delivered("live").await, delivered("recent").await + caught_up), (3.0, 3.0));
    assert_eq!(value("chat_auth_results_total", &["invalid"]).await, 1.0);
    assert_eq!(value("chat_build_info", &[env!("CARGO_PKG_VERSION"), "revision=\""]).await, 1.0);

    until_metric(&server, "chat_streams_open", &[], |open| open == 0.0).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let mut stream = Stream::joined(&mut alice, &chat, Some(0)).await;
    for _ in 0..3 {
        stream.event().await;
    }
    assert_eq!(delivered("catch_up").await, caught_up + 3.0, "nobody was there");
    assert_eq!((value("chat_streams_open", &[]).await, value("chat_stream_chats_joined", &[]).await), (1.0, 1.0));
    assert!(value("chat_connections_open", &[]).await >= 1.0);
    stream.send(Frame::Leave(LeaveFrame { chat_id: chat.clone() }));
    stream.event().await;
    assert_eq!(value("chat_stream_chats_joined", &[]).await, 0.0);
    stream.half_close();
    stream.end().await;
    until_metric(&server, "chat_streams_open", &[], |open| open == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_redis_that_is_away_is_told() {
    let ground = Ground::new(On::Postgres).await;
    // Nobody listens there.
    let server = Process::serve(&ground, 0, &["--redis-url", "redis://127.0.0.1:1"]).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    for number in 0..3 {
        alice.send_message(send_request(&chat, &number.to_string(), "hello")).await.unwrap();
    }
    alice.remove_member(RemoveMemberRequest { chat_id: chat, user_id: "bob".into() }).await.unwrap();
    until_metric(&server, "chat_broker_publish_failures_total", &[], |given_up| given_up == 2.0).await;
    for kind in ["message", "announcement"] {
        let kind = format!("kind=\"{kind}\"");
        assert_eq!(metric(&server, "chat_broker_kept_frames", &[&kind]).await, 1.0, "{kind}");
        assert_eq!(metric(&server, "chat_broker_queue_frames", &[&kind]).await, 0.0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_can_not_make_up_labels() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &[]).await;
    let channel = channel(&ground, server.port).await;
    for path in ["/chat.v1.ChatService/MadeUp", "/made.up.Service/Method", "/made/up/entirely"] {
        let mut raw = tonic::client::Grpc::new(channel.clone());
        raw.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<ListChatsRequest, ListChatsRequest>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        raw.unary(tonic::Request::new(ListChatsRequest::default()), path, codec).await.unwrap_err();
    }
    until_metric(&server, "chat_rpc_requests_total", &["method=\"other\""], |count| count >= 3.0).await;
    let (_, text) = get(&server, "/metrics").await;
    assert!(!text.to_lowercase().contains("made"), "{text}");
}

#[tokio::test]
async fn promtool_takes_the_rules_and_the_configuration() {
    let Ok(promtool) = std::env::var("TEST_PROMTOOL") else { return eprintln!("skipped: TEST_PROMTOOL is not set") };
    for (kind, file) in [("rules", RULES), ("config", "deploy/prometheus/prometheus.yml")] {
        let output = within(Command::new(&promtool).args(["check", kind, file]).output()).await.unwrap();
        assert!(output.status.success(), "{file}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    // The panels' expressions too, as if they were rules.
    let folder = tempfile::tempdir().unwrap();
    let mut rules = String::from("groups:\n- name: panels\n  rules:\n");
    for (number, expression) in dashboard_expressions().lines().filter(|line| !line.starts_with("label_values")).enumerate() {
        let expression = expression.replace("$__rate_interval", "1m");
        rules += &format!("  - record: panel:{number}\n    expr: {}\n", serde_json::to_string(&expression).unwrap());
    }
    fs::write(folder.path().join("panels.yml"), rules).unwrap();
    let output = within(Command::new(&promtool).args(["check", "rules"]).arg(folder.path().join("panels.yml")).output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
