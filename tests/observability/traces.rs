//! Traces, as a collector gets them from the real binary.

use chat_service::pb::chat::v1::connect_chat_response::Event;
use tokio::net::TcpListener;
use tonic::Request;

use crate::collector::{Collector, Spans};
use crate::common::process::Process;
use crate::common::redis_server::{prefix, shared_url};
use crate::common::*;
use crate::{metric, until_metric};

/// A client's trace and span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";
const SEND: &str = "chat.v1.ChatService/SendMessage";
const TEXT: &str = "what nobody but the chat may know";
/// Links of a batch's span, as docs/tracing.md says.
const BATCH_LINKS_MAX: usize = 32;

mod sqlite {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_message_is_followed_from_its_client_to_the_database_and_to_a_subscriber() {
        super::a_message_is_followed(super::On::Sqlite, "sqlite").await;
    }
}

mod postgres {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_message_is_followed_from_its_client_to_the_database_and_to_a_subscriber() {
        super::a_message_is_followed(super::On::Postgres, "postgresql").await;
    }
}

/// A send with a client's trace. Returns what the answer's headers say of it.
async fn send(client: &mut Client, chat: &str, id: &str, flags: &str) -> (String, String) {
    let mut request = Request::new(send_request(chat, id, TEXT));
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{CLIENT_SPAN}-{flags}").parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=value".parse().unwrap());
    let answer = within(client.send_message(request)).await.unwrap();
    let header = |name: &str| answer.metadata().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    (header("traceparent"), header("x-request-id"))
}

/// alice sends, and bob is given it. Returns what the answer's headers say.
pub async fn send_to_a_subscriber(server: &Process, ground: &Ground) -> (String, String) {
    let mut alice = client(ground, server.port, &mint("alice", &["user"])).await;
    let mut bob = client(ground, server.port, &mint("bob", &["user"])).await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    let said = send(&mut alice, &chat, "1", "01").await;
    assert_eq!(text_of(&stream.message().await), TEXT);
    said
}

