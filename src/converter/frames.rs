//! The frames of a stream.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use super::{duration, message as converted, timestamp};
use crate::model::{ChatId, Message, Timestamp};
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::connect_chat_response::Event;
use crate::service::append::Placed;

/// Bytes of a gRPC message's prefix: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// Appends an event as a gRPC message, uncompressed.
pub fn put_event(out: &mut BytesMut, event: Event) {
    let response = pb::ConnectChatResponse { event: Some(event) };
    let length = response.encoded_len();
    out.reserve(PREFIX_BYTES + length);
    out.put_u8(0);
    // A response is far below 4 GiB: its parts are bounded.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    response.encode_raw(out);
}

/// An encoded message as a gRPC message, uncompressed.
pub fn message(encoded: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + encoded.len());
    out.put_u8(0);
    // A client's frame is bounded too.
    out.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    out.put_slice(encoded);
    out.freeze()
}

/// Takes the first gRPC message off, without its prefix. `None`: it isn't all there yet.
pub fn take_message(from: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(from.get(1..PREFIX_BYTES)?.try_into().ok()?) as usize;
    if from.len() - PREFIX_BYTES < length {
        return None;
    }
    from.advance(PREFIX_BYTES);
    Some(from.split_to(length).freeze())
}

/// A message event as a gRPC message: made once, shared by all its receivers.
pub fn message_frame(stored: &Message) -> Bytes {
    let mut out = BytesMut::new();
    put_event(&mut out, Event::Message(converted(stored.clone())));
    out.freeze()
}

pub fn acknowledged(chat_id: ChatId, client_message_id: String, placed: Placed) -> Event {
    Event::Acknowledged(pb::AcknowledgedEvent {
        chat_id: chat_id.to_string(),
        client_message_id,
        sequence: placed.sequence,
        created_at: Some(timestamp(placed.created_at)),
    })
}

pub fn left(chat_id: ChatId, reason: pb::LeftReason) -> Event {
    Event::Left(pb::LeftEvent { chat_id: chat_id.to_string(), reason: reason.into() })
}

pub fn token_refreshed(expires_at: Timestamp) -> Event {
    Event::TokenRefreshed(pb::TokenRefreshedEvent { expires_at: Some(timestamp(expires_at)) })
}

pub fn going_away(reconnect_after: std::time::Duration) -> Event {
    Event::GoingAway(pb::GoingAwayEvent { reconnect_after: Some(duration(reconnect_after)) })
}
