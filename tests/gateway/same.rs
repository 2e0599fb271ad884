//! By REST a caller is who it is by gRPC, and has no more and no less.

use chat_service::pb::chat::v1::*;
use serde_json::json;
use tonic::Code;

use crate::common::*;
use crate::http1::*;

const MANY: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_valid_token_every_call_is_401_before_its_body_is_looked_at() {
    let server = started(&[]).await;
    let of_another = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.AAAA";
    for (headers, reason, challenge) in [
        (vec![], "TOKEN_MISSING", "Bearer"),
        (vec![("authorization", "Basic YTpi")], "TOKEN_MISSING", "Bearer"),
        (vec![("authorization", of_another)], "TOKEN_INVALID", r#"Bearer error="invalid_token""#),
    ] {
        for (method, path) in [("GET", "/v1/chats"), ("POST", "/v1/chats"), ("DELETE", "/v1/chats/%zz")] {
            let answer = send(&server, request(method, path, &headers, "not JSON")).await;
            assert_eq!((answer.code(), answer.json()["code"].as_i64()), (401, Some(16)), "{method} {path}");
            assert_eq!((answer.reason().as_str(), answer.header("www-authenticate")), (reason, challenge), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_way_stores_the_other_reads() {
    let server = started(&[]).await;
    let (alice, mut by_grpc) = (Caller::new(&server, "alice"), server.client("alice").await);
    let chat = alice.new_chat(&[]).await;
    let mut stream = Stream::joined(&mut by_grpc, &chat, Some(0)).await;
    let messages = format!("/v1/chats/{chat}/messages");
    let sent = alice.post(&messages, r#"{"text":"by REST","clientMessageId":"1"}"#).await.ok();
    let delivered = stream.message().await;
    assert_eq!((text_of(&delivered), delivered.sequence), ("by REST", 1));
    // The same id by the other way is a retry.
    let again = by_grpc.send_message(send_request(&chat, "1", "by REST")).await.unwrap().into_inner().message.unwrap();
    assert_eq!(json!(again.sequence.to_string()), sent["message"]["sequence"]);
    let refused = by_grpc.send_message(send_request(&chat, "1", "another text")).await.unwrap_err();
    let refused_by_rest = alice.post(&messages, r#"{"text":"another text","clientMessageId":"1"}"#).await;
    assert_eq!((refused.code(), refused_by_rest.code()), (Code::AlreadyExists, 409));
    assert_eq!(reason(&refused), refused_by_rest.reason());
    assert_eq!(json!(refused.message()), refused_by_rest.json()["message"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_limits_count_both_ways_and_the_wait_is_in_retry_after() {
    let server = started(&["--rate-limit-user-sends", "1/s burst 5"]).await;
    let (alice, mut by_grpc) = (Caller::new(&server, "alice"), server.client("alice").await);
    let chat = alice.new_chat(&[]).await;
    // Whatever the time that calls take: what gRPC uses up at once is used up for REST.
    let mut refused = None;
    for round in 0..MANY {
        let calls = (0..MANY).map(|number| {
            let (mut client, request) = (by_grpc.clone(), send_request(&chat, &format!("{round}-{number}"), "x"));
            async move { drop(client.send_message(request).await) }
        });
        within(futures_util::future::join_all(calls)).await;
        let body = json!({ "text": "x", "clientMessageId": round.to_string() }).to_string();
        let answer = alice.post(&format!("/v1/chats/{chat}/messages"), body).await;
        if answer.code() != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("REST has a limit of its own");
    assert_eq!((refused.code(), refused.json()["code"].as_i64(), refused.reason().as_str()), (429, Some(8), "RATE_LIMITED"));
    assert_eq!(refused.header("retry-after"), "1", "less than a second, rounded up");
    let wait = detail(&refused.json(), "RetryInfo").unwrap()["retryDelay"].as_str().unwrap().to_owned();
    assert!(wait.parse::<prost_types::Duration>().is_ok_and(|wait| wait.seconds == 0 || wait.nanos == 0), "{wait}");
    by_grpc.list_chats(ListChatsRequest::default()).await.expect("other calls have a limit of their own");
    assert_eq!(alice.get("/v1/chats").await.code(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_addresses_limit_counts_calls_pages_and_refusals() {
    let server = started(&["--rate-limit-address", "1/s burst 5"]).await;
    for path in ["/v1/chats", "/swagger", "/nothing"] {
        let asks = (0..MANY).map(|_| send(&server, request("GET", path, &[], "")));
        let answers = within(futures_util::future::join_all(asks)).await;
        let refused = answers.iter().find(|answer| answer.code() == 429).unwrap_or_else(|| panic!("{path}"));
        assert_eq!((refused.reason().as_str(), refused.header("retry-after")), ("RATE_LIMITED", "1"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_says_so() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    let chat = alice.new_chat(&[]).await;
    // A call that is under way holds the connection, and its end is the server's.
    let mut io = tls(&server, "http/1.1").await;
    let token = mint("alice", &["user"]);
    let body = r#"{"text":"x","clientMessageId":"1"}"#;
    let head = format!(
        "POST /v1/chats/{chat}/messages HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut io, head.as_bytes()).await.unwrap();
    // It asks for the body: the call has begun.
    let mut answer = [0; 1024];
    let count = within(tokio::io::AsyncReadExt::read(&mut io, &mut answer)).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 100 "));
    server.begin_stop();
    // The stop has begun for calls when new connections are no longer taken.
    until("the stop", || std::net::TcpStream::connect(("127.0.0.1", server.port)).is_err()).await;
    tokio::io::AsyncWriteExt::write_all(&mut io, body.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    drop(within(tokio::io::AsyncReadExt::read_to_end(&mut io, &mut rest)).await);
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.starts_with("HTTP/1.1 503 ") && rest.contains("retry-after: 1") && rest.contains("GOING_AWAY"), "{rest}");
}
