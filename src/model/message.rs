//! Messages, sends and pages.

use super::{ChatId, SystemRole, Timestamp, UserId};

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub chat_id: ChatId,
    /// 1, 2, 3, … in the chat, without holes.
    pub sequence: i64,
    pub sender_id: UserId,
    pub client_message_id: String,
    pub text: String,
    /// Never decreases with `sequence`.
    pub created_at: Timestamp,
}

impl Message {
    /// For tests: one of alice's.
    #[cfg(test)]
    pub fn example(chat_id: ChatId, sequence: i64) -> Self {
        Self {
            chat_id,
            sequence,
            sender_id: UserId::new("alice"),
            client_message_id: sequence.to_string(),
            text: "hello".into(),
            created_at: Timestamp::from_micros(sequence),
        }
    }

    /// About what the message takes in memory and on the wire, in bytes; bounds pages.
    pub fn weight(&self) -> usize {
        self.text.len() + self.client_message_id.len() + self.sender_id.as_str().len() + MESSAGE_OVERHEAD_BYTES
    }
}

/// What a message weighs beside its strings.
pub const MESSAGE_OVERHEAD_BYTES: usize = 96;

/// Who sends, and by which right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    pub user_id: UserId,
    pub role: SystemRole,
}

/// A message to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    pub chat_id: ChatId,
    pub sender: Sender,
    pub client_message_id: String,
    pub text: String,
}

/// What became of one message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    Stored {
        sequence: i64,
        created_at: Timestamp,
    },
    /// Stored before with the same text: where it is.
    Duplicate {
        sequence: i64,
        created_at: Timestamp,
    },
    /// The `client_message_id` stands for another text.
    Conflict,
    /// No such chat, or the sender is no member.
    NotFound,
    /// A member whose role, or a user whose token, may not send.
    Denied,
    /// The chat's row could not be locked in time: this append has not stored the message. Whether one before it has isn't known.
    Busy,
}

/// Who reads: a trusted role reads every chat, anyone else those it is a member of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    pub user_id: UserId,
    pub role: SystemRole,
}

/// Which end a page is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The first messages with a sequence above this.
    After(i64),
    /// The last messages with a sequence below this.
    Before(i64),
    Latest,
}

#[derive(Clone, Debug)]
pub struct PageQuery {
    pub chat_id: ChatId,
    pub reader: Reader,
    pub bound: Bound,
    /// Messages at most.
    pub limit: usize,
    /// The page ends with the message that passes this weight.
    pub max_bytes: usize,
}

/// Part of a chat, ascending by sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub messages: Vec<Message>,
    /// Whether more lie in the direction of the listing.
    pub has_more: bool,
    /// The chat's last sequence, read with the page.
    pub last_sequence: i64,
}

impl Page {
    /// From messages as they were read: ascending or descending.
    pub fn of(mut messages: Vec<Message>, ascending: bool, last_sequence: i64) -> Self {
        if !ascending {
            messages.reverse();
        }
        // Sequences have no holes, so the ends tell whether more is there.
        let has_more = match (messages.first(), messages.last()) {
            (Some(first), Some(last)) => {
                if ascending {
                    last.sequence < last_sequence
                } else {
                    first.sequence > 1
                }
            }
            _ => false,
        };
        Self { messages, has_more, last_sequence }
    }
}
