//! Who may do what, over the API and on both stores: every RPC, by each system role, with each chat role, on oneself and on
//! others. The answers are written out in [`TABLE`], from the API's contract and not from the code that decides.

mod common;

use std::collections::BTreeMap;

use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use common::*;
use tonic::transport::Channel;
use tonic::{Code, Status};

on_both_stores!(
    creating_listing_and_reading_follow_the_table,
    sending_by_call_and_by_frame_follows_the_table,
    deleting_follows_the_table,
    leaving_follows_the_table,
    removing_others_follows_the_table,
    adding_and_setting_roles_follows_the_table,
    setting_ones_own_role_follows_the_table,
    the_last_owner_stays_whoever_asks_while_others_remain,
    a_request_that_reaches_too_high_changes_nothing,
    a_hidden_chat_looks_like_one_that_is_not_there,
    a_creator_who_was_removed_learns_nothing_by_repeating_its_request,
);

/// `+` may, `-` PERMISSION_DENIED, `?` NOT_FOUND: by the caller's role in the chat, which is owner, moderator, member, reader,
/// or none.
///
/// A token of the role `reader` only reads: it doesn't even leave. The rules of who is above whom bind chat roles;
/// whoever is trusted stands above them all.
const TABLE: [([&str; 4], &str); 10] = [
    // admin  service  user     reader
    (["+++++", "+++++", "+++++", "-----"], "create a chat"),
    (["+++++", "+++++", "+++++", "+++++"], "list own chats"),
    (["+++++", "+++++", "++++?", "++++?"], "get"),
    (["+++++", "+++++", "++++?", "++++?"], "list messages"),
    (["+++++", "+++++", "++++?", "++++?"], "connect"),
    (["+++++", "+++++", "+++-?", "----?"], "send"),
    // Trusted and no member: there is nothing to leave.
    (["++++?", "++++?", "++++?", "----?"], "leave"),
    // Add, remove, set a role, where neither the old nor the new role is above moderator …
    (["+++++", "+++++", "++--?", "----?"], "manage"),
    // … and where one of them is owner.
    (["+++++", "+++++", "+---?", "----?"], "manage an owner"),
    (["+++++", "+++++", "+---?", "----?"], "delete"),
];

const SYSTEM: [&str; 4] = ["admin", "service", "user", "reader"];
const CHAT: [ChatRole; 4] = [ChatRole::Owner, ChatRole::Moderator, ChatRole::Member, ChatRole::Reader];

/// A caller: indexes into the table's columns.
#[derive(Clone, Copy)]
struct Who {
    system: usize,
    /// The last one: no member.
    chat: usize,
}

impl Who {
    fn all() -> impl Iterator<Item = Self> {
        (0..SYSTEM.len()).flat_map(|system| (0..=CHAT.len()).map(move |chat| Self { system, chat }))
    }

    fn role(self) -> Option<ChatRole> {
        CHAT.get(self.chat).copied()
    }

    /// The user's id, which tells its roles.
    fn name(self) -> String {
        format!("{} as {}", SYSTEM[self.system], self.role().map_or("none", |role| role.as_str_name()))
    }

    /// Holds an answer against the table; returns whether it was let through.
    #[track_caller]
    fn check<T>(self, action: &str, answer: Result<T, Status>) -> bool {
        let (columns, _) = TABLE.iter().find(|(_, name)| *name == action).expect("no such line");
        let expected = columns[self.system].as_bytes()[self.chat] as char;
        let status = answer.err();
        let said = match status.as_ref().map(|status| (status.code(), reason(status))) {
            None => '+',
            Some((Code::PermissionDenied, reason)) if reason == "ROLE_TOO_LOW" => '-',
            Some((Code::NotFound, reason)) if reason == "CHAT_NOT_FOUND" || reason == "MEMBER_NOT_FOUND" => '?',
            Some(_) => '!',
        };
        assert_eq!(said, expected, "{action}, {}: {status:?}", self.name());
        said == '+'
    }
}

fn manages(old: Option<ChatRole>, new: Option<ChatRole>) -> &'static str {
    if [old, new].contains(&Some(ChatRole::Owner)) { "manage an owner" } else { "manage" }
}