/// The send's one trace, from its client to the database and to a subscriber, of a server that is called chat-test.
pub fn assert_followed(spans: &Spans, traceparent: &str, system: &str) {
    let rpc = spans.one(SEND);
    assert_eq!((rpc.trace.as_str(), rpc.parent.as_str(), rpc.kind), (TRACE, CLIENT_SPAN, 2));
    assert_eq!(rpc.service, "chat-test");
    for (name, value) in
        [("rpc.system", "grpc"), ("rpc.service", "chat.v1.ChatService"), ("rpc.method", "SendMessage"), ("rpc.grpc.status_code", "0")]
    {
        assert_eq!(rpc.attributes.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(traceparent, format!("00-{TRACE}-{}-01", rpc.id), "the client is given the request's span");

    let service = spans.one("service.send_message");
    let batch = spans.one("append.batch");
    let database = spans.one("db.message.append");
    let publish = spans.one("broker.publish");
    let delivery = spans.one("stream.deliver");
    for (span, parent) in [(service, rpc), (batch, service), (database, batch), (publish, batch), (delivery, service)] {
        assert_eq!((&span.trace, &span.parent), (&rpc.trace, &parent.id), "{} below {}\n{}", span.name, parent.name, spans.tree());
        assert!(span.start_nanos >= parent.start_nanos && span.end_nanos >= span.start_nanos, "{}", span.name);
        assert!(!span.failed, "{}", span.name);
    }
    assert_eq!(batch.links, [(rpc.trace.clone(), service.id.clone())], "it is linked to the requests that it carries");
    assert_eq!((database.kind, publish.kind, delivery.kind), (3, 4, 5));
    assert_eq!(database.attributes["db.system"], system);
    assert_eq!(delivery.attributes["chat.sequence"], "1");
}

async fn a_message_is_followed(on: On, system: &str) {
    let (ground, collector) = (Ground::new(on).await, Collector::grpc().await);
    let flags = ["--otlp-endpoint", &collector.url(), "--otlp-protocol", "grpc", "--otel-service-name", "chat-test"];
    let mut server = Process::serve(&ground, 0, &flags).await;
    let (traceparent, request_id) = send_to_a_subscriber(&server, &ground).await;
    assert!(server.stop().await.success());

    let spans = collector.spans();
    println!("{}", spans.tree());
    assert_followed(&spans, &traceparent, system);
    frames_are_traces_of_their_own(&spans);
    let id = &spans.one(SEND).id;
    until("the call's line has the span's ids", || server.said(&format!("trace_id={TRACE} span_id={id}")) == 1).await;
    until("and the request's", || server.said(&format!("request_id={request_id} ")) == 1).await;
    let text = collector.text();
    assert!(!text.contains(TEXT) && !text.contains("Bearer") && !text.contains("INSERT"), "spans hold neither texts nor tokens nor SQL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_followed_to_the_streams_of_other_nodes() {
    let (ground, collector) = (Ground::new(On::Postgres).await, Collector::grpc().await);
    let (redis, prefix, endpoint) = (shared_url(), prefix(), collector.url());
    let between = ["--redis-url", &redis, "--redis-prefix", &prefix, "--sweep-interval", "1h"];
    let traced = ["--otlp-endpoint", &endpoint, "--otlp-protocol", "grpc"];
    let mut nodes = Vec::new();
    for name in ["one", "other"] {
        let node = Process::serve(&ground, 0, &[&between[..], &traced[..], &["--otel-service-name", name]].concat()).await;
        until("nodes reach each other", || node.said("Redis is there") == 1).await;
        nodes.push(node);
    }
    let mut alice = client(&ground, nodes[0].port, &mint("alice", &["user"])).await;
    let mut bob = client(&ground, nodes[1].port, &mint("bob", &["user"])).await;
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    send(&mut alice, &chat, "1", "01").await;
    assert_eq!(text_of(&stream.message().await), TEXT);
    drop(stream);
    for node in &mut nodes {
        assert!(node.stop().await.success());
    }
    let spans = collector.spans();
    let (sent, delivery) = (spans.one("service.send_message"), spans.one("stream.deliver"));
    assert_eq!((sent.service.as_str(), delivery.service.as_str()), ("one", "other"));
    assert_eq!((delivery.trace.as_str(), &delivery.parent), (TRACE, &sent.id), "{}", spans.tree());
}

/// A stream's call ends at once, and its frames begin traces that are linked to it.
pub fn frames_are_traces_of_their_own(spans: &Spans) {
    let (connect, join) = (spans.one("chat.v1.ChatService/ConnectChat"), spans.one("stream.join"));
    assert!(join.parent.is_empty() && join.trace != connect.trace);
    assert_eq!(join.links, [(connect.trace.clone(), connect.id.clone())]);
    assert!(connect.end_nanos < spans.one("stream.deliver").start_nanos, "the call's span doesn't wait for the stream's end");
    let found = spans.named("db.chat.find");
    assert!(found.iter().any(|find| find.parent == join.id), "{}", spans.tree());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_that_sends_is_traced_and_batches_name_a_bounded_number_of_them() {
    const SENDS: usize = 200;
    let (ground, collector) = (Ground::new(On::Sqlite).await, Collector::grpc().await);
    let flags = ["--otlp-endpoint", &collector.url(), "--otlp-protocol", "grpc"];
    let mut server = Process::serve(&ground, 0, &flags).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    for number in 0..SENDS {
        stream.send_text(&chat, &number.to_string(), TEXT);
    }
    for _ in 0..SENDS {
        stream.acknowledged().await;
    }
    stream.half_close();
    assert!(stream.end().await.code() == tonic::Code::Ok);
    assert!(server.stop().await.success());
    let spans = collector.spans();
    let sends = spans.named("stream.send");
    assert_eq!(sends.len(), SENDS);
    let batches = spans.named("append.batch");
    let carried: usize = batches.iter().map(|batch| batch.attributes["chat.batch.messages"].parse::<usize>().unwrap()).sum();
    assert_eq!(carried, SENDS);
    for batch in batches {
        let messages: usize = batch.attributes["chat.batch.messages"].parse().unwrap();
        assert_eq!(batch.links.len(), messages.min(BATCH_LINKS_MAX));
        assert!(sends.iter().any(|send| send.id == batch.parent && send.trace == batch.trace));
        assert!(batch.links.iter().all(|(_, id)| sends.iter().any(|send| send.id == *id)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_go_over_http_as_protobuf_too() {
    let (ground, collector) = (Ground::new(On::Sqlite).await, Collector::http().await);
    let mut server = Process::serve(&ground, 0, &["--otlp-endpoint", &collector.url()]).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    send(&mut alice, &chat, "1", "01").await;
    assert!(server.stop().await.success());
    let spans = collector.spans();
    assert_eq!((spans.one(SEND).trace.as_str(), spans.one(SEND).service.as_str()), (TRACE, "chat-service"));
    assert_eq!(spans.one("append.batch").parent, spans.one("service.send_message").id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sampled_is_not_exported_and_still_has_an_id() {
    for (sampler, flags) in [("always_off", "01"), ("parentbased_always_on", "00"), ("parentbased_traceidratio", "00")] {
        let (ground, collector) = (Ground::new(On::Sqlite).await, Collector::grpc().await);
        let url = collector.url();
        let more = ["--otlp-endpoint", &url, "--otlp-protocol", "grpc", "--otel-traces-sampler", sampler, "--otel-traces-sampler-arg", "0"];
        let mut server = Process::serve(&ground, 0, &more).await;
        let channel = channel(&ground, server.port).await;
        let mut alice = with_token(channel, &mint("alice", &["user"]));
        let chat = new_chat(&mut alice, &[]).await;
        let mut stream = Stream::joined(&mut alice, &chat, None).await;
        let (traceparent, _) = send(&mut alice, &chat, "1", flags).await;
        stream.message().await;
        assert!(traceparent.starts_with(&format!("00-{TRACE}-")) && traceparent.ends_with("-00"), "{sampler}: {traceparent}");
        until("the call's line has the client's trace", || server.said(&format!("trace_id={TRACE}")) == 1).await;
        drop(stream);
        assert!(server.stop().await.success());
        let spans = collector.spans();
        let of_the_send: Vec<_> = spans.0.iter().filter(|span| span.trace == TRACE).collect();
        assert!(of_the_send.is_empty(), "{sampler}: {}", spans.tree());
        // What began here, as the chat's making, is the sampler's own choice.
        assert_eq!(spans.0.is_empty(), sampler != "parentbased_always_on", "{sampler}: {}", spans.tree());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_nothing_is_traced_and_a_clients_trace_is_in_the_log() {
    let ground = Ground::new(On::Sqlite).await;
    let mut server = Process::serve(&ground, 0, &[]).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let (traceparent, request_id) = send(&mut alice, &chat, "1", "01").await;
    assert_eq!(traceparent, "");
    assert_eq!(metric(&server, "chat_trace_spans_exported_total", &[]).await, 0.0);
    assert!(server.stop().await.success());
    until("the call's line", || server.said(&format!("request_id={request_id} trace_id={TRACE}")) == 1).await;
}

/// More spans than the queue holds.
async fn flood(server: &Process, ground: &Ground) {
    const SENDS: usize = 250;
    const STREAMS: usize = 8;
    let mut alice = client(ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut clients = Vec::new();
    for at in 0..STREAMS {
        let (chat, mut stream) = (chat.clone(), Stream::joined(&mut alice, &chat, Some(0)).await);
        clients.push(tokio::spawn(async move {
            for number in 0..SENDS {
                stream.send_text(&chat, &format!("{at}-{number}"), TEXT);
            }
            let (mut acknowledged, mut messages) = (0, 0);
            while acknowledged < SENDS || messages < SENDS * STREAMS {
                match stream.event().await {
                    Event::Acknowledged(_) => acknowledged += 1,
                    Event::Message(_) => messages += 1,
                    other => panic!("{other:?}"),
                }
            }
        }));
    }
    for client in clients {
        within(client).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_costs_nothing_but_its_traces() {
    let ground = Ground::new(On::Sqlite).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for protocol in ["grpc", "http/protobuf"] {
        let mut server = Process::serve(&ground, 0, &["--otlp-endpoint", &format!("http://{nobody}"), "--otlp-protocol", protocol]).await;
        flood(&server, &ground).await;
        until_metric(&server, "chat_trace_spans_lost_total", &[], |lost| lost > 0.0).await;
        assert!(server.stop().await.success(), "{protocol}");
        until("it is said once, not for each export", || server.said("the collector takes no traces") == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_answer_does_not_hold_the_stop() {
    let ground = Ground::new(On::Sqlite).await;
    // Connections wait in its queue for ever.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let more = ["--otlp-endpoint", &url, "--otlp-timeout-ms", "600000", "--shutdown-timeout", "2s"];
    let mut server = Process::serve(&ground, 0, &more).await;
    flood(&server, &ground).await;
    assert!(server.stop().await.success());
    until("it is said", || server.said("the last traces were not exported") + server.said("some work did not end in time") > 0).await;
}
