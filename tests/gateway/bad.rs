//! Requests that are wrong: each gets the answer that is stated for it, as a google.rpc.Status.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::NO_CHAT;
use crate::common::*;
use crate::http1::*;

const LIMIT: usize = 256 * 1024;

/// Checks an error's form; its HTTP code, gRPC code, reason, and the field that it names, if it names one.
fn told(answer: &Answer) -> (u16, i64, String, Option<String>) {
    let json = answer.json();
    let names: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(names, ["code", "details", "message"], "{json}");
    assert!(!json["message"].as_str().unwrap().is_empty());
    assert!(!answer.header("x-request-id").is_empty(), "{json}");
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("grpc")), "{:?}", answer.headers);
    let field = detail(&json, "BadRequest").map(|detail| detail["fieldViolations"][0]["field"].as_str().unwrap().to_owned());
    (answer.code(), json["code"].as_i64().unwrap(), answer.reason(), field)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_do_not_fit_are_400_and_name_the_field() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    let chat = alice.new_chat(&[]).await;
    let (chats, members, messages) = ("/v1/chats", format!("/v1/chats/{chat}/members"), format!("/v1/chats/{chat}/messages"));
    let deep = format!("{{\"title\":{}", "[".repeat(10_000));
    let cases: &[(&str, &[u8], &str)] = &[
        (chats, b"{", "body"),
        (chats, b"{\"title\":\"x\"} {}", "body"),
        (chats, b"{\"title\":\"x\",}", "body"),
        (chats, b"title=x", "body"),
        (chats, b"[]", "body"),
        (chats, b"null", "body"),
        (chats, b"\"x\"", "body"),
        (chats, b"\xef\xbb\xbf{\"title\":\"x\"}", "body"),
        (chats, b"{\"title\":\"\xff\"}", "body"),
        (chats, b"{\"title\":\"\\ud800\"}", "body"),
        (chats, deep.as_bytes(), "body"),
        // An empty body is an empty message.
        (chats, b"", "title"),
        (chats, b"{}", "title"),
        (chats, b"{\"title\":null}", "title"),
        (chats, b"{\"title\":5}", "title"),
        (chats, b"{\"title\":[\"x\"]}", "title"),
        (chats, b"{\"title\":\"x\",\"title\":\"y\"}", "title"),
        (chats, b"{\"title\":\"a\\u0000b\"}", "title"),
        (chats, b"{\"Title\":\"x\"}", "Title"),
        (chats, b"{\"title\":\"x\",\"members\":[]}", "members"),
        (chats, b"{\"title\":\"x\",\"memberIds\":\"bob\"}", "member_ids"),
        (chats, b"{\"title\":\"x\",\"memberIds\":{\"0\":\"bob\"}}", "member_ids"),
        (chats, b"{\"title\":\"x\",\"memberIds\":[\"bob\",null]}", "member_ids[1]"),
        (chats, b"{\"title\":\"x\",\"memberIds\":[\"bob\",\"\"]}", "member_ids[1]"),
        (chats, b"{\"title\":\"x\",\"memberIds\":[],\"member_ids\":[]}", "member_ids"),
        (&members, b"{\"members\":[{\"userId\":\"bob\",\"role\":\"OWNER\"}]}", "members[0].role"),
        (&members, b"{\"members\":[{\"userId\":\"bob\",\"role\":99}]}", "members[0].role"),
        (&members, b"{\"members\":[{\"userId\":\"bob\",\"role\":2147483648}]}", "members[0].role"),
        (&members, b"{\"members\":[{\"userId\":\"bob\",\"role\":1.5}]}", "members[0].role"),
        (&members, b"{\"members\":[{\"userId\":\"bob\",\"role\":\"CHAT_ROLE_UNSPECIFIED\"}]}", "members[0].role"),
        (&members, b"{\"members\":[{\"userId\":\"bob\",\"rank\":1}]}", "members[0].rank"),
        (&members, b"{\"members\":[]}", "members"),
        (&messages, b"{\"text\":\" \",\"clientMessageId\":\"1\"}", "text"),
        (&messages, b"{\"text\":\"x\"}", "client_message_id"),
        (&messages, b"{\"text\":\"x\",\"clientMessageId\":1}", "client_message_id"),
        (&messages, b"{\"text\":{\"text\":\"x\"},\"clientMessageId\":\"1\"}", "text"),
    ];
    for &(path, body, field) in cases {
        let answer = alice.post(path, Bytes::copy_from_slice(body)).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(told(&answer), (400, 3, "INVALID_FIELDS".into(), Some(field.to_owned())), "{path} {shown}");
    }
    assert_eq!(alice.get(&messages).await.ok()["messages"], json!([]), "nothing of it was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_and_parameters_that_do_not_fit_are_400_and_name_the_field() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    let messages = format!("/v1/chats/{NO_CHAT}/messages");
    let messages = messages.as_str();
    let long = format!("?{}=1", "x".repeat(5000));
    for (method, path, query, field) in [
        ("GET", "/v1/chats/x", "", "chat_id"),
        ("GET", "/v1/chats/%zz", "", "chat_id"),
        ("GET", "/v1/chats/%", "", "chat_id"),
        ("GET", "/v1/chats/%ff", "", "chat_id"),
        ("GET", "/v1/chats/..", "", "chat_id"),
        ("GET", "/v1/chats/%2e%2e%2f%2e%2e", "", "chat_id"),
        ("DELETE", "/v1/chats/0198f7a0-0000-7000-8000-000000000001/members/%00", "", "user_id"),
        ("GET", messages, "?page_size=x", "page_size"),
        ("GET", messages, "?page_size=", "page_size"),
        ("GET", messages, "?page_size=-1", "page_size"),
        ("GET", messages, "?page_size=2147483648", "page_size"),
        ("GET", messages, "?page_size=1&page_size=2", "page_size"),
        ("GET", messages, "?page_size=1&pageSize=1", "page_size"),
        ("GET", messages, "?after_sequence=9223372036854775808", "after_sequence"),
        ("GET", messages, "?after_sequence=1e3", "after_sequence"),
        ("GET", messages, "?before_sequence=0", "before_sequence"),
        ("GET", messages, "?after_sequence=1&before_sequence=2", "before_sequence"),
        ("GET", messages, "?after=1", "after"),
        ("GET", messages, "?page_size.x=1", "page_size.x"),
        ("GET", messages, "?chat_id=x", "chat_id"),
        ("GET", messages, "?page_size=%zz", "page_size"),
        ("GET", messages, "?%ff=1", "query"),
        ("GET", "/v1/chats", "?page_token=x", "page_token"),
        ("GET", "/v1/chats", "?access_token=x", "access_token"),
        ("POST", "/v1/chats", "?title=x", "title"),
    ] {
        let answer = alice.send(method, &format!("{path}{query}"), &[], r#"{"title":"x"}"#).await;
        assert_eq!(told(&answer), (400, 3, "INVALID_FIELDS".into(), Some(field.into())), "{path}{query}");
    }
    let answer = alice.get(&format!("{messages}{long}")).await;
    assert!(answer.code() == 400 && answer.body.len() < 1000, "the input isn't repeated at length");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_404_and_another_method_is_405_with_what_there_is() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    for path in [
        "/v1",
        "/v1/",
        "/v1/chat",
        "/v1/chats/",
        "/v1//chats",
        "/v1/chats/x/",
        "/v1/chats/x/members",
        "/v2/chats",
        "/nothing",
        "/v1/%63hats",
    ] {
        let answer = alice.get(path).await;
        // Of `members` there is only POST.
        let expected = if path.ends_with("members") { (405, 12, "METHOD_NOT_ALLOWED") } else { (404, 5, "PATH_UNKNOWN") };
        assert_eq!(told(&answer), (expected.0, expected.1, expected.2.into(), None), "{path}");
    }
    for (method, path, allowed) in [
        ("PUT", "/v1/chats", vec!["GET", "POST"]),
        ("PATCH", "/v1/chats/x", vec!["DELETE", "GET"]),
        ("POST", "/v1/chats/x", vec!["DELETE", "GET"]),
        ("DELETE", "/v1/chats/x/messages", vec!["GET", "POST"]),
        ("GET", "/v1/chats/x/members/y", vec!["DELETE"]),
        ("BREW", "/v1/chats/x/members/y", vec!["DELETE"]),
    ] {
        let answer = alice.send(method, path, &[("content-type", "application/json")], "{}").await;
        assert_eq!(told(&answer), (405, 12, "METHOD_NOT_ALLOWED".into(), None), "{method} {path}");
        let mut found: Vec<&str> = answer.header("allow").split(", ").collect();
        found.sort_unstable();
        assert_eq!(found, allowed, "{method} {path}");
    }
    let head = alice.send("HEAD", "/v1/chats", &[], "").await;
    assert_eq!((head.code(), head.body.len()), (405, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_another_kind_is_415() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    for headers in [
        [("content-type", "text/plain")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "multipart/form-data; boundary=x")],
        [("content-type", "application/json; charset=latin1")],
        [("content-type", "application/protobuf")],
        [("content-encoding", "gzip")],
    ] {
        let answer = alice.send("POST", "/v1/chats", &headers, r#"{"title":"x"}"#).await;
        assert_eq!(told(&answer), (415, 3, "CONTENT_TYPE".into(), None), "{headers:?}");
    }
    let answer = alice.post("/chat.v1.ChatService/ListChats", "{}").await;
    assert_eq!(told(&answer), (415, 3, "CONTENT_TYPE".into(), None), "an RPC's own path takes gRPC");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_limit_is_413_and_one_at_the_limit_is_read() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    let padded = |length: usize| format!("{{\"title\":\"x\"{}}}", " ".repeat(length - 13));
    assert_eq!(alice.post("/v1/chats", padded(LIMIT)).await.code(), 200);
    // A length is enough; nothing of the body is waited for.
    let answer = alice.raw("/v1/chats", &format!("content-length: {}\r\n", LIMIT + 1), b"").await;
    assert_eq!(told(&answer), (413, 11, "BODY_TOO_LARGE".into(), None));
    // Without a stated length. What is sent has all been read when the answer comes.
    let mut chunks = Vec::new();
    for length in [LIMIT / 2, LIMIT / 2, 1] {
        chunks.extend_from_slice(format!("{length:x}\r\n").as_bytes());
        chunks.resize(chunks.len() + length, b' ');
        chunks.extend_from_slice(b"\r\n");
    }
    let answer = alice.raw("/v1/chats", "transfer-encoding: chunked\r\n", &chunks).await;
    assert_eq!(told(&answer), (413, 11, "BODY_TOO_LARGE".into(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_never_comes_is_answered_in_time() {
    let ground = Ground::new(On::Sqlite).await;
    let server = TestServer::start_with(ground, &[], |times| times.request_due = Duration::from_millis(200)).await;
    let answer = Caller::new(&server, "alice").raw("/v1/chats", "content-length: 10\r\n", b"{").await;
    assert_eq!(told(&answer), (504, 4, "REQUEST_LATE".into(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_badly_framed_body_is_400() {
    let server = started(&[]).await;
    let answer = Caller::new(&server, "alice").raw("/v1/chats", "transfer-encoding: chunked\r\n", b"zz\r\n").await;
    assert_eq!(told(&answer), (400, 3, "BODY_BROKEN".into(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_own_errors_have_the_codes_of_grpc_gateway() {
    let server = started(&[]).await;
    let (alice, bob) = (Caller::new(&server, "alice"), Caller::new(&server, "bob"));
    let chat = alice.new_chat(&["bob"]).await;
    let (chat_path, messages) = (format!("/v1/chats/{chat}"), format!("/v1/chats/{chat}/messages"));
    alice.post(&messages, r#"{"text":"x","clientMessageId":"1"}"#).await.ok();
    alice.post("/v1/chats", r#"{"title":"x","requestId":"1"}"#).await.ok();

    let cases = [
        (alice.get(&format!("/v1/chats/{NO_CHAT}")).await, (404, 5, "CHAT_NOT_FOUND")),
        (alice.delete(&format!("{chat_path}/members/carol")).await, (404, 5, "MEMBER_NOT_FOUND")),
        (bob.delete(&chat_path).await, (403, 7, "ROLE_TOO_LOW")),
        (alice.post(&messages, r#"{"text":"y","clientMessageId":"1"}"#).await, (409, 6, "CLIENT_MESSAGE_ID_TAKEN")),
        (alice.post("/v1/chats", r#"{"title":"y","requestId":"1"}"#).await, (409, 6, "REQUEST_ID_TAKEN")),
        (alice.delete(&format!("{chat_path}/members/alice")).await, (400, 9, "LAST_OWNER")),
        (Caller::new(&server, "mallory").get(&chat_path).await, (404, 5, "CHAT_NOT_FOUND")),
    ];
    for (answer, (http, code, reason)) in cases {
        assert_eq!(told(&answer), (http, code, reason.to_owned(), None));
        assert_eq!(answer.json()["details"].as_array().unwrap().len(), 1, "an ErrorInfo and no more");
    }
}
