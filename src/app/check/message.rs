//! The server's messages as the history has them.

use prost_types::Timestamp;

use super::history::Message;
use crate::pb::chat::v1 as pb;

pub(super) fn plain(message: pb::Message) -> Message {
    let text = match message.content {
        Some(pb::message::Content::Text(text)) => text,
        None => String::new(),
    };
    let created_at_us = micros(message.created_at);
    Message { sequence: message.sequence, sender: message.sender_id, id: message.client_message_id, text, created_at_us }
}

pub(super) fn micros(at: Option<Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000)
}
