//! Who may do what, as the API's contract says it.

use chat_service::pb::chat::v1::ChatRole;
use tonic::{Code, Status};

use crate::common::reason;

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

pub const SYSTEM: [&str; 4] = ["admin", "service", "user", "reader"];
pub const CHAT: [ChatRole; 4] = [ChatRole::Owner, ChatRole::Moderator, ChatRole::Member, ChatRole::Reader];

/// A caller: indexes into the table's columns.
#[derive(Clone, Copy)]
pub struct Who {
    pub system: usize,
    /// The last one: no member.
    pub chat: usize,
}

impl Who {
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SYSTEM.len()).flat_map(|system| (0..=CHAT.len()).map(move |chat| Self { system, chat }))
    }

    pub fn role(self) -> Option<ChatRole> {
        CHAT.get(self.chat).copied()
    }

    /// The user's id, which tells its roles.
    pub fn name(self) -> String {
        format!("{} as {}", SYSTEM[self.system], self.role().map_or("none", |role| role.as_str_name()))
    }

    /// Holds an answer against the table; returns whether it was let through.
    #[track_caller]
    pub fn check<T>(self, action: &str, answer: Result<T, Status>) -> bool {
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

pub fn manages(old: Option<ChatRole>, new: Option<ChatRole>) -> &'static str {
    if [old, new].contains(&Some(ChatRole::Owner)) { "manage an owner" } else { "manage" }
}
