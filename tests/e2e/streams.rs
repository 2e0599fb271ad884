//! ConnectChat: order, resuming, settling, access, and how streams end.

use std::time::Duration;

use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use chat_service::transport::session::outbox;
use tonic::Code;
use tonic_types::StatusExt;

use crate::common::*;
use crate::on_both_stores;

on_both_stores!(
    members_come_and_go_and_their_streams_with_them,
    two_people_see_one_order_in_every_script,
    a_stream_resumes_behind_what_it_has_seen,
    sends_are_pipelined_and_acknowledged_in_order,
    a_refused_frame_leaves_the_stream_alive,
    half_close_delivers_history_and_ends,
    one_stream_carries_many_chats,
    a_reader_that_stalls_for_ten_thousand_messages_gets_them_all_in_bounded_memory,
    a_client_that_vanishes_leaves_nothing_behind,
    a_stop_settles_what_is_in_flight,
);

fn rejected_code(rejected: &RejectedEvent) -> Code {
    Code::from_i32(rejected.status.as_ref().unwrap().code)
}

async fn members_come_and_go_and_their_streams_with_them(on: On) {
    let server = TestServer::start(on).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stream = Stream::joined(&mut bob, &chat, None).await;
    let member = |user_id: &str, role: ChatRole| NewMember { user_id: user_id.into(), role: role.into() };
    let add = |members| AddMembersRequest { chat_id: chat.clone(), members };
    assert_eq!(bob.add_members(add(vec![member("carol", ChatRole::Member)])).await.unwrap_err().code(), Code::PermissionDenied);
    let changed = alice.add_members(add(vec![member("bob", ChatRole::Reader)])).await.unwrap().into_inner().chat.unwrap();
    assert_eq!(changed.members.iter().find(|m| m.user_id == "bob").unwrap().role(), ChatRole::Reader);
    assert_eq!(bob.send_message(send_request(&chat, "1", "hi")).await.unwrap_err().code(), Code::PermissionDenied);
    let last_owner = alice.remove_member(remove_request(&chat, "alice")).await.unwrap_err();
    assert_eq!((last_owner.code(), reason(&last_owner)), (Code::FailedPrecondition, "LAST_OWNER".into()));

    alice.remove_member(remove_request(&chat, "bob")).await.unwrap();
    match stream.event().await {
        Event::Left(left) => assert_eq!((left.chat_id.as_str(), left.reason()), (chat.as_str(), LeftReason::Removed)),
        other => panic!("{other:?}"),
    }
    alice.send_message(send_request(&chat, "1", "without bob")).await.unwrap();
    stream.send(join(&chat, None));
    assert_eq!(rejected_code(&stream.rejected().await), Code::NotFound, "and nothing was delivered before");

    alice.add_members(add(vec![member("bob", ChatRole::Member)])).await.unwrap();
    stream.send(join(&chat, None));
    assert!(matches!(stream.event().await, Event::Joined(_)));
    alice.delete_chat(DeleteChatRequest { chat_id: chat.clone() }).await.unwrap();
    match stream.event().await {
        Event::Left(left) => assert_eq!(left.reason(), LeftReason::Deleted),
        other => panic!("{other:?}"),
    }
}

