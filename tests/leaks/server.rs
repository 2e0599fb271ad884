//! A server at its most talkative, through everything that it does, well and badly.

use chat_service::pb::chat::v1::chat_service_client::ChatServiceClient;
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use crate::canaries::{Canaries, Told};
use crate::collector::Collector;
use crate::common::process::Overheard;
use crate::common::*;
use crate::on_both_stores;

on_both_stores!(a_full_run_tells_nobody_a_text_a_token_or_a_secret);

/// The same database by a URL with a password, and a parameter that nobody knows. The test's own server asks for none.
fn with_password(url: &str, password: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (user, place) = rest.split_once('@').unwrap();
    let user = user.split(':').next().unwrap();
    format!("{scheme}://{user}:{password}@{place}?sslpassword={password}")
}

fn create(title: &str) -> CreateChatRequest {
    CreateChatRequest { title: title.into(), member_ids: vec!["bob".into()], request_id: String::new() }
}

fn list(page_token: &str) -> ListChatsRequest {
    ListChatsRequest { page_size: 0, page_token: page_token.into() }
}

fn signed(secret: &str, claims: &Value) -> String {
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &jsonwebtoken::EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

async fn a_full_run_tells_nobody_a_text_a_token_or_a_secret(on: On) {
    let ground = Ground::new(on).await;
    let (mut hidden, mut told) = (Canaries::new(), Told::default());
    let url = with_password(&ground.database_url, &hidden.hide("the database's password"));
    let traces = Collector::grpc().await;
    let server = Overheard::serve_with(&ground, &url, &["--otlp-endpoint", &traces.url(), "--otlp-protocol", "grpc"]).await;
    let channel = channel(&ground, server.port).await;
    let mut alice = with_token(channel.clone(), &hidden.token("alice's token", "alice", &["user"]));

    let chat = every_call(&mut alice, &mut hidden, &mut told).await;
    every_frame(&mut alice, &chat, &mut hidden, &mut told).await;
    bad_tokens(&channel, &mut hidden, &mut told).await;
    bad_bytes(&channel, &server, &mut hidden, &mut told).await;
    failing_store(on, &ground, &mut alice, &chat, &mut hidden, &mut told).await;
    probes(&server, &mut hidden, &mut told).await;
    let said = server.stop().await;

    hidden.are_not_in(&said, "the log");
    hidden.are_not_in(&told.0, "an answer");
    let traced = traces.text();
    hidden.are_not_in(&traced, "a trace");
    assert!(traced.contains("stream.send") && traced.contains("db.message.append"), "everything was traced");
    assert!(!traced.contains("SELECT") && !traced.contains("INSERT"), "SQL is in a trace");
    for inside in ["SELECT", "INSERT", "chat_append(", "relation", "no such table", "sqlx", "sqlite", ".rs:", "/src/"] {
        assert!(!told.0.contains(inside), "{inside} is in an answer: {}", told.0);
    }
    assert!(!told.0.contains(ground.folder.path().to_str().unwrap()), "a path is in an answer");

    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no log line: {line}"))).collect();
    let is_low = |line: &Value| line["level"] == "TRACE" || line["level"] == "DEBUG";
    let is_own = |line: &Value| line["target"].as_str().unwrap().starts_with("chat_service");
    assert!(lines.iter().any(|line| is_low(line) && is_own(line)), "the log was at its most talkative");
    assert!(!lines.iter().any(|line| is_low(line) && !is_own(line)), "libraries are capped");
    assert!(said.contains("the store failed"), "failures were logged");
    if matches!(on, On::Postgres) {
        assert!(said.contains("sslpassword"), "the parameter is named without its value");
    }
}

/// Each call, well and badly. Returns a chat of alice's.
async fn every_call(alice: &mut Client, hidden: &mut Canaries, told: &mut Told) -> String {
    let (title, text) = (hidden.hide("a title"), hidden.hide("a text"));
    let chat = alice.create_chat(create(&title)).await.unwrap().into_inner().chat.unwrap().chat_id;
    alice.get_chat(get_request(&chat)).await.unwrap();
    alice.list_chats(list("")).await.unwrap();
    let carol = NewMember { user_id: "carol".into(), role: ChatRole::Member.into() };
    alice.add_members(AddMembersRequest { chat_id: chat.clone(), members: vec![carol] }).await.unwrap();
    alice.remove_member(remove_request(&chat, "carol")).await.unwrap();
    alice.send_message(send_request(&chat, "1", &text)).await.unwrap();
    alice.list_messages(history_request(&chat)).await.unwrap();
    let other = alice.create_chat(create(&title)).await.unwrap().into_inner().chat.unwrap().chat_id;
    alice.delete_chat(DeleteChatRequest { chat_id: other.clone() }).await.unwrap();

    told.refused(alice.send_message(send_request(&chat, "1", &hidden.hide("another text under the same id"))).await);
    told.refused(alice.send_message(send_request(&other, "1", &text)).await);
    told.refused(alice.send_message(send_request(&chat, "2", &format!("{text}{}", "x".repeat(4096)))).await);
    told.refused(alice.send_message(send_request(&chat, "2", &format!("{text}\0"))).await);
    told.refused(alice.send_message(send_request(&chat, "2", &text.repeat(10_000))).await);
    told.refused(alice.send_message(send_request(&text, &text.repeat(3), "hello")).await);
    told.refused(alice.create_chat(create(&title.repeat(10))).await);
    told.refused(alice.get_chat(get_request(&text)).await);
    told.refused(alice.list_chats(list(&text)).await);
    told.refused(alice.list_messages(history_request(&other)).await);
    told.refused(alice.delete_chat(DeleteChatRequest { chat_id: other.clone() }).await);
    told.refused(alice.remove_member(remove_request(&chat, &text)).await);
    let unknown_role = NewMember { user_id: text.clone(), role: 99 };
    told.refused(alice.add_members(AddMembersRequest { chat_id: chat.clone(), members: vec![unknown_role] }).await);
    chat
}

/// Each frame, well and badly.
async fn every_frame(alice: &mut Client, chat: &str, hidden: &mut Canaries, told: &mut Told) {
    let text = hidden.hide("a text by frame");
    let mut stream = Stream::joined(alice, chat, None).await;
    stream.send_text(chat, "by frame", &text);
    stream.acknowledged().await;
    stream.send(Frame::RefreshToken(RefreshTokenFrame { token: hidden.token("a refreshed token", "alice", &["user"]) }));
    loop {
        match stream.event().await {
            Event::TokenRefreshed(_) => break,
            Event::Message(_) => {}
            other => panic!("{other:?}"),
        }
    }
    stream.send(Frame::Leave(LeaveFrame { chat_id: chat.into() }));
    while !matches!(stream.event().await, Event::Left(_)) {}
    let send = |id: &str, text: &str| SendFrame { chat_id: chat.into(), client_message_id: id.into(), text: text.into() };
    for frame in [
        Frame::Send(send("by frame", &hidden.hide("another text by frame under the same id"))),
        Frame::Send(send("x", &format!("{text}\0"))),
        Frame::Send(send("x", &format!("{text}{}", "x".repeat(4096)))),
        Frame::Join(JoinFrame { chat_id: text.clone(), after_sequence: None, follow: false }),
        Frame::Join(JoinFrame { chat_id: chat.into(), after_sequence: Some(1_000_000), follow: false }),
        Frame::Leave(LeaveFrame { chat_id: text.clone() }),
        Frame::RefreshToken(RefreshTokenFrame { token: hidden.token("another user's token", "eve", &["user"]) }),
        Frame::RefreshToken(RefreshTokenFrame { token: hidden.token("a token of another kind", "alice", &["admin"]) }),
        Frame::RefreshToken(RefreshTokenFrame { token: hidden.hide("no token at all") }),
        Frame::RefreshToken(RefreshTokenFrame { token: hidden.hide("a token that is too long").repeat(1_000) }),
    ] {
        stream.send(frame);
        told.rejected(stream.event().await);
    }
}

/// Tokens that are refused.
async fn bad_tokens(channel: &Channel, hidden: &mut Canaries, told: &mut Told) {
    let now = chrono::Utc::now().timestamp();
    let claims = json!({"sub": "alice", "exp": now + 3600});
    let unsigned = hidden.token("a token without its signature", "alice", &["user"]);
    let secret = hidden.hide("the secret of another");
    let tokens = [
        hidden.hide_token("an expired token", signed(SECRET, &json!({"sub": "alice", "exp": now - 3600}))),
        hidden.hide_token("a token of another secret", signed(&secret, &claims)),
        hidden.hide_token("a token without an end", signed(SECRET, &json!({"sub": "alice", "roles": ["user"]}))),
        unsigned.rsplit_once('.').unwrap().0.to_owned(),
        hidden.hide("no token"),
        hidden.hide("a long token").repeat(500),
    ];
    for token in tokens {
        told.refused(with_token(channel.clone(), &token).list_chats(list("")).await);
    }
    for scheme in ["Basic", "Bearer:", ""] {
        let mut request = Request::new(list(""));
        let value = format!("{scheme} {}", hidden.hide("the credentials of another scheme"));
        request.metadata_mut().insert("authorization", value.trim().parse::<AsciiMetadataValue>().unwrap());
        told.refused(ChatServiceClient::new(channel.clone()).list_chats(request).await);
    }
}

/// What can't be read: a frame, a method, a protocol.
async fn bad_bytes(channel: &Channel, server: &Overheard, hidden: &mut Canaries, told: &mut Told) {
    let (token, text) = (hidden.token("a token with bad bytes", "alice", &["user"]), hidden.hide("a text in bad bytes"));
    let broken = || {
        // Its first field is a number where a frame has a message.
        let mut request = Request::new(futures_util::stream::iter([ListChatsRequest { page_size: 1, page_token: text.clone() }]));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse::<AsciiMetadataValue>().unwrap());
        request
    };
    for path in ["/chat.v1.ChatService/ConnectChat", "/chat.v1.ChatService/NoSuchMethod", "/no.such.Service/Method"] {
        let mut raw = tonic::client::Grpc::new(channel.clone());
        raw.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<ListChatsRequest, ConnectChatResponse>::default();
        let answer = raw.streaming(broken(), http::uri::PathAndQuery::from_static(path), codec).await;
        match answer {
            Ok(events) => told.refused(within(events.into_inner().message()).await),
            Err(status) => told.status(&status),
        }
    }
    let plain = format!("GET /{text} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    told.0 += &ask(server.port, plain.as_bytes()).await;
}

/// What a port answers to bytes, until it closes the connection.
async fn ask(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end too.
    drop(within(stream.read_to_end(&mut answer)).await);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A store that refuses statements, and one that is gone.
async fn failing_store(on: On, ground: &Ground, alice: &mut Client, chat: &str, hidden: &mut Canaries, told: &mut Told) {
    let text = hidden.hide("a text that can't be stored");
    let mut stream = Stream::open(alice, Frame::Leave(LeaveFrame { chat_id: chat.into() })).await;
    told.rejected(stream.event().await);
    drop_messages(on, &ground.database_url).await;
    told.refused(alice.send_message(send_request(chat, "lost", &text)).await);
    told.refused(alice.list_messages(history_request(chat)).await);
    stream.send_text(chat, "lost by frame", &text);
    told.rejected(stream.event().await);
    stream.send(join(chat, Some(0)));
    // Where a chat stands is on SQLite its newest message's: it can't be joined. On PostgreSQL it is, and then it can't be read.
    match on {
        On::Sqlite => told.rejected(stream.event().await),
        On::Postgres => told.status(&stream.end().await),
    }
    if matches!(on, On::Postgres) {
        drop_database(&ground.database_url).await;
        told.refused(alice.send_message(send_request(chat, "lost again", &text)).await);
        told.refused(alice.get_chat(get_request(chat)).await);
        told.refused(alice.create_chat(create(&hidden.hide("a title that can't be stored"))).await);
    }
}

async fn drop_messages(on: On, url: &str) {
    match on {
        On::Sqlite => {
            let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
            sqlx::query("DROP TABLE messages").execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        On::Postgres => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::query("DROP TABLE messages").execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

/// The admin port, asked for what it has and for what it hasn't.
async fn probes(server: &Overheard, hidden: &mut Canaries, told: &mut Told) {
    let token = hidden.token("a token for the admin port", "alice", &["admin"]);
    for path in ["/healthz", "/readyz", "/metrics", "/no-such-page", "/../secret"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        let answer = ask(server.admin, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
        told.0 += &answer;
    }
}
