//! The frames of a stream as JSON, by REST's mapping.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::Status;

use crate::converter::frames;
use crate::converter::status::{self, Refused};
use crate::transport::gateway::descriptors;
use crate::transport::gateway::json::{self, Unread};

struct Types {
    request: MessageDescriptor,
    response: MessageDescriptor,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let a_part = "the descriptors are a part of the program";
    let pool = descriptors().expect(a_part);
    let message = |name| pool.get_message_by_name(name).expect(a_part);
    Types { request: message("chat.v1.ConnectChatRequest"), response: message("chat.v1.ConnectChatResponse") }
});

/// A client's frame as a gRPC message. JSON that is no frame that this server knows becomes the empty frame, as an unknown frame in
/// binary would: the session rejects it, and lives on. What isn't JSON ends the stream.
pub fn request_frame(text: &str) -> Result<Bytes, Status> {
    match json::decode(&TYPES.request, text.as_bytes()) {
        Ok(message) => Ok(frames::message(&message.encode_to_vec())),
        Err(Unread::Misfit(_)) => Ok(frames::message(&[])),
        Err(Unread::NotJson(_)) => Err(status::refused(Refused::MalformedFrame)),
    }
}

/// An event of this server. `None`: it is none.
pub fn event(message: &[u8]) -> Option<String> {
    let message = DynamicMessage::decode(TYPES.response.clone(), message).ok()?;
    String::from_utf8(json::encode(&message).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use serde_json::{Value, json};

    use super::*;
    use crate::pb::chat::v1 as pb;
    use crate::pb::chat::v1::connect_chat_request::Frame;
    use crate::pb::chat::v1::connect_chat_response::Event;

    fn read(json: &str) -> Option<Frame> {
        let mut bytes = BytesMut::from(&request_frame(json).unwrap()[..]);
        let message = frames::take_message(&mut bytes).unwrap();
        pb::ConnectChatRequest::decode(message).unwrap().frame
    }

    fn shown(event_of: Event) -> Value {
        let mut bytes = BytesMut::new();
        frames::put_event(&mut bytes, event_of);
        let message = frames::take_message(&mut bytes).unwrap();
        serde_json::from_str(&event(&message).unwrap()).unwrap()
    }

    #[test]
    fn frames_are_read_by_their_json_names_and_by_their_own() {
        let join = |after_sequence| Some(Frame::Join(pb::JoinFrame { chat_id: "c".into(), after_sequence, follow: false }));
        assert_eq!(read(r#"{"join":{"chatId":"c","afterSequence":"3"}}"#), join(Some(3)));
        assert_eq!(read(r#"{"join":{"chat_id":"c","after_sequence":3}}"#), join(Some(3)));
        assert_eq!(read(r#"{"join":{"chatId":"c"}}"#), join(None));
        let refresh = pb::RefreshTokenFrame { token: "t".into() };
        assert_eq!(read(r#"{"refreshToken":{"token":"t"}}"#), Some(Frame::RefreshToken(refresh)));
    }

    #[test]
    fn every_kind_of_frame_and_event_is_supported() {
        for (message, direction) in [(&TYPES.request, json::Direction::In), (&TYPES.response, json::Direction::Out)] {
            json::supports(message, direction).unwrap();
        }
    }

    #[test]
    fn json_that_is_no_frame_is_the_unknown_frame() {
        for unknown in [
            "{}",
            "5",
            "[]",
            r#"{"shout":{}}"#,
            r#"{"join":{"chatId":"c","loud":true}}"#,
            r#"{"join":{"chatId":5}}"#,
            r#"{"join":{"chatId":"c","afterSequence":"three"}}"#,
            r#"{"join":{"chatId":"c"},"leave":{"chatId":"c"}}"#,
        ] {
            assert_eq!(read(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for broken in ["", "{", "join", r#"{"join":{}} more"#, r#"{"leave":{"chatId":"\ud800"}}"#] {
            assert_eq!(request_frame(broken).unwrap_err().code(), tonic::Code::InvalidArgument, "{broken}");
        }
    }

    #[test]
    fn events_are_written_with_all_their_fields() {
        let message = pb::Message { chat_id: "c".into(), sequence: 7, sender_id: "alice".into(), ..pb::Message::default() };
        let expected = json!({"chatId": "c", "sequence": "7", "senderId": "alice", "clientMessageId": ""});
        assert_eq!(shown(Event::Message(message)), json!({"message": expected}));
        let left = pb::LeftEvent { chat_id: "c".into(), reason: pb::LeftReason::Removed.into() };
        assert_eq!(shown(Event::Left(left)), json!({"left": {"chatId": "c", "reason": "LEFT_REASON_REMOVED"}}));
        assert_eq!(shown(frames::going_away(Duration::from_millis(250))), json!({"goingAway": {"reconnectAfter": "0.250s"}}));
        let refreshed = frames::token_refreshed(crate::model::Timestamp::from_secs(1_700_000_000));
        assert_eq!(shown(refreshed), json!({"tokenRefreshed": {"expiresAt": "2023-11-14T22:13:20Z"}}));
    }

    #[test]
    fn a_rejection_shows_the_details_of_its_status() {
        let status = status::refused(Refused::RateLimited(Duration::from_millis(1500)));
        let rejected = pb::RejectedEvent { status: Some(status::to_message(&status)), ..pb::RejectedEvent::default() };
        let shown = shown(Event::Rejected(rejected));
        assert_eq!(shown["rejected"]["frame"], "FRAME_KIND_UNSPECIFIED");
        let details = shown["rejected"]["status"]["details"].as_array().unwrap();
        assert!(details.iter().any(|detail| detail["reason"] == "RATE_LIMITED"), "{details:?}");
        assert!(details.iter().any(|detail| detail["retryDelay"] == "1.500s"), "{details:?}");
    }
}