async fn two_people_see_one_order_in_every_script(on: On) {
    let server = TestServer::start(on).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let (mut a, mut b) = (Stream::joined(&mut alice, &chat, None).await, Stream::joined(&mut bob, &chat, None).await);
    let texts = ["Привет", "你好，世界", "👩‍👩‍👧‍👦 🏳️‍🌈", "שלום مرحبا", "plain", "e\u{301} \u{202e}x"];
    for (number, text) in texts.iter().enumerate() {
        let sender = if number % 2 == 0 { &a } else { &b };
        sender.send_text(&chat, &number.to_string(), text);
    }
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    for _ in texts {
        at_a.push(a.message().await);
        at_b.push(b.message().await);
    }
    assert_eq!(at_a, at_b);
    assert_eq!(at_a.iter().map(|m| m.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let mut sent: Vec<&str> = at_a.iter().map(text_of).collect();
    sent.sort_unstable();
    let mut expected = texts.to_vec();
    expected.sort_unstable();
    assert_eq!(sent, expected);
    assert!(at_a.is_sorted_by_key(|m| m.created_at.map(|t| (t.seconds, t.nanos))));
}

async fn a_stream_resumes_behind_what_it_has_seen(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    fill(&mut alice, &chat, 300).await;
    let mut stream = Stream::joined(&mut alice, &chat, Some(2)).await;
    alice.send_message(send_request(&chat, "live", "x")).await.unwrap();
    for sequence in 3..=301 {
        assert_eq!(stream.message().await.sequence, sequence);
    }
    stream.send(Frame::Leave(LeaveFrame { chat_id: chat.clone() }));
    assert!(matches!(stream.event().await, Event::Left(_)));
    stream.send(join(&chat, Some(302)));
    let ahead = stream.rejected().await;
    assert_eq!(rejected_code(&ahead), Code::OutOfRange);
}

async fn sends_are_pipelined_and_acknowledged_in_order(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let first = Frame::Send(SendFrame { chat_id: chat.clone(), client_message_id: "0".into(), text: "0".into() });
    let mut stream = Stream::open(&mut alice, first).await;
    // Beyond the window of 256, without reading: the server reads on as it settles.
    for number in 1..1000 {
        stream.send_text(&chat, &number.to_string(), &number.to_string());
    }
    for number in 0..1000 {
        let acknowledged = stream.acknowledged().await;
        assert_eq!((acknowledged.client_message_id, acknowledged.sequence), (number.to_string(), number + 1));
    }
}

async fn a_refused_frame_leaves_the_stream_alive(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    stream.send_text(&chat, "1", " \n ");
    let blank = stream.rejected().await;
    assert_eq!((blank.frame(), rejected_code(&blank), blank.client_message_id.as_str()), (FrameKind::Send, Code::InvalidArgument, "1"));
    stream.send_text(&chat, "1", "nul \0");
    assert_eq!(rejected_code(&stream.rejected().await), Code::InvalidArgument);
    stream.send_text(&uuid::Uuid::now_v7().to_string(), "1", "to nobody");
    assert_eq!(rejected_code(&stream.rejected().await), Code::NotFound);
    stream.send(join(&chat, None));
    let joined = stream.rejected().await;
    assert_eq!((joined.frame(), rejected_code(&joined)), (FrameKind::Join, Code::AlreadyExists));
    stream.send(join(&chat, Some(-1)));
    assert_eq!(rejected_code(&stream.rejected().await), Code::InvalidArgument);
    stream.send(Frame::RefreshToken(RefreshTokenFrame { token: mint("bob", &["user"]) }));
    let foreign = stream.rejected().await;
    assert_eq!((foreign.frame(), rejected_code(&foreign)), (FrameKind::RefreshToken, Code::PermissionDenied));
    stream.send(Frame::RefreshToken(RefreshTokenFrame { token: mint("alice", &["user"]) }));
    assert!(matches!(stream.event().await, Event::TokenRefreshed(_)));
    stream.send_text(&chat, "1", "still here");
    assert_eq!(stream.acknowledged().await.sequence, 1);
}

async fn half_close_delivers_history_and_ends(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    fill(&mut alice, &chat, 3).await;
    let mut stream = Stream::open(&mut alice, join(&chat, Some(0))).await;
    stream.send_text(&chat, "4", "the last");
    stream.half_close();
    let (mut sequences, mut acknowledged) = (Vec::new(), 0);
    while let Some(response) = stream.next().await.unwrap() {
        match response.event.unwrap() {
            Event::Message(message) => sequences.push(message.sequence),
            Event::Acknowledged(_) => acknowledged += 1,
            _ => {}
        }
    }
    assert_eq!((sequences, acknowledged), (vec![1, 2, 3, 4], 1));
}

async fn one_stream_carries_many_chats(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let mut chats = Vec::new();
    for _ in 0..129 {
        chats.push(new_chat(&mut alice, &[]).await);
    }
    let mut stream = Stream::joined(&mut alice, &chats[0], None).await;
    for chat in &chats[1..] {
        stream.send(join(chat, None));
    }
    for _ in 1..128 {
        assert!(matches!(stream.event().await, Event::Joined(_)));
    }
    let one_too_many = refusal(&stream.rejected().await);
    assert_eq!((one_too_many.code(), reason(&one_too_many)), (Code::ResourceExhausted, "TOO_MANY_CHATS".into()), "the 129th");
    assert!(one_too_many.get_error_details().retry_info().is_some(), "and it says when to try again");
    for chat in &chats[..128] {
        alice.send_message(send_request(chat, "1", "x")).await.unwrap();
    }
    let mut from: Vec<String> = Vec::new();
    for _ in 0..128 {
        from.push(stream.message().await.chat_id);
    }
    from.sort_unstable();
    let mut expected = chats[..128].to_vec();
    expected.sort_unstable();
    assert_eq!(from, expected);
}

async fn a_reader_that_stalls_for_ten_thousand_messages_gets_them_all_in_bounded_memory(on: On) {
    const MESSAGES: i64 = 10_000;
    let server = TestServer::start(on).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let chat = new_chat(&mut alice, &["bob"]).await;
    let mut stalled = Stream::joined(&mut bob, &chat, None).await;
    let first = Frame::Send(SendFrame { chat_id: chat.clone(), client_message_id: "1".into(), text: "x".repeat(500) });
    let mut sender = Stream::open(&mut alice, first).await;
    for number in 2..=MESSAGES {
        sender.send_text(&chat, &number.to_string(), &"x".repeat(500));
    }
    for _ in 0..MESSAGES {
        sender.acknowledged().await;
    }
    for sequence in 1..=MESSAGES {
        assert_eq!(stalled.message().await.sequence, sequence);
    }
    // What waits, a page on top of it, and the largest event.
    let bound = outbox::HIGH_WATER_BYTES + 64 * 1024 + 32 * 1024;
    assert!(outbox::peak_bytes() >= outbox::HIGH_WATER_BYTES, "the reader did stall");
    assert!(outbox::peak_bytes() <= bound, "{} bytes were held for a stream", outbox::peak_bytes());
}

async fn a_client_that_vanishes_leaves_nothing_behind(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(Stream::joined(&mut server.client("alice").await, &chat, Some(0)).await);
    }
    assert_eq!(server.registry.subscription_count(), 20);
    drop(streams);
    until("every subscription is gone", || server.registry.subscription_count() == 0).await;
    assert!(server.registry.chats().is_empty());
}

async fn a_stop_settles_what_is_in_flight(on: On) {
    let server = TestServer::start(on).await;
    let ground = server.ground.clone();
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    for number in 0..100 {
        stream.send_text(&chat, &number.to_string(), "x");
    }
    stream.acknowledged().await;
    server.begin_stop();
    let (mut acknowledged, mut told) = (1, false);
    let end = loop {
        match stream.next().await {
            Ok(Some(response)) => match response.event.unwrap() {
                Event::Acknowledged(_) => acknowledged += 1,
                Event::GoingAway(_) => told = true,
                _ => {}
            },
            Ok(None) => panic!("a stop ends streams with a reason"),
            Err(status) => break status,
        }
    };
    assert!(told);
    assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "GOING_AWAY".into()));
    server.stopped().await;

    let server = TestServer::start_on(ground, &[]).await;
    let mut alice = server.client("alice").await;
    let stored = alice.get_chat(get_request(&chat)).await.unwrap().into_inner().chat.unwrap().last_sequence;
    assert_eq!(stored, acknowledged, "what was stored was acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let server = started(&["--auth-leeway", "0s"]).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut brief = client(&server.ground, server.port, &mint_for("alice", &["user"], Duration::from_secs(2))).await;
    let mut stream = Stream::joined(&mut brief, &chat, None).await;
    let end = stream.end().await;
    assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_frame_ends_its_stream_and_nothing_else() {
    let server = TestServer::start(On::Sqlite).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut healthy = Stream::joined(&mut alice, &chat, None).await;
    let channel = server.channel().await;
    let mut raw = tonic::client::Grpc::new(channel);
    raw.ready().await.unwrap();
    // Field 1 as a number, where a frame has a message.
    let broken = futures_util::stream::iter([ListChatsRequest { page_size: 1, page_token: String::new() }]);
    let mut request = tonic::Request::new(broken);
    request.metadata_mut().insert("authorization", format!("Bearer {}", mint("alice", &["user"])).parse().unwrap());
    let codec = tonic_prost::ProstCodec::<ListChatsRequest, ConnectChatResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/chat.v1.ChatService/ConnectChat");
    let mut events = raw.streaming(request, path, codec).await.unwrap().into_inner();
    let end = within(events.message()).await.unwrap_err();
    assert_eq!((end.code(), reason(&end)), (Code::InvalidArgument, "MALFORMED_FRAME".into()));
    healthy.send_text(&chat, "1", "still here");
    assert_eq!(healthy.acknowledged().await.sequence, 1);
}
