//! The contract's limits, a second time and by hand: what validation accepts is exactly what keeps these.

use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::*;

/// Whether a request keeps every limit that the API states.
pub trait KeepsLimits {
    fn keeps_limits(&self) -> bool;
}

fn has_chars(text: &str, least: usize, most: usize) -> bool {
    let count = text.chars().filter(|c| *c != '\0').count();
    count == text.chars().count() && least <= count && count <= most
}

fn is_message_text(text: &str) -> bool {
    has_chars(text, 1, 4_096) && text.chars().any(|c| !c.is_whitespace())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

fn is_user(id: &str) -> bool {
    has_chars(id, 1, 128)
}

fn is_client_id(id: &str) -> bool {
    has_chars(id, 1, 64)
}

impl KeepsLimits for CreateChatRequest {
    fn keeps_limits(&self) -> bool {
        has_chars(&self.title, 1, 200)
            && self.member_ids.len() <= 1_000
            && self.member_ids.iter().all(|id| is_user(id))
            && has_chars(&self.request_id, 0, 64)
    }
}

impl KeepsLimits for GetChatRequest {
    fn keeps_limits(&self) -> bool {
        is_uuid(&self.chat_id)
    }
}

impl KeepsLimits for ListChatsRequest {
    fn keeps_limits(&self) -> bool {
        self.page_size >= 0 && has_chars(&self.page_token, 0, 256)
    }
}

impl KeepsLimits for DeleteChatRequest {
    fn keeps_limits(&self) -> bool {
        is_uuid(&self.chat_id)
    }
}

impl KeepsLimits for AddMembersRequest {
    fn keeps_limits(&self) -> bool {
        let is_member = |member: &NewMember| is_user(&member.user_id) && (1..=4).contains(&member.role);
        is_uuid(&self.chat_id) && (1..=1_000).contains(&self.members.len()) && self.members.iter().all(is_member)
    }
}

impl KeepsLimits for RemoveMemberRequest {
    fn keeps_limits(&self) -> bool {
        is_uuid(&self.chat_id) && is_user(&self.user_id)
    }
}

impl KeepsLimits for SendMessageRequest {
    fn keeps_limits(&self) -> bool {
        is_uuid(&self.chat_id) && is_message_text(&self.text) && is_client_id(&self.client_message_id)
    }
}

impl KeepsLimits for ListMessagesRequest {
    fn keeps_limits(&self) -> bool {
        is_uuid(&self.chat_id)
            && self.page_size >= 0
            && self.after_sequence.is_none_or(|after| after >= 0)
            && self.before_sequence.is_none_or(|before| before >= 1)
    }
}

/// A frame of no kind breaks no limit; the session refuses it by itself.
impl KeepsLimits for ConnectChatRequest {
    fn keeps_limits(&self) -> bool {
        match &self.frame {
            None => true,
            Some(Frame::Join(join)) => is_uuid(&join.chat_id) && join.after_sequence.is_none_or(|after| after >= 0),
            Some(Frame::Leave(leave)) => is_uuid(&leave.chat_id),
            Some(Frame::Send(send)) => is_uuid(&send.chat_id) && is_client_id(&send.client_message_id) && is_message_text(&send.text),
            Some(Frame::RefreshToken(refresh)) => has_chars(&refresh.token, 1, 16_384),
        }
    }
}
