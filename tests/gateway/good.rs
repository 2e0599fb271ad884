//! Requests that are right, and their answers to the letter.

use serde_json::{Value, json};

use crate::common::*;
use crate::http1::*;
use crate::on_both_stores;

/// Times, which must be RFC 3339, as "TIME".
fn timeless(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| match &value {
                    Value::String(text) if name.ends_with("At") => {
                        assert!(text.ends_with('Z') && text.parse::<prost_types::Timestamp>().is_ok(), "{text}");
                        (name, json!("TIME"))
                    }
                    _ => (name, timeless(value)),
                })
                .collect(),
        ),
        Value::Array(items) => items.into_iter().map(timeless).collect(),
        other => other,
    }
}

on_both_stores!(a_chat_lives_its_whole_life_by_rest);

async fn a_chat_lives_its_whole_life_by_rest(on: On) {
    let server = TestServer::start(on).await;
    let (alice, bob) = (Caller::new(&server, "alice"), Caller::new(&server, "bob"));

    let created = alice.post("/v1/chats", r#"{"title":"Tea","memberIds":["bob"],"requestId":"r1"}"#).await.ok();
    let id = created["chat"]["chatId"].as_str().unwrap().to_owned();
    assert!(uuid::Uuid::try_parse(&id).is_ok());
    let member = |user: &str, role: &str| json!({ "userId": user, "role": format!("CHAT_ROLE_{role}"), "joinedAt": "TIME" });
    let chat = |members: Value, last: &str| json!({ "chatId": id, "title": "Tea", "members": members, "lastSequence": last, "createdBy": "alice", "createdAt": "TIME" });
    let both = json!([member("alice", "OWNER"), member("bob", "MEMBER")]);
    assert_eq!(timeless(created.clone()), json!({ "chat": chat(both.clone(), "0") }));
    let again = alice.post("/v1/chats", r#"{"title":"Tea","memberIds":["bob"],"requestId":"r1"}"#).await.ok();
    assert_eq!(again, created, "a retry");

    let messages = format!("/v1/chats/{id}/messages");
    assert_eq!(alice.get(&messages).await.ok(), json!({ "messages": [], "hasMore": false }));
    let sent = bob.post(&messages, r#"{"text":"hello","clientMessageId":"1"}"#).await.ok();
    let message = |sequence: &str, text: &str| json!({ "chatId": id, "sequence": sequence, "senderId": "bob", "clientMessageId": sequence, "createdAt": "TIME", "text": text });
    assert_eq!(timeless(sent.clone()), json!({ "message": message("1", "hello") }));
    assert_eq!(bob.post(&messages, r#"{"text":"hello","clientMessageId":"1"}"#).await.ok(), sent, "a retry");
    bob.post(&messages, r#"{"text":"\u8a9e \ud83d\ude00","clientMessageId":"2"}"#).await.ok();

    let pages: [(&str, &[&str], bool); 5] = [
        ("", &["1", "2"], false),
        ("?page_size=1", &["2"], true),
        ("?pageSize=1&afterSequence=0", &["1"], true),
        ("?before_sequence=2", &["1"], false),
        ("?after_sequence=2", &[], false),
    ];
    for (query, sequences, has_more) in pages {
        let page = alice.get(&format!("{messages}{query}")).await.ok();
        let listed: Vec<&str> = page["messages"].as_array().unwrap().iter().map(|message| message["sequence"].as_str().unwrap()).collect();
        assert_eq!((listed.as_slice(), &page["hasMore"]), (sequences, &json!(has_more)), "{query}");
    }
    let page = timeless(alice.get(&messages).await.ok());
    assert_eq!(page["messages"][1], message("2", "語 😀"));

    let raised =
        alice.post(&format!("/v1/chats/{id}/members"), r#"{"members":[{"userId":"bob","role":"CHAT_ROLE_MODERATOR"}]}"#).await.ok();
    let both = json!([member("alice", "OWNER"), member("bob", "MODERATOR")]);
    assert_eq!(timeless(raised), json!({ "chat": chat(both.clone(), "2") }));
    assert_eq!(timeless(bob.get(&format!("/v1/chats/{id}")).await.ok()), json!({ "chat": chat(both, "2") }));
    let listed = timeless(bob.get("/v1/chats").await.ok());
    assert_eq!(listed, json!({ "chats": [chat(json!([]), "2")], "nextPageToken": "" }), "without members");

    assert_eq!(alice.delete(&format!("/v1/chats/{id}/members/bob")).await.ok(), json!({}));
    assert_eq!(bob.get(&format!("/v1/chats/{id}")).await.code(), 404);
    assert_eq!(alice.delete(&format!("/v1/chats/{id}")).await.ok(), json!({}));
    assert_eq!(alice.get("/v1/chats").await.ok(), json!({ "chats": [], "nextPageToken": "" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_token_leads_to_the_next_page() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    let (first, second) = (alice.new_chat(&[]).await, alice.new_chat(&[]).await);
    let page = alice.get("/v1/chats?page_size=1").await.ok();
    assert_eq!(page["chats"][0]["chatId"], second.as_str(), "the newest");
    let token = page["nextPageToken"].as_str().unwrap();
    let page = alice.get(&format!("/v1/chats?pageSize=1&pageToken={token}")).await.ok();
    assert_eq!(page["chats"][0]["chatId"], first.as_str());
}

/// Spellings that mean the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_may_be_written_in_each_way_that_proto3_json_has() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    for body in [
        r#"{"title":"Tea","member_ids":["bob"]}"#,
        r#"{"memberIds":["bob","bob"],"title":"Tea","requestId":null}"#,
        "\n\t {\"title\" : \"\\u0054ea\", \"request_id\":\"\", \"memberIds\":[\"bob\"] } \r\n",
    ] {
        let chat = &alice.post("/v1/chats", body).await.ok()["chat"];
        assert_eq!((&chat["title"], chat["members"].as_array().unwrap().len()), (&json!("Tea"), 2), "{body}");
    }
    let chat = alice.new_chat(&[]).await;
    for role in ["\"CHAT_ROLE_READER\"", "4", "4.0"] {
        let body = format!(r#"{{"members":[{{"user_id":"bob","role":{role}}}]}}"#);
        let changed = alice.post(&format!("/v1/chats/{chat}/members"), body).await.ok();
        assert_eq!(changed["chat"]["members"][1]["role"], "CHAT_ROLE_READER", "{role}");
    }
    let typed: [&[(&str, &str)]; 3] =
        [&[], &[("content-type", "application/json; charset=UTF-8")], &[("content-type", "APPLICATION/JSON")]];
    for headers in typed {
        let answer = alice.send("POST", "/v1/chats", headers, r#"{"title":"x"}"#).await;
        assert_eq!(answer.code(), 200, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_of_the_path_counts_whatever_the_body_says() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    let (chat, other) = (alice.new_chat(&[]).await, alice.new_chat(&[]).await);
    let body = json!({ "chatId": other, "text": "x", "clientMessageId": "1" }).to_string();
    let sent = alice.post(&format!("/v1/chats/{chat}/messages"), body).await.ok();
    assert_eq!(sent["message"]["chatId"], chat.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_in_a_path_may_hold_anything_percent_encoded() {
    let server = started(&[]).await;
    let alice = Caller::new(&server, "alice");
    let chat = alice.new_chat(&["a/b c+d%", "語"]).await;
    for id in ["a%2Fb%20c+d%25", "%E8%AA%9E"] {
        assert_eq!(alice.delete(&format!("/v1/chats/{chat}/members/{id}")).await.ok(), json!({}), "{id}");
    }
    let encoded: String = chat.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let found = alice.get(&format!("/v1/chats/{encoded}")).await.ok();
    assert_eq!(found["chat"]["members"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_and_a_body_where_none_is_read_make_no_difference() {
    let server = started(&[]).await;
    let token = format!("Bearer {}", mint("alice", &["user"]));
    let headers = [("authorization", token.as_str()), ("content-type", "text/plain")];
    let answer = send_h2(&server, request("GET", "https://localhost/v1/chats", &headers[..1], "")).await;
    assert_eq!(answer.ok(), json!({ "chats": [], "nextPageToken": "" }));
    let answer = send(&server, request("GET", "/v1/chats", &headers, "not JSON")).await;
    assert_eq!(answer.code(), 200, "a body without a meaning");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_not_to_be_kept_and_are_what_they_say() {
    let server = started(&[]).await;
    let answer = Caller::new(&server, "alice").send("GET", "/v1/chats", &[("x-request-id", "abc-1")], "").await;
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-request-id"), "abc-1");
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("grpc")), "{:?}", answer.headers);
}
