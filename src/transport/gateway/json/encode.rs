//! Message → JSON. Unset scalars, enums and lists are shown with what they are; absent messages, absent optional scalars, and the members of a
//! oneof that aren't chosen, aren't there.

use std::fmt::Display;

use prost::Message;
use prost_reflect::{DynamicMessage, Kind, MapKey, ReflectMessage, Value};
use serde::ser::{Error, Serialize, SerializeMap, Serializer};

use super::{ANY, DURATION, TIMESTAMP};

/// Writes a message. It fails only for what [`super::supports`] doesn't know.
pub fn encode(message: &DynamicMessage) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Object(message))
}

struct Object<'a>(&'a DynamicMessage);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.descriptor().full_name() {
            TIMESTAMP => text_of::<prost_types::Timestamp, S>(self.0, serializer),
            DURATION => text_of::<prost_types::Duration, S>(self.0, serializer),
            ANY => any(self.0, serializer),
            _ => {
                let mut map = serializer.serialize_map(None)?;
                fields(&mut map, self.0)?;
                map.end()
            }
        }
    }
}

fn text_of<T: Message + Default + Display, S: Serializer>(message: &DynamicMessage, serializer: S) -> Result<S::Ok, S::Error> {
    let value: T = message.transcode_to().map_err(S::Error::custom)?;
    serializer.collect_str(&value)
}

/// The message inside, with its type. Of a type that isn't known here only that is shown.
fn any<S: Serializer>(message: &DynamicMessage, serializer: S) -> Result<S::Ok, S::Error> {
    let any: prost_types::Any = message.transcode_to().map_err(S::Error::custom)?;
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("@type", &any.type_url)?;
    if let Some(descriptor) = message.descriptor().parent_pool().get_message_by_name(name) {
        let inner = DynamicMessage::decode(descriptor, any.value.as_slice()).map_err(S::Error::custom)?;
        fields(&mut map, &inner)?;
    }
    map.end()
}

fn fields<M: SerializeMap>(map: &mut M, message: &DynamicMessage) -> Result<(), M::Error> {
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        let kind = field.kind();
        map.serialize_entry(field.json_name(), &Shown { value: message.get_field(&field).as_ref(), kind: &kind })?;
    }
    Ok(())
}

struct Shown<'a> {
    value: &'a Value,
    kind: &'a Kind,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            // JavaScript's numbers don't hold them.
            Value::I64(value) => serializer.collect_str(value),
            Value::U64(value) => serializer.collect_str(value),
            Value::String(value) => serializer.serialize_str(value),
            Value::EnumNumber(number) => match self.kind.as_enum().and_then(|kind| kind.get_value(*number)) {
                Some(value) => serializer.serialize_str(value.name()),
                None => serializer.serialize_i32(*number),
            },
            Value::Message(message) => Object(message).serialize(serializer),
            Value::List(items) => serializer.collect_seq(items.iter().map(|value| Shown { value, kind: self.kind })),
            Value::Map(entries) => {
                let entry = self.kind.as_message().ok_or_else(|| S::Error::custom("a map without its entries' type"))?;
                let kind = entry.map_entry_value_field().kind();
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    let MapKey::String(key) = key else { return Err(S::Error::custom("only strings are supported as keys")) };
                    map.serialize_entry(key, &Shown { value, kind: &kind })?;
                }
                map.end()
            }
            Value::F32(_) | Value::F64(_) | Value::Bytes(_) => Err(S::Error::custom("a kind that is not supported")),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use serde_json::json;

    use super::*;
    use crate::pb::FILE_DESCRIPTOR_SET;
    use crate::pb::chat::v1 as pb;

    fn shown(name: &str, message: &impl Message) -> serde_json::Value {
        let descriptor = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap().get_message_by_name(name).unwrap();
        let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).unwrap();
        serde_json::from_slice(&encode(&message).unwrap()).unwrap()
    }

    #[test]
    fn unset_scalars_and_empty_lists_are_shown_and_what_is_absent_is_left_out() {
        let empty = json!({"chatId": "", "title": "", "members": [], "lastSequence": "0", "createdBy": ""});
        assert_eq!(shown("chat.v1.Chat", &pb::Chat::default()), empty);
        let empty = json!({"chatId": "", "pageSize": 0});
        assert_eq!(shown("chat.v1.ListMessagesRequest", &pb::ListMessagesRequest::default()), empty, "optional scalars");
        let empty = json!({"chatId": "", "sequence": "0", "senderId": "", "clientMessageId": ""});
        assert_eq!(shown("chat.v1.Message", &pb::Message::default()), empty, "members of a oneof");
    }

    #[test]
    fn numbers_of_64_bits_are_strings_enums_are_names_and_times_are_rfc_3339() {
        let member = pb::ChatMember {
            user_id: "alice".into(),
            role: pb::ChatRole::Owner.into(),
            joined_at: Some(prost_types::Timestamp { seconds: 0, nanos: 120_000_000 }),
        };
        let chat = pb::Chat { last_sequence: i64::MAX, members: vec![member], ..pb::Chat::default() };
        let shown = shown("chat.v1.Chat", &chat);
        assert_eq!(shown["lastSequence"], "9223372036854775807");
        assert_eq!(shown["members"], json!([{"userId": "alice", "role": "CHAT_ROLE_OWNER", "joinedAt": "1970-01-01T00:00:00.120Z"}]));
    }

    #[test]
    fn durations_carry_their_unit() {
        let event = pb::GoingAwayEvent { reconnect_after: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }) };
        assert_eq!(shown("chat.v1.GoingAwayEvent", &event), json!({"reconnectAfter": "1.500s"}));
    }
}
