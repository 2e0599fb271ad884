//! The line that each call leaves, as docs/logging.md says.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sqlx::Connection;
use tonic::{Code, Request};

use crate::common::process::{Overheard, Process};
use crate::common::*;
use crate::until_metric;
use chat_service::pb::chat::v1::chat_service_client::ChatServiceClient;
use chat_service::pb::chat::v1::{ConnectChatRequest, ListChatsRequest, ListMessagesRequest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_leaves_one_line_with_its_ids_and_streams_are_given_theirs_too() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Overheard::serve(&ground, &ground.database_url).await;
    let channel = channel(&ground, server.port).await;
    let mut alice = with_token(channel.clone(), &mint("alice", &["user"]));
    let chat = new_chat(&mut alice, &[]).await;

    let mut request = Request::new(send_request(&chat, "1", "hello"));
    request.metadata_mut().insert("x-request-id", "of-the-client".parse().unwrap());
    let answer = alice.send_message(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "of-the-client");

    let frames = futures_util::stream::iter([ConnectChatRequest { frame: Some(join(&chat, Some(0))) }]);
    let mut request = Request::new(frames);
    request.metadata_mut().insert("x-request-id", "of-the-stream".parse().unwrap());
    let answer = within(alice.connect_chat(request)).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "of-the-stream", "known before the stream has ended");
    let mut events = answer.into_inner();
    while within(events.message()).await.unwrap().is_some() {}

    let refused = ChatServiceClient::new(channel).list_chats(ListChatsRequest::default()).await.unwrap_err();
    let made = refused.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert_eq!(made.len(), 36, "refused calls have an id as well");

    let said = server.stop().await;
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |id: &str| -> Value {
        let found: Vec<&Value> = lines.iter().filter(|line| line["request_id"] == id).collect();
        assert_eq!(found.len(), 1, "one line a call: {id}");
        found[0].clone()
    };
    for (id, method, code, user, level) in [
        ("of-the-client", "SendMessage", "Ok", "alice", "INFO"),
        ("of-the-stream", "ConnectChat", "Ok", "alice", "INFO"),
        (made.as_str(), "ListChats", "Unauthenticated", "", "INFO"),
    ] {
        let line = of(id);
        assert_eq!(line["target"], "chat_service::rpc");
        assert_eq!(line["method"], format!("/chat.v1.ChatService/{method}"));
        for (field, value) in [("code", code), ("user_id", user), ("level", level)] {
            assert_eq!(line[field], value, "{field} of {id}");
        }
        assert!(line["duration_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
        assert!(line["span_id"].is_string() && line["timestamp"].is_string());
    }
    let documented = std::fs::read_to_string("docs/logging.md").unwrap();
    for (field, _) in of("of-the-client").as_object().unwrap() {
        assert!(documented.contains(&format!("`{field}`")), "docs/logging.md lacks {field}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_is_an_error_whose_cause_has_its_request_id_and_a_limit_warns() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &["--rate-limit-user-sends", "1/s burst 1"]).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut sent = Ok(());
    for number in 0..30 {
        sent = sent.and(alice.send_message(send_request(&chat, &number.to_string(), "hello")).await.map(drop));
    }
    assert_eq!(sent.unwrap_err().code(), Code::ResourceExhausted);

    // What the database holds now is no text.
    let mut database = sqlx::SqliteConnection::connect(&ground.database_url).await.unwrap();
    assert!(sqlx::query("UPDATE messages SET text = x'ff'").execute(&mut database).await.unwrap().rows_affected() > 0);
    let mut request = Request::new(ListMessagesRequest { chat_id: chat.clone(), ..ListMessagesRequest::default() });
    request.metadata_mut().insert("x-request-id", "of-the-call".parse().unwrap());
    assert_eq!(alice.list_messages(request).await.unwrap_err().code(), Code::Internal);
    let mut request = Request::new(futures_util::stream::iter([ConnectChatRequest { frame: Some(join(&chat, Some(0))) }]));
    request.metadata_mut().insert("x-request-id", "of-the-stream".parse().unwrap());
    let mut events = within(alice.connect_chat(request)).await.unwrap().into_inner();
    let end = loop {
        match within(events.message()).await {
            Ok(event) => assert!(event.is_some(), "it ends well"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Internal);

    for line in [
        "WARN chat_service::rpc: call method=/chat.v1.ChatService/SendMessage code=ResourceExhausted",
        "ERROR chat_service::rpc: call method=/chat.v1.ChatService/ListMessages code=Internal",
        "ERROR chat_service::rpc: call method=/chat.v1.ChatService/ConnectChat code=Internal",
    ] {
        until(line, || server.said(line) > 0).await;
    }
    for id in ["of-the-call", "of-the-stream"] {
        let log = server.log.lock().unwrap();
        let causes = log.iter().filter(|line| line.contains("ERROR chat_service::service::error: the store failed"));
        assert_eq!(causes.filter(|line| line.contains(&format!("request_id={id} "))).count(), 1, "{log:#?}");
    }
}

/// The HTTP code that a request without a body gets, on a connection of its own.
async fn asked(ground: &Ground, port: u16, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let io = TokioIo::new(raw_tls::to(ground, port, "http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", format!("localhost:{port}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = within(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.unwrap();
    let code = answer.status().as_u16();
    within(answer.into_body().collect()).await.unwrap();
    code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_no_call_leaves_its_line_and_its_count_too() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &["--cors-origins", "https://app.example.org"]).await;
    let path = "/chat.v1.ChatService/ListChats";
    let preflight = |origin| [("origin", origin), ("access-control-request-method", "POST"), ("x-request-id", "of-the-preflight")];
    assert_eq!(asked(&ground, server.port, "OPTIONS", path, &preflight("https://app.example.org")).await, 204);
    assert_eq!(asked(&ground, server.port, "OPTIONS", path, &preflight("https://evil.example")).await, 403);
    let of_web = [("content-type", "application/grpc-web+json")];
    assert_eq!(asked(&ground, server.port, "POST", path, &of_web).await, 415);
    assert_eq!(asked(&ground, server.port, "GET", path, &of_web).await, 405);
    assert_eq!(asked(&ground, server.port, "GET", "/v1/connect", &[]).await, 426);

    // They are counted when their last byte was taken.
    let counted = async |labels: [&str; 2], count: f64| {
        until_metric(&server, "chat_rpc_requests_total", &labels, |now| now == count).await;
    };
    counted(["method=\"preflight\"", "code=\"OK\""], 1.0).await;
    counted(["method=\"preflight\"", "code=\"PERMISSION_DENIED\""], 1.0).await;
    counted(["ListChats", "code=\"INVALID_ARGUMENT\""], 2.0).await;
    counted(["method=\"other\"", "code=\"INVALID_ARGUMENT\""], 1.0).await;

    for (line, lines) in [
        ("method=OPTIONS /chat.v1.ChatService/ListChats code=Ok", 1),
        ("method=OPTIONS /chat.v1.ChatService/ListChats code=PermissionDenied", 1),
        ("method=/chat.v1.ChatService/ListChats code=InvalidArgument", 2),
        ("method=/v1/connect code=InvalidArgument", 1),
        ("request_id=of-the-preflight", 2),
    ] {
        until(line, || server.said(line) == lines).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_count_as_requests_of_their_address() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &["--cors-origins", "https://app.example.org", "--rate-limit-address", "1/s burst 3"]).await;
    let headers = [("origin", "https://app.example.org"), ("access-control-request-method", "POST")];
    let mut codes = Vec::new();
    for _ in 0..30 {
        codes.push(asked(&ground, server.port, "OPTIONS", "/v1/chats", &headers).await);
    }
    assert!(codes[..3].iter().all(|code| *code == 204) && codes.contains(&429), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_handshake_over_the_limit_of_its_address_leaves_its_line_and_its_count() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &["--rate-limit-address", "1/s burst 1"]).await;
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("x-request-id", "of-the-socket"),
    ];
    let mut codes = Vec::new();
    while codes.last() != Some(&429) && codes.len() < 30 {
        // What the address may ask for, mostly.
        asked(&ground, server.port, "HEAD", "/", &[]).await;
        codes.push(asked(&ground, server.port, "GET", "/v1/connect", &handshake).await);
    }
    assert_eq!(codes.last(), Some(&429), "{codes:?}");
    let line = "method=/v1/connect code=ResourceExhausted";
    until(line, || server.said(line) == 1).await;
    until_metric(&server, "chat_rpc_requests_total", &["method=\"other\"", "code=\"RESOURCE_EXHAUSTED\""], |now| now >= 1.0).await;
}