/// One server and one connection for all callers.
struct World {
    _server: TestServer,
    channel: Channel,
    /// Owns each chat beside whoever else does, so that no caller is the last owner.
    root: Client,
}

type Members = BTreeMap<String, ChatRole>;

impl World {
    async fn new(on: On) -> Self {
        let server = TestServer::start(on).await;
        let channel = within(endpoint(&server.ground.path("certs/ca.pem"), server.port).connect()).await.unwrap();
        let root = with_token(channel.clone(), &mint("root", &["user"]));
        Self { _server: server, channel, root }
    }

    fn caller(&self, who: Who) -> Client {
        self.client(&who.name(), SYSTEM[who.system])
    }

    fn client(&self, name: &str, system: &str) -> Client {
        with_token(self.channel.clone(), &mint(name, &[system]))
    }

    /// A chat of root's with these callers in their roles.
    async fn chat(&mut self, callers: impl Iterator<Item = Who>) -> String {
        let chat = new_chat(&mut self.root, &[]).await;
        let members = callers.filter_map(|who| Some((who.name(), who.role()?))).collect();
        self.set(&chat, members).await;
        chat
    }

    async fn set(&mut self, chat: &str, members: Vec<(String, ChatRole)>) {
        if !members.is_empty() {
            let members: Vec<_> = members.iter().map(|(name, role)| (name.as_str(), *role)).collect();
            self.root.add_members(add(chat, &members)).await.unwrap();
        }
    }

    async fn members(&mut self, chat: &str) -> Members {
        let chat = self.root.get_chat(get(chat)).await.unwrap().into_inner().chat.unwrap();
        chat.members.iter().map(|member| (member.user_id.clone(), member.role())).collect()
    }
}

fn get(chat: &str) -> GetChatRequest {
    GetChatRequest { chat_id: chat.into() }
}

fn delete(chat: &str) -> DeleteChatRequest {
    DeleteChatRequest { chat_id: chat.into() }
}

fn add(chat: &str, members: &[(&str, ChatRole)]) -> AddMembersRequest {
    let members = members.iter().map(|(name, role)| NewMember { user_id: (*name).into(), role: (*role).into() });
    AddMembersRequest { chat_id: chat.into(), members: members.collect() }
}

fn remove(chat: &str, name: &str) -> RemoveMemberRequest {
    RemoveMemberRequest { chat_id: chat.into(), user_id: name.into() }
}

fn history(chat: &str) -> ListMessagesRequest {
    ListMessagesRequest { chat_id: chat.into(), page_size: 0, after_sequence: None, before_sequence: None }
}

fn send_frame(chat: &str, id: &str) -> Frame {
    Frame::Send(SendFrame { chat_id: chat.into(), client_message_id: id.into(), text: "hello".into() })
}

/// What the first frame of a stream is answered with.
async fn first_answer(client: &mut Client, frame: Frame) -> Result<(), Status> {
    let mut stream = Stream::open(client, frame).await;
    let answer = match stream.event().await {
        Event::Joined(_) | Event::Acknowledged(_) => Ok(()),
        Event::Rejected(rejected) => Err(refusal(&rejected)),
        other => panic!("{other:?}"),
    };
    stream.half_close();
    assert_eq!(stream.end().await.code(), Code::Ok, "a refused frame ends no stream");
    answer
}

