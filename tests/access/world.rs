//! A server, its callers, and what they ask.

use std::collections::BTreeMap;

use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::common::*;
use crate::table::{SYSTEM, Who};

/// One server and one connection for all callers.
pub struct World {
    _server: TestServer,
    pub channel: Channel,
    /// Owns each chat beside whoever else does, so that no caller is the last owner.
    pub root: Client,
}

pub type Members = BTreeMap<String, ChatRole>;

impl World {
    pub async fn new(on: On) -> Self {
        let server = TestServer::start(on).await;
        let channel = server.channel().await;
        let root = with_token(channel.clone(), &mint("root", &["user"]));
        Self { _server: server, channel, root }
    }

    pub fn caller(&self, who: Who) -> Client {
        self.client(&who.name(), SYSTEM[who.system])
    }

    pub fn client(&self, name: &str, system: &str) -> Client {
        with_token(self.channel.clone(), &mint(name, &[system]))
    }

    /// A chat of root's with these callers in their roles.
    pub async fn chat(&mut self, callers: impl Iterator<Item = Who>) -> String {
        let chat = new_chat(&mut self.root, &[]).await;
        let members = callers.filter_map(|who| Some((who.name(), who.role()?))).collect();
        self.set(&chat, members).await;
        chat
    }

    pub async fn set(&mut self, chat: &str, members: Vec<(String, ChatRole)>) {
        if !members.is_empty() {
            let members: Vec<_> = members.iter().map(|(name, role)| (name.as_str(), *role)).collect();
            self.root.add_members(add(chat, &members)).await.unwrap();
        }
    }

    pub async fn members(&mut self, chat: &str) -> Members {
        let chat = self.root.get_chat(get_request(chat)).await.unwrap().into_inner().chat.unwrap();
        chat.members.iter().map(|member| (member.user_id.clone(), member.role())).collect()
    }
}

pub fn delete(chat: &str) -> DeleteChatRequest {
    DeleteChatRequest { chat_id: chat.into() }
}

pub fn add(chat: &str, members: &[(&str, ChatRole)]) -> AddMembersRequest {
    let members = members.iter().map(|(name, role)| NewMember { user_id: (*name).into(), role: (*role).into() });
    AddMembersRequest { chat_id: chat.into(), members: members.collect() }
}

pub fn send_frame(chat: &str, id: &str) -> Frame {
    Frame::Send(SendFrame { chat_id: chat.into(), client_message_id: id.into(), text: "hello".into() })
}

/// What the first frame of a stream is answered with.
pub async fn first_answer(client: &mut Client, frame: Frame) -> Result<(), Status> {
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
