//! Chats and their members.

use super::{ChatId, ChatRole, Timestamp, UserId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    pub id: ChatId,
    pub title: String,
    pub created_by: UserId,
    pub created_at: Timestamp,
    /// The sequence of the newest message; 0 where there is none.
    pub last_sequence: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub user_id: UserId,
    pub role: ChatRole,
    pub joined_at: Timestamp,
}

/// A chat to create: the creator becomes its owner.
#[derive(Clone, Debug)]
pub struct NewChat {
    pub id: ChatId,
    pub title: String,
    pub created_by: UserId,
    /// Without the creator and without duplicates.
    pub members: Vec<UserId>,
    pub created_at: Timestamp,
    pub request: Option<CreateKey>,
}

/// What makes a CreateChat repeatable.
#[derive(Clone, Debug)]
pub struct CreateKey {
    pub request_id: String,
    /// Of title and members: the same `request_id` with another digest is another request.
    pub digest: [u8; 32],
}

/// Where a chat stands, as the sweep reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatPosition {
    pub chat_id: ChatId,
    pub last_sequence: i64,
    /// Raised by every change of members or roles.
    pub access_version: i64,
}