async fn creating_listing_and_reading_follow_the_table(on: On) {
    let mut world = World::new(on).await;
    let chat = world.chat(Who::all()).await;
    world.root.send_message(send_request(&chat, "1", "hello")).await.unwrap();
    for who in Who::all() {
        let mut client = world.caller(who);
        let create = CreateChatRequest { title: "Mine".into(), member_ids: vec![], request_id: String::new() };
        who.check("create a chat", client.create_chat(create).await);
        who.check("get", client.get_chat(get(&chat)).await);
        who.check("list messages", client.list_messages(history(&chat)).await);
        who.check("connect", first_answer(&mut client, join(&chat, Some(0))).await);
        let listed = client.list_chats(ListChatsRequest { page_size: 0, page_token: String::new() }).await;
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
    let chat = world.root.get_chat(get(&chat)).await.unwrap().into_inner().chat.unwrap();
    assert_eq!(chat.last_sequence, stored, "what was refused took no number");
}

async fn deleting_follows_the_table(on: On) {
    let mut world = World::new(on).await;
    for who in Who::all() {
        let chat = world.chat(std::iter::once(who)).await;
        let deleted = who.check("delete", world.caller(who).delete_chat(delete(&chat)).await);
        assert_eq!(world.root.get_chat(get(&chat)).await.is_err(), deleted, "{}", who.name());
    }
}

async fn leaving_follows_the_table(on: On) {
    let mut world = World::new(on).await;
    let chat = world.chat(Who::all()).await;
    let mut expected = world.members(&chat).await;
    for who in Who::all() {
        if who.check("leave", world.caller(who).remove_member(remove(&chat, &who.name())).await) {
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
            if who.check(manages(Some(role), None), client.remove_member(remove(&chat, &name)).await) {
                expected.remove(&name);
            }
        }
        assert_eq!(world.members(&chat).await, expected, "{}", who.name());
        // Whoever may remove learns that the user isn't there; others learn no more than before.
        let answer = client.remove_member(remove(&chat, "nobody")).await;
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
                None if set => drop(world.root.remove_member(remove(&chat, &who.name())).await.unwrap()),
                None => {}
            }
        }
    }
}

async fn the_last_owner_stays_whoever_asks_while_others_remain(on: On) {
    let world = World::new(on).await;
    let (mut olga, mut mia) = (world.client("olga", "user"), world.client("mia", "user"));
    let chat = new_chat(&mut olga, &["mia"]).await;
    let (mut service, mut admin) = (world.client("backend", "service"), world.client("boss", "admin"));
    for client in [&mut olga, &mut service, &mut admin] {
        let removed = client.remove_member(remove(&chat, "olga")).await.map(drop);
        let demoted = client.add_members(add(&chat, &[("olga", ChatRole::Moderator)])).await.map(drop);
        for refused in [removed, demoted] {
            let status = refused.unwrap_err();
            assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "LAST_OWNER".into()));
        }
    }
    olga.add_members(add(&chat, &[("mia", ChatRole::Owner), ("olga", ChatRole::Member)])).await.expect("handed over in one request");
    olga.remove_member(remove(&chat, "olga")).await.unwrap();
    mia.remove_member(remove(&chat, "mia")).await.expect("nobody else remains");
    assert_eq!(mia.get_chat(get(&chat)).await.unwrap_err().code(), Code::NotFound);
    assert!(admin.get_chat(get(&chat)).await.unwrap().into_inner().chat.unwrap().members.is_empty());
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
        client.get_chat(get(chat)).await.map(drop),
        client.delete_chat(delete(chat)).await.map(drop),
        client.add_members(add(chat, &[("x", ChatRole::Member)])).await.map(drop),
        client.remove_member(remove(chat, "root")).await.map(drop),
        client.remove_member(remove(chat, "nobody")).await.map(drop),
        client.send_message(send_request(chat, "1", "hello")).await.map(drop),
        client.list_messages(history(chat)).await.map(drop),
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
    bob.remove_member(remove(&chat, "alice")).await.unwrap();
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
        stranger.get_chat(get(&chat)).await.map(drop),
        stranger.list_chats(ListChatsRequest { page_size: 0, page_token: String::new() }).await.map(drop),
        stranger.delete_chat(delete(&chat)).await.map(drop),
        stranger.add_members(add(&chat, &[("x", ChatRole::Member)])).await.map(drop),
        stranger.remove_member(remove(&chat, "x")).await.map(drop),
        stranger.send_message(send_request(&chat, "1", "hello")).await.map(drop),
        stranger.list_messages(history(&chat)).await.map(drop),
        stranger.connect_chat(futures_util::stream::empty::<ConnectChatRequest>()).await.map(drop),
    ];
    for refused in refused {
        let status = refused.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "TOKEN_INVALID".into()));
    }
}
