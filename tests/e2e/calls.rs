//! Unary calls: what they do, and what they refuse.

use chat_service::pb::chat::v1::*;
use tonic::Code;
use tonic_types::StatusExt;

use crate::common::*;
use crate::on_both_stores;

on_both_stores!(a_chat_is_created_read_listed_and_deleted, a_message_is_stored_once_and_answered_alike, history_is_paged_both_ways,);

async fn a_chat_is_created_read_listed_and_deleted(on: On) {
    let server = TestServer::start(on).await;
    let (mut alice, mut bob, mut eve) = (server.client("alice").await, server.client("bob").await, server.client("eve").await);
    let create = CreateChatRequest { title: "Tea ☕".into(), member_ids: vec!["bob".into(), "bob".into()], request_id: "r1".into() };
    let chat = alice.create_chat(create.clone()).await.unwrap().into_inner().chat.unwrap();
    let roles: Vec<_> = chat.members.iter().map(|m| (m.user_id.as_str(), m.role())).collect();
    assert_eq!(roles, [("alice", ChatRole::Owner), ("bob", ChatRole::Member)]);
    assert_eq!((chat.created_by.as_str(), chat.last_sequence), ("alice", 0));

    let again = alice.create_chat(create.clone()).await.unwrap().into_inner().chat.unwrap();
    assert_eq!(again.chat_id, chat.chat_id, "a retry makes no second chat");
    let other = alice.create_chat(CreateChatRequest { title: "Coffee".into(), ..create }).await.unwrap_err();
    assert_eq!((other.code(), reason(&other)), (Code::AlreadyExists, "REQUEST_ID_TAKEN".into()));

    let seen = bob.get_chat(get_request(&chat.chat_id)).await.unwrap().into_inner().chat.unwrap();
    assert_eq!(seen, chat);
    assert_eq!(eve.get_chat(get_request(&chat.chat_id)).await.unwrap_err().code(), Code::NotFound);

    let second = new_chat(&mut alice, &[]).await;
    let first_page = alice.list_chats(ListChatsRequest { page_size: 1, page_token: String::new() }).await.unwrap().into_inner();
    assert_eq!(first_page.chats[0].chat_id, second, "the newest first");
    assert!(first_page.chats[0].members.is_empty());
    let next = ListChatsRequest { page_size: 1, page_token: first_page.next_page_token };
    let last_page = alice.list_chats(next).await.unwrap().into_inner();
    assert_eq!((last_page.chats[0].chat_id.as_str(), last_page.next_page_token.as_str()), (chat.chat_id.as_str(), ""));

    let delete = DeleteChatRequest { chat_id: chat.chat_id.clone() };
    assert_eq!(bob.delete_chat(delete.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    alice.delete_chat(delete).await.unwrap();
    assert_eq!(alice.get_chat(get_request(&chat.chat_id)).await.unwrap_err().code(), Code::NotFound);
}

async fn a_message_is_stored_once_and_answered_alike(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let first = alice.send_message(send_request(&chat, "1", "once")).await.unwrap().into_inner().message.unwrap();
    let again = alice.send_message(send_request(&chat, "1", "once")).await.unwrap().into_inner().message.unwrap();
    assert_eq!(first, again);
    let other = alice.send_message(send_request(&chat, "1", "other")).await.unwrap_err();
    assert_eq!((other.code(), reason(&other)), (Code::AlreadyExists, "CLIENT_MESSAGE_ID_TAKEN".into()));
    let next = alice.send_message(send_request(&chat, "2", "next")).await.unwrap().into_inner().message.unwrap();
    assert_eq!((first.sequence, next.sequence), (1, 2), "neither the retry nor the refused one took a number");
}

async fn history_is_paged_both_ways(on: On) {
    let server = TestServer::start(on).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    fill(&mut alice, &chat, 5).await;
    let list =
        |after_sequence, before_sequence| ListMessagesRequest { chat_id: chat.clone(), page_size: 2, after_sequence, before_sequence };
    let mut page = async |request| {
        let page = alice.list_messages(request).await.unwrap().into_inner();
        (page.messages.iter().map(|m| m.sequence).collect::<Vec<_>>(), page.has_more)
    };
    assert_eq!(page(list(None, None)).await, (vec![4, 5], true));
    assert_eq!(page(list(Some(0), None)).await, (vec![1, 2], true));
    assert_eq!(page(list(Some(3), None)).await, (vec![4, 5], false));
    assert_eq!(page(list(None, Some(4))).await, (vec![2, 3], true));
    assert_eq!(page(list(None, Some(2))).await, (vec![1], false));
    let both = alice.list_messages(list(Some(1), Some(3))).await.unwrap_err();
    assert_eq!(both.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_good_token_are_refused_and_say_why() {
    let server = TestServer::start(On::Sqlite).await;
    let channel = server.channel().await;
    let mut stranger = chat_service_client::ChatServiceClient::new(channel.clone());
    let missing = stranger.list_chats(list_request()).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing)), (Code::Unauthenticated, "TOKEN_MISSING".into()));
    let forged = with_token(channel, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.")
        .list_chats(list_request())
        .await
        .unwrap_err();
    assert_eq!((forged.code(), reason(&forged)), (Code::Unauthenticated, "TOKEN_INVALID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_name_their_fields() {
    let server = TestServer::start(On::Sqlite).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let status = alice.send_message(send_request(&chat, "", &"x".repeat(4097))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["text", "client_message_id"]);
    let huge = alice.send_message(send_request(&chat, "1", &"x".repeat(300 * 1024))).await.unwrap_err();
    assert_eq!((huge.code(), reason(&huge)), (Code::OutOfRange, "REQUEST_TOO_LARGE".into()), "above 256 KiB a request isn't read");
    alice.send_message(send_request(&chat, "1", "the server stays up")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_is_the_clients_fault_and_is_told_so() {
    let server = TestServer::start(On::Sqlite).await;
    let channel = server.channel().await;
    let mut raw = tonic::client::Grpc::new(channel);
    raw.ready().await.unwrap();
    // Field 1 as a number, where the request has a string.
    let mut request = tonic::Request::new(ListChatsRequest { page_size: 1, page_token: String::new() });
    request.metadata_mut().insert("authorization", format!("Bearer {}", mint("alice", &["user"])).parse().unwrap());
    let codec = tonic_prost::ProstCodec::<ListChatsRequest, GetChatResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/chat.v1.ChatService/GetChat");
    let refused = within(raw.unary(request, path, codec)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "MALFORMED_REQUEST".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_act_on_every_chat_and_readers_only_read() {
    let server = TestServer::start(On::Sqlite).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &["rita"]).await;
    let mut backend = server.client_as("backend", &["service"]).await;
    assert_eq!(backend.send_message(send_request(&chat, "1", "notice")).await.unwrap().into_inner().message.unwrap().sequence, 1);
    let mut rita = server.client_as("rita", &["reader"]).await;
    assert_eq!(rita.send_message(send_request(&chat, "1", "no")).await.unwrap_err().code(), Code::PermissionDenied);
    let create = CreateChatRequest { title: "no".into(), member_ids: vec![], request_id: String::new() };
    assert_eq!(rita.create_chat(create).await.unwrap_err().code(), Code::PermissionDenied);
    let mut stream = Stream::joined(&mut rita, &chat, Some(0)).await;
    assert_eq!(stream.message().await.sequence, 1);
}
