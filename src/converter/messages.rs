//! Chats, messages and errors.

use prost_types::{Duration, Timestamp as ProtoTimestamp};

use crate::model::{Chat, ChatId, ChatRole, Member, Message, Timestamp};
use crate::pb::chat::v1 as pb;
use crate::service::ChatWithMembers;

pub fn timestamp(time: Timestamp) -> ProtoTimestamp {
    let micros = time.as_micros();
    ProtoTimestamp { seconds: micros.div_euclid(1_000_000), nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32 }
}

pub fn duration(duration: std::time::Duration) -> Duration {
    Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}

pub fn chat(chat: &Chat) -> pb::Chat {
    pb::Chat {
        chat_id: chat.id.to_string(),
        title: chat.title.clone(),
        members: Vec::new(),
        last_sequence: chat.last_sequence,
        created_by: chat.created_by.to_string(),
        created_at: Some(timestamp(chat.created_at)),
    }
}

pub fn chat_with_members(found: &ChatWithMembers) -> pb::Chat {
    pb::Chat { members: found.members.iter().map(member).collect(), ..chat(&found.chat) }
}

fn member(member: &Member) -> pb::ChatMember {
    pb::ChatMember {
        user_id: member.user_id.to_string(),
        role: role_number(member.role).into(),
        joined_at: Some(timestamp(member.joined_at)),
    }
}

fn role_number(role: ChatRole) -> pb::ChatRole {
    match role {
        ChatRole::Owner => pb::ChatRole::Owner,
        ChatRole::Moderator => pb::ChatRole::Moderator,
        ChatRole::Member => pb::ChatRole::Member,
        ChatRole::Reader => pb::ChatRole::Reader,
    }
}

/// `None` for a number that validation lets nobody send.
pub fn chat_role(number: i32) -> Option<ChatRole> {
    i16::try_from(number).ok().and_then(ChatRole::from_number)
}

pub fn message(message: Message) -> pb::Message {
    pb::Message {
        chat_id: message.chat_id.to_string(),
        sequence: message.sequence,
        sender_id: message.sender_id.to_string(),
        client_message_id: message.client_message_id,
        created_at: Some(timestamp(message.created_at)),
        content: Some(pb::message::Content::Text(message.text)),
    }
}

/// The page token of ListChats: the last chat of the page before. Opaque to clients.
pub fn page_token(chat_id: ChatId) -> String {
    chat_id.as_uuid().simple().to_string()
}

/// Reads a page token; `None` for what no page gave out.
pub fn parse_page_token(token: &str) -> Option<ChatId> {
    (token.len() == 32).then(|| uuid::Uuid::try_parse(token).ok()).flatten().map(ChatId::from_uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens_survive_the_round_trip_and_nothing_else_is_one() {
        let chat_id = ChatId::generate();
        assert_eq!(parse_page_token(&page_token(chat_id)), Some(chat_id));
        assert_eq!(parse_page_token("x"), None);
        assert_eq!(parse_page_token(&"z".repeat(32)), None);
    }

    #[test]
    fn times_before_1970_keep_their_order() {
        let time = timestamp(Timestamp::from_micros(-1));
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_000));
    }
}
