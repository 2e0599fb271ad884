//! Every RPC, by everyone, against the table.

use chat_service::pb::chat::v1::*;

use crate::common::*;
use crate::on_both_stores;
use crate::table::{CHAT, Who, manages};
use crate::world::{World, add, delete, first_answer, send_frame};

on_both_stores!(
    creating_listing_and_reading_follow_the_table,
    sending_by_call_and_by_frame_follows_the_table,
    deleting_follows_the_table,
    leaving_follows_the_table,
    removing_others_follows_the_table,
    adding_and_setting_roles_follows_the_table,
    setting_ones_own_role_follows_the_table,
);

async fn creating_listing_and_reading_follow_the_table(on: On) {
    let mut world = World::new(on).await;
    let chat = world.chat(Who::all()).await;
    world.root.send_message(send_request(&chat, "1", "hello")).await.unwrap();
    for who in Who::all() {
        let mut client = world.caller(who);
        let create = CreateChatRequest { title: "Mine".into(), member_ids: vec![], request_id: String::new() };
        who.check("create a chat", client.create_chat(create).await);
        who.check("get", client.get_chat(get_request(&chat)).await);
        who.check("list messages", client.list_messages(history_request(&chat)).await);
        who.check("connect", first_answer(&mut client, join(&chat, Some(0))).await);
        let listed = client.list_chats(list_request()).await;
        if let Ok(chats) = &listed {
            let there = chats.get_ref().chats.iter().any(|listed| listed.chat_id == chat);
            assert_eq!(there, who.role().is_some(), "{} lists the chats that it is a member of", who.name());
        }
        who.check("list own chats", listed);
    }
}

async fn sending_by_call_and_by_frame_follows_the_table(on: On) {
    let mut world = World::new(on).await;
    let chat = world.chat(Who::all()).await;
    let mut stored = 0;
    for who in Who::all() {
        let mut client = world.caller(who);
        stored += i64::from(who.check("send", client.send_message(send_request(&chat, "by call", "hello")).await));
        stored += i64::from(who.check("send", first_answer(&mut client, send_frame(&chat, "by frame")).await));
    }
    let chat = world.root.get_chat(get_request(&chat)).await.unwrap().into_inner().chat.unwrap();
    assert_eq!(chat.last_sequence, stored, "what was refused took no number");
}

async fn deleting_follows_the_table(on: On) {
    let mut world = World::new(on).await;
    for who in Who::all() {
        let chat = world.chat(std::iter::once(who)).await;
        let deleted = who.check("delete", world.caller(who).delete_chat(delete(&chat)).await);
        assert_eq!(world.root.get_chat(get_request(&chat)).await.is_err(), deleted, "{}", who.name());
    }
}

async fn leaving_follows_the_table(on: On) {
    let mut world = World::new(on).await;
    let chat = world.chat(Who::all()).await;
    let mut expected = world.members(&chat).await;
    for who in Who::all() {
        if who.check("leave", world.caller(who).remove_member(remove_request(&chat, &who.name())).await) {
            expected.remove(&who.name());
        }
    }
    assert_eq!(world.members(&chat).await, expected);
}

/// A member of each role, for callers to change.
fn targets() -> Vec<(String, ChatRole)> {
    CHAT.iter().map(|role| (format!("target {}", role.as_str_name()), *role)).collect()
}

async fn removing_others_follows_the_table(on: On) {
    let mut world = World::new(on).await;
    let chat = world.chat(Who::all()).await;
    for who in Who::all() {
        world.set(&chat, targets()).await;
        let mut expected = world.members(&chat).await;
        let mut client = world.caller(who);
        for (name, role) in targets() {
            if who.check(manages(Some(role), None), client.remove_member(remove_request(&chat, &name)).await) {
                expected.remove(&name);
            }
        }
        assert_eq!(world.members(&chat).await, expected, "{}", who.name());
        // Whoever may remove learns that the user isn't there; others learn no more than before.
        let answer = client.remove_member(remove_request(&chat, "nobody")).await;
        match answer.as_ref().err().map(reason).as_deref() {
            Some("MEMBER_NOT_FOUND") => assert!(who.check("manage", Ok(()))),
            _ => assert!(!who.check("manage", answer)),
        }
    }
}

async fn adding_and_setting_roles_follows_the_table(on: On) {
    let mut world = World::new(on).await;
    let chat = world.chat(Who::all()).await;
    for who in Who::all() {
        let mut client = world.caller(who);
        for new in CHAT {
            world.set(&chat, targets()).await;
            let mut expected = world.members(&chat).await;
            let newcomer = (format!("new {} by {}", new.as_str_name(), who.name()), None);
            let existing = targets().into_iter().map(|(name, role)| (name, Some(role)));
            for (name, old) in existing.chain([newcomer]) {
                if who.check(manages(old, Some(new)), client.add_members(add(&chat, &[(name.as_str(), new)])).await) {
                    expected.insert(name, new);
                }
            }
            assert_eq!(world.members(&chat).await, expected, "{}", who.name());
        }
    }
}

async fn setting_ones_own_role_follows_the_table(on: On) {
    let mut world = World::new(on).await;
    for who in Who::all() {
        let chat = world.chat(std::iter::once(who)).await;
        let mut client = world.caller(who);
        for new in CHAT {
            let set = who.check(manages(who.role(), Some(new)), client.add_members(add(&chat, &[(who.name().as_str(), new)])).await);
            let now = world.members(&chat).await.get(&who.name()).copied();
            assert_eq!(now, if set { Some(new) } else { who.role() }, "{}", who.name());
            match who.role() {
                Some(role) => world.set(&chat, vec![(who.name(), role)]).await,
                None if set => drop(world.root.remove_member(remove_request(&chat, &who.name())).await.unwrap()),
                None => {}
            }
        }
    }
}
