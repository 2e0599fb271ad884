//! JSON → message. What doesn't fit is a violation with the field's path.

use std::collections::BTreeSet;
use std::fmt;
use std::num::TryFromIntError;
use std::str::FromStr;

use prost::Message;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::{DURATION, TIMESTAMP};
use crate::converter::validate::Violation;

/// What a violation is called that is of no field.
const BODY: &str = "body";
/// Characters of an unknown name that an answer repeats.
const NAME_CHARS_SHOWN: usize = 64;

/// Why a text is no message.
#[derive(Debug)]
pub enum Unread {
    /// It is no JSON.
    NotJson(Violation),
    /// It is JSON that doesn't fit the message.
    Misfit(Violation),
}

impl Unread {
    pub fn into_violation(self) -> Violation {
        match self {
            Self::NotJson(violation) | Self::Misfit(violation) => violation,
        }
    }
}

/// Reads a message. Fields may be written in lowerCamelCase or as in the proto; `null` is as good as absent; 64-bit numbers may be strings or numbers; enums may be
/// names or numbers. An unknown field and a field that comes twice are refused.
pub fn decode(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Unread> {
    let json: Json = serde_json::from_slice(text).map_err(|error| Unread::NotJson(At::Root.violation(format!("is not JSON: {error}"))))?;
    message(descriptor, json, At::Root).map_err(Unread::Misfit)
}

/// Where in a message: written out only for a violation.
#[derive(Clone, Copy)]
enum At<'a> {
    Root,
    Field(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl At<'_> {
    fn violation(&self, description: impl Into<String>) -> Violation {
        let field = match self {
            At::Root => BODY.to_owned(),
            path => path.to_string(),
        };
        Violation { field, description: description.into() }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Root => Ok(()),
            At::Field(At::Root, name) => f.write_str(name),
            At::Field(parent, name) => write!(f, "{parent}.{name}"),
            At::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

fn message(descriptor: &MessageDescriptor, json: Json, at: At<'_>) -> Result<DynamicMessage, Violation> {
    match descriptor.full_name() {
        TIMESTAMP => return text_of::<prost_types::Timestamp>(descriptor, json, at, "must be a time as in RFC 3339"),
        DURATION => return text_of::<prost_types::Duration>(descriptor, json, at, "must be a duration like \"1.5s\""),
        _ => {}
    }
    let Json::Object(entries) = json else { return Err(at.violation("must be an object")) };
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut seen = BTreeSet::new();
    for (name, json) in entries {
        let Some(field) = descriptor.get_field_by_json_name(&name).or_else(|| descriptor.get_field_by_name(&name)) else {
            let name: String = name.chars().take(NAME_CHARS_SHOWN).collect();
            return Err(At::Field(&at, &name).violation(format!("is not a field of {}", descriptor.name())));
        };
        let at = At::Field(&at, field.name());
        if !seen.insert(field.number()) {
            return Err(at.violation("is given twice"));
        }
        if matches!(json, Json::Null) {
            continue;
        }
        if let Some(oneof) = field.containing_oneof()
            && oneof.fields().any(|other| message.has_field(&other))
        {
            return Err(at.violation(format!("is given beside another field of {}, which may have only one", oneof.name())));
        }
        message.set_field(&field, value(&field, json, at)?);
    }
    Ok(message)
}

fn text_of<T: Message + FromStr>(
    descriptor: &MessageDescriptor,
    json: Json,
    at: At<'_>,
    description: &'static str,
) -> Result<DynamicMessage, Violation> {
    let parsed = match json {
        Json::String(text) => text.parse::<T>().ok(),
        _ => None,
    };
    parsed
        .and_then(|parsed| DynamicMessage::decode(descriptor.clone(), parsed.encode_to_vec().as_slice()).ok())
        .ok_or_else(|| at.violation(description))
}

fn value(field: &FieldDescriptor, json: Json, at: At<'_>) -> Result<Value, Violation> {
    let kind = field.kind();
    if !field.is_list() {
        return single(&kind, json, at);
    }
    let Json::List(items) = json else { return Err(at.violation("must be a list")) };
    let items = items.into_iter().enumerate().map(|(index, item)| single(&kind, item, At::Item(&at, index)));
    Ok(Value::List(items.collect::<Result<_, _>>()?))
}

fn single(kind: &Kind, json: Json, at: At<'_>) -> Result<Value, Violation> {
    let out_of_range = |_: TryFromIntError| at.violation("is out of range");
    match kind {
        Kind::String => match json {
            Json::String(text) => Ok(Value::String(text)),
            _ => Err(at.violation("must be a string")),
        },
        Kind::Bool => match json {
            Json::Bool(value) => Ok(Value::Bool(value)),
            _ => Err(at.violation("must be true or false")),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => i32::try_from(integer(json, at)?).map(Value::I32).map_err(out_of_range),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => i64::try_from(integer(json, at)?).map(Value::I64).map_err(out_of_range),
        Kind::Uint32 | Kind::Fixed32 => u32::try_from(integer(json, at)?).map(Value::U32).map_err(out_of_range),
        Kind::Uint64 | Kind::Fixed64 => u64::try_from(integer(json, at)?).map(Value::U64).map_err(out_of_range),
        Kind::Enum(descriptor) => enumeration(descriptor, json, at),
        Kind::Message(descriptor) => message(descriptor, json, at).map(Value::Message),
        // `supports` has refused messages with such fields.
        Kind::Double | Kind::Float | Kind::Bytes => Err(at.violation("can't be given here")),
    }
}

/// 2^53: every whole number up to it is a float.
const EXACT_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;

/// A number, or a string that holds one and nothing else.
fn integer(json: Json, at: At<'_>) -> Result<i128, Violation> {
    let number = match json {
        Json::Number(number) => Some(number),
        Json::String(text) if text.trim().len() == text.len() => serde_json::from_str::<Number>(&text).ok(),
        _ => None,
    };
    number.and_then(|number| whole(&number)).ok_or_else(|| at.violation("must be an integer"))
}

fn whole(number: &Number) -> Option<i128> {
    let exact = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    // Written with a fraction or an exponent, or too large. Beyond what a float holds exactly nothing is known of the number that was meant: it
    // counts as out of every range.
    let meant = |value: f64| if value.abs() <= EXACT_FLOAT_MAX { value as i128 } else { i128::MAX };
    exact.or_else(|| number.as_f64().filter(|value| value.fract() == 0.0).map(meant))
}

fn enumeration(descriptor: &EnumDescriptor, json: Json, at: At<'_>) -> Result<Value, Violation> {
    match json {
        Json::String(name) => descriptor
            .get_value_by_name(&name)
            .map(|value| Value::EnumNumber(value.number()))
            .ok_or_else(|| at.violation(format!("is not a value of {}", descriptor.name()))),
        // Any number: which are allowed, the field's rules say.
        Json::Number(_) => i32::try_from(integer(json, at)?).map(Value::EnumNumber).map_err(|_| at.violation("is out of range")),
        _ => Err(at.violation(format!("must be the name of a value of {}", descriptor.name()))),
    }
}

/// JSON as it was written: with what comes twice.
enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::pb::FILE_DESCRIPTOR_SET;
    use crate::pb::chat::v1 as pb;

    fn descriptor(name: &str) -> MessageDescriptor {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap().get_message_by_name(name).unwrap()
    }

    fn read<T: Message + Default>(name: &str, text: &str) -> Result<T, String> {
        let message = decode(&descriptor(name), text.as_bytes()).map_err(Unread::into_violation);
        let message = message.map_err(|wrong| format!("{}: {}", wrong.field, wrong.description))?;
        Ok(message.transcode_to().unwrap())
    }

    fn list(text: &str) -> Result<pb::ListMessagesRequest, String> {
        read("chat.v1.ListMessagesRequest", text)
    }

    fn add(text: &str) -> Result<pb::AddMembersRequest, String> {
        read("chat.v1.AddMembersRequest", text)
    }

    #[test]
    fn both_names_of_a_field_and_null_are_taken() {
        for text in [r#"{"chatId":"a","afterSequence":"7"}"#, r#"{"chat_id":"a","after_sequence":7,"pageSize":null}"#] {
            let request = list(text).unwrap();
            assert_eq!((request.chat_id.as_str(), request.after_sequence, request.page_size), ("a", Some(7), 0), "{text}");
        }
        assert_eq!(list(r#"{"afterSequence":"0"}"#).unwrap().after_sequence, Some(0), "present, though it is the default");
    }

    #[test]
    fn integers_are_numbers_or_strings_that_hold_one() {
        for (text, number) in [("5", 5), ("\"5\"", 5), ("5.0", 5), ("5e2", 500), ("\"-1\"", -1), ("9223372036854775807", i64::MAX)] {
            assert_eq!(list(&format!("{{\"afterSequence\":{text}}}")).unwrap().after_sequence, Some(number), "{text}");
        }
        for text in ["5.5", "\"5 \"", "\"\"", "\"x\"", "\"+5\"", "true", "[]", "{}"] {
            let refused = list(&format!("{{\"afterSequence\":{text}}}")).unwrap_err();
            assert_eq!(refused, "after_sequence: must be an integer", "{text}");
        }
        for text in ["9223372036854775808", "\"9223372036854775808\"", "1e30", "-9223372036854775809"] {
            let refused = list(&format!("{{\"afterSequence\":{text}}}")).unwrap_err();
            assert_eq!(refused, "after_sequence: is out of range", "{text}");
        }
        assert_eq!(list(r#"{"pageSize":2147483648}"#).unwrap_err(), "page_size: is out of range");
    }

    #[test]
    fn enums_are_names_or_numbers() {
        for role in ["\"CHAT_ROLE_MEMBER\"", "3"] {
            assert_eq!(add(&format!(r#"{{"members":[{{"userId":"a","role":{role}}}]}}"#)).unwrap().members[0].role, 3);
        }
        let refused = add(r#"{"members":[{},{"role":"MEMBER"}]}"#).unwrap_err();
        assert_eq!(refused, "members[1].role: is not a value of ChatRole");
        assert_eq!(add(r#"{"members":[{"role":true}]}"#).unwrap_err(), "members[0].role: must be the name of a value of ChatRole");
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_path() {
        for (text, refused) in [
            (r#"{"members":{}}"#, "members: must be a list"),
            (r#"{"members":[null]}"#, "members[0]: must be an object"),
            (r#"{"members":[{"userId":5}]}"#, "members[0].user_id: must be a string"),
            (r#"{"members":[{"x":1}]}"#, "members[0].x: is not a field of NewMember"),
            (r#"{"chatId":"a","chat_id":"a"}"#, "chat_id: is given twice"),
            ("[]", "body: must be an object"),
            ("null", "body: must be an object"),
            ("\"x\"", "body: must be an object"),
        ] {
            assert_eq!(add(text).unwrap_err(), refused, "{text}");
        }
        let long = "x".repeat(5000);
        assert!(add(&format!("{{\"{long}\":1}}")).unwrap_err().len() < 200, "the input isn't repeated at length");
    }

    #[test]
    fn two_fields_of_a_oneof_are_refused() {
        let frame = |text: &str| read::<pb::ConnectChatRequest>("chat.v1.ConnectChatRequest", text);
        assert!(frame(r#"{"join":{"chatId":"a","follow":true}}"#).unwrap().frame.is_some());
        let refused = frame(r#"{"join":{},"leave":{}}"#).unwrap_err();
        assert_eq!(refused, "leave: is given beside another field of frame, which may have only one");
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let deep = "[".repeat(100_000);
        for text in
            ["", "{", "{}x", "{'a':1}", "{\"a\":1,}", r#"{"chatId":"\ud800"}"#, "{\"chatId\":\"\u{1}\"}", "NaN", "1e999", deep.as_str()]
        {
            assert!(add(text).unwrap_err().starts_with("body: is not JSON: "), "{text:.20}");
        }
        assert!(decode(&descriptor("chat.v1.GetChatRequest"), b"{\"chatId\":\"\xff\"}").is_err(), "bad UTF-8");
    }

    #[test]
    fn times_and_durations_are_texts() {
        let chat: pb::Chat = read("chat.v1.Chat", r#"{"createdAt":"2026-01-02T03:04:05.5Z"}"#).unwrap();
        assert_eq!(chat.created_at.map(|at| at.nanos), Some(500_000_000));
        let refused = read::<pb::Chat>("chat.v1.Chat", r#"{"createdAt":5}"#).unwrap_err();
        assert_eq!(refused, "created_at: must be a time as in RFC 3339");
    }
}
