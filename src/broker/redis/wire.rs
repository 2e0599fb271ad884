//! What nodes tell each other: small frames of a version of their own.
//!
//! | bytes | hold |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | kind: 1 a message, 2 somebody was removed, 3 the chat was deleted, 4 somebody was removed at a known access version |
//! | 8 | which node sends: what comes back to it is thrown away unread |
//! | … | message: sequence (8), created_at in µs (8), sender, client_message_id, text, traceparent; removed: user, of kind 4 behind the version (8); deleted: nothing |
//!
//! Numbers are big-endian; a text is its length (4) and its UTF-8. The chat is the channel's. W3C's `traceparent` of what has sent a message
//! is there where its trace is sampled; else the frame ends before it. Kind 2 is of nodes that tell no version. A node throws away a version and
//! a kind that it doesn't know: while nodes of two versions run side by side, they reach each other by the sweep.

use crate::broker::AccessEnd;
use crate::model::{ChatId, Message, Timestamp, UserId};

const VERSION: u8 = 1;
const MESSAGE: u8 = 1;
const REMOVED: u8 = 2;
const DELETED: u8 = 3;
const REMOVED_AT: u8 = 4;
/// The longest frame: more than the longest text, ids and numbers take.
const FRAME_BYTES_MAX: usize = 32 * 1024;
/// Of a `traceparent`: its version, the trace, the span and flags.
const TRACEPARENT_BYTES: usize = 55;

/// What a frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// By this node itself.
    Own,
    /// With the `traceparent` of what has sent it.
    Message(Message, Option<String>),
    End(AccessEnd),
}

/// Why a frame can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireError {
    UnknownVersion,
    Malformed,
}

pub(super) fn of_message(origin: u64, message: &Message, traceparent: Option<&str>) -> Vec<u8> {
    let mut frame = start(MESSAGE, origin, message.weight() + traceparent.map_or(0, str::len));
    frame.extend(message.sequence.to_be_bytes());
    frame.extend(message.created_at.as_micros().to_be_bytes());
    for text in [message.sender_id.as_str(), &message.client_message_id, &message.text].into_iter().chain(traceparent) {
        put(&mut frame, text);
    }
    frame
}

pub(super) fn of_end(origin: u64, end: &AccessEnd) -> Vec<u8> {
    match end {
        AccessEnd::Removed { user_id, access_version, .. } => {
            let mut frame = start(if access_version.is_some() { REMOVED_AT } else { REMOVED }, origin, user_id.as_str().len());
            frame.extend(access_version.iter().flat_map(|version| version.to_be_bytes()));
            put(&mut frame, user_id.as_str());
            frame
        }
        AccessEnd::Deleted { .. } => start(DELETED, origin, 0),
    }
}

/// Reads a frame that came through a chat's channel to the node `own`.
pub(super) fn read(own: u64, chat_id: ChatId, frame: &[u8]) -> Result<Told, WireError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(WireError::Malformed);
    }
    let mut rest = Rest(frame);
    let [version] = rest.array::<1>()?;
    if version != VERSION {
        return Err(WireError::UnknownVersion);
    }
    let [kind] = rest.array::<1>()?;
    if u64::from_be_bytes(rest.array::<8>()?) == own {
        return Ok(Told::Own);
    }
    let told = match kind {
        MESSAGE => {
            let message = Message {
                chat_id,
                sequence: rest.sequence()?,
                created_at: Timestamp::from_micros(i64::from_be_bytes(rest.array::<8>()?)),
                sender_id: rest.user()?,
                client_message_id: rest.text()?.to_owned(),
                text: rest.text()?.to_owned(),
            };
            Told::Message(message, rest.traceparent()?)
        }
        REMOVED => Told::End(AccessEnd::Removed { chat_id, user_id: rest.user()?, access_version: None }),
        REMOVED_AT => {
            let access_version = Some(i64::from_be_bytes(rest.array::<8>()?));
            Told::End(AccessEnd::Removed { chat_id, user_id: rest.user()?, access_version })
        }
        DELETED => Told::End(AccessEnd::Deleted { chat_id }),
        _ => return Err(WireError::UnknownVersion),
    };
    if rest.0.is_empty() { Ok(told) } else { Err(WireError::Malformed) }
}

fn start(kind: u8, origin: u64, weight: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(weight + 32);
    frame.extend([VERSION, kind]);
    frame.extend(origin.to_be_bytes());
    frame
}

