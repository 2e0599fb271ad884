//! What the table doesn't say: the last owner, requests that are refused as a whole, what a refusal gives away.

use chat_service::pb::chat::v1::*;
use tonic::Code;

use crate::common::*;
use crate::on_both_stores;
use crate::table::{SYSTEM, Who};
use crate::world::{World, add, delete, first_answer, send_frame};

on_both_stores!(
    the_last_owner_stays_whoever_asks_while_others_remain,
    a_request_that_reaches_too_high_changes_nothing,
    a_hidden_chat_looks_like_one_that_is_not_there,
    a_creator_who_was_removed_learns_nothing_by_repeating_its_request,
);

async fn the_last_owner_stays_whoever_asks_while_others_remain(on: On) {
    let world = World::new(on).await;
    let (mut olga, mut mia) = (world.client("olga", "user"), world.client("mia", "user"));
    let chat = new_chat(&mut olga, &["mia"]).await;
    let (mut service, mut admin) = (world.client("backend", "service"), world.client("boss", "admin"));
    for client in [&mut olga, &mut service, &mut admin] {
        let removed = client.remove_member(remove_request(&chat, "olga")).await.map(drop);
        let demoted = client.add_members(add(&chat, &[("olga", ChatRole::Moderator)])).await.map(drop);
        for refused in [removed, demoted] {
            let status = refused.unwrap_err();
            assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "LAST_OWNER".into()));
        }
    }
    olga.add_members(add(&chat, &[("mia", ChatRole::Owner), ("olga", ChatRole::Member)])).await.expect("handed over in one request");
    olga.remove_member(remove_request(&chat, "olga")).await.unwrap();
    mia.remove_member(remove_request(&chat, "mia")).await.expect("nobody else remains");
    assert_eq!(mia.get_chat(get_request(&chat)).await.unwrap_err().code(), Code::NotFound);
    assert!(admin.get_chat(get_request(&chat)).await.unwrap().into_inner().chat.unwrap().members.is_empty());
}

async fn a_request_that_reaches_too_high_changes_nothing(on: On) {
    let mut world = World::new(on).await;
    let who = Who { system: 2, chat: 1 };
    let chat = world.chat(std::iter::once(who)).await;
    let before = world.members(&chat).await;
    let both = add(&chat, &[("x", ChatRole::Member), ("y", ChatRole::Owner)]);
    assert!(!who.check("manage an owner", world.caller(who).add_members(both).await));
    assert_eq!(world.members(&chat).await, before);
    // Of a user who is named twice the last role counts: the first one, which would be refused, isn't asked for.
    let twice = add(&chat, &[("x", ChatRole::Owner), ("x", ChatRole::Reader)]);
    assert!(who.check("manage", world.caller(who).add_members(twice).await));
    assert_eq!(world.members(&chat).await.get("x"), Some(&ChatRole::Reader));
}

/// Everything that a caller can be told of a chat that it may not know of.
async fn told_of(client: &mut Client, chat: &str) -> Vec<(Code, String, Vec<u8>)> {
    let refused = [
        client.get_chat(get_request(chat)).await.map(drop),
        client.delete_chat(delete(chat)).await.map(drop),
        client.add_members(add(chat, &[("x", ChatRole::Member)])).await.map(drop),
        client.remove_member(remove_request(chat, "root")).await.map(drop),
        client.remove_member(remove_request(chat, "nobody")).await.map(drop),
        client.send_message(send_request(chat, "1", "hello")).await.map(drop),
        client.list_messages(history_request(chat)).await.map(drop),
        first_answer(client, join(chat, None)).await,
        first_answer(client, join(chat, Some(0))).await,
        first_answer(client, join(chat, Some(99))).await,
        first_answer(client, send_frame(chat, "1")).await,
    ];
    refused
        .into_iter()
        .map(|refused| {
            let status = refused.unwrap_err();
            (status.code(), status.message().to_owned(), status.details().to_vec())
        })
        .collect()
}

async fn a_hidden_chat_looks_like_one_that_is_not_there(on: On) {
    let mut world = World::new(on).await;
    let hidden = world.chat(std::iter::empty()).await;
    let deleted = world.chat(Who::all()).await;
    world.root.delete_chat(delete(&deleted)).await.unwrap();
    let nowhere = uuid::Uuid::now_v7().to_string();
    for who in Who::all() {
        let mut client = world.caller(who);
        let unknown = told_of(&mut client, &nowhere).await;
        assert!(unknown.iter().all(|(code, ..)| *code == Code::NotFound), "{}: {unknown:?}", who.name());
        assert_eq!(told_of(&mut client, &deleted).await, unknown, "{}", who.name());
        // Trusted roles may know of it.
        if SYSTEM[who.system] == "user" || SYSTEM[who.system] == "reader" {
            assert_eq!(told_of(&mut client, &hidden).await, unknown, "{}", who.name());
        }
    }
}

async fn a_creator_who_was_removed_learns_nothing_by_repeating_its_request(on: On) {
    let world = World::new(on).await;
    let (mut alice, mut bob) = (world.client("alice", "user"), world.client("bob", "user"));
    let create = CreateChatRequest { title: "Tea".into(), member_ids: vec!["bob".into()], request_id: "1".into() };
    let chat = alice.create_chat(create.clone()).await.unwrap().into_inner().chat.unwrap().chat_id;
    alice.add_members(add(&chat, &[("bob", ChatRole::Owner)])).await.unwrap();
    bob.remove_member(remove_request(&chat, "alice")).await.unwrap();
    let refused = alice.create_chat(create).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::NotFound, "CHAT_NOT_FOUND".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_needs_a_good_token() {
    let world = World::new(On::Sqlite).await;
    let chat = uuid::Uuid::now_v7().to_string();
    let mut stranger = with_token(world.channel.clone(), "no.good.token");
    let create = CreateChatRequest { title: "no".into(), member_ids: vec![], request_id: String::new() };
    let refused = [
        stranger.create_chat(create).await.map(drop),
        stranger.get_chat(get_request(&chat)).await.map(drop),
        stranger.list_chats(list_request()).await.map(drop),
        stranger.delete_chat(delete(&chat)).await.map(drop),
        stranger.add_members(add(&chat, &[("x", ChatRole::Member)])).await.map(drop),
        stranger.remove_member(remove_request(&chat, "x")).await.map(drop),
        stranger.send_message(send_request(&chat, "1", "hello")).await.map(drop),
        stranger.list_messages(history_request(&chat)).await.map(drop),
        stranger.connect_chat(futures_util::stream::empty::<ConnectChatRequest>()).await.map(drop),
    ];
    for refused in refused {
        let status = refused.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "TOKEN_INVALID".into()));
    }
}