fn put(frame: &mut Vec<u8>, text: &str) {
    // No text is longer than its limit, which is far below.
    frame.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(text.as_bytes());
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Malformed)
    }

    fn text(&mut self) -> Result<&'a str, WireError> {
        let length = usize::try_from(u32::from_be_bytes(self.array::<4>()?)).map_err(|_| WireError::Malformed)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| WireError::Malformed)
    }

    fn traceparent(&mut self) -> Result<Option<String>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let text = self.text()?;
        if text.len() == TRACEPARENT_BYTES { Ok(Some(text.to_owned())) } else { Err(WireError::Malformed) }
    }

    fn user(&mut self) -> Result<UserId, WireError> {
        UserId::parse(self.text()?).ok_or(WireError::Malformed)
    }

    /// From 1 on.
    fn sequence(&mut self) -> Result<i64, WireError> {
        let sequence = i64::from_be_bytes(self.array::<8>()?);
        if sequence >= 1 { Ok(sequence) } else { Err(WireError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::limits;

    const US: u64 = 1;
    const THEM: u64 = 2;

    fn message(chat_id: ChatId, sequence: i64, sender: &str, id: &str, text: &str) -> Message {
        Message {
            chat_id,
            sequence,
            sender_id: UserId::new(sender),
            client_message_id: id.into(),
            text: text.into(),
            created_at: Timestamp::from_micros(sequence),
        }
    }

    #[test]
    fn the_longest_message_fits() {
        let chat = ChatId::generate();
        let long = |chars| "🙂".repeat(chars);
        let (sender, id) = (long(limits::USER_ID_CHARS_MAX), long(64));
        let message = message(chat, i64::MAX, &sender, &id, &long(4_096));
        let traceparent = "0".repeat(TRACEPARENT_BYTES);
        let frame = of_message(THEM, &message, Some(&traceparent));
        assert_eq!(read(US, chat, &frame), Ok(Told::Message(message, Some(traceparent))));
    }

    #[test]
    fn what_ends_access_is_told() {
        let chat = ChatId::generate();
        let removed = |access_version| AccessEnd::Removed { chat_id: chat, user_id: UserId::new("bob"), access_version };
        for end in [removed(Some(7)), removed(Some(i64::MAX)), removed(None), AccessEnd::Deleted { chat_id: chat }] {
            let frame = of_end(THEM, &end);
            assert_eq!(read(US, chat, &frame[..frame.len() - 1]), Err(WireError::Malformed));
            assert_eq!(read(US, chat, &frame), Ok(Told::End(end)));
        }
    }

    #[test]
    fn a_removal_from_a_node_that_tells_no_version_is_read() {
        let frame = b"\x01\x02\0\0\0\0\0\0\0\x02\0\0\0\x03bob";
        let chat_id = ChatId::generate();
        let removed = AccessEnd::Removed { chat_id, user_id: UserId::new("bob"), access_version: None };
        assert_eq!(read(US, chat_id, frame), Ok(Told::End(removed)));
    }

    #[test]
    fn what_comes_back_and_what_is_newer_is_not_read() {
        let chat = ChatId::generate();
        let mut frame = of_end(US, &AccessEnd::Deleted { chat_id: chat });
        assert_eq!(read(US, chat, &frame), Ok(Told::Own));
        frame[0] = VERSION + 1;
        assert_eq!(read(THEM, chat, &frame), Err(WireError::UnknownVersion));
        frame[..2].copy_from_slice(&[VERSION, 9]);
        assert_eq!(read(THEM, chat, &frame), Err(WireError::UnknownVersion));
    }

    proptest! {
        #[test]
        fn a_message_arrives_as_it_was_sent(
            sequence in 1_i64.., sender in "[^\0]{1,128}", id in ".{0,64}", text in ".{0,200}",
            traceparent in prop::option::of("00-[0-9a-f]{32}-[0-9a-f]{16}-01")
        ) {
            let chat = ChatId::generate();
            let message = message(chat, sequence, &sender, &id, &text);
            let frame = of_message(THEM, &message, traceparent.as_deref());
            prop_assert_eq!(read(US, chat, &frame), Ok(Told::Message(message, traceparent)));
        }

        #[test]
        fn a_frame_that_is_cut_or_longer_is_refused(text in ".{0,20}", at in 0_usize..80, more in prop::collection::vec(any::<u8>(), 1..9)) {
            let chat = ChatId::generate();
            let frame = of_message(THEM, &message(chat, 1, "alice", "1", &text), None);
            prop_assert_eq!(read(US, chat, &frame[..at.min(frame.len() - 1)]), Err(WireError::Malformed));
            prop_assert_eq!(read(US, chat, &[frame, more].concat()), Err(WireError::Malformed));
        }

        #[test]
        fn anything_is_read_without_harm(frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..6) {
            drop(read(US, ChatId::generate(), &frame));
            drop(read(US, ChatId::generate(), &[[VERSION, kind].as_slice(), frame.as_slice()].concat()));
        }
    }
}
