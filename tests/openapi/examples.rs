//! What stands in requests and answers as examples.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

/// A field's example; `None`: one that is best left away.
pub fn of_field(field: &FieldDescriptor) -> Option<Value> {
    let example = match field.name() {
        "chat_id" => json!("0198f7a0-0000-7000-8000-000000000001"),
        "title" => json!("Tea"),
        "member_ids" => json!(["bob"]),
        "request_id" => json!("5f2d7c1e"),
        "user_id" => json!("bob"),
        "role" => json!("CHAT_ROLE_MEMBER"),
        "text" => json!("hello"),
        "client_message_id" => json!("b1946ac9-1"),
        "created_by" | "sender_id" => json!("alice"),
        "sequence" | "last_sequence" => json!("1"),
        "created_at" | "joined_at" => json!("2026-11-02T09:30:00.250Z"),
        "has_more" => json!(false),
        "next_page_token" => json!(""),
        "page_size" => json!(50),
        _ => return None,
    };
    Some(example)
}

/// A message made of its fields' examples.
pub fn of_message(message: &MessageDescriptor, without: &[FieldDescriptor]) -> Value {
    let mut object = Map::new();
    for field in message.fields().filter(|field| !without.contains(field)) {
        let example = match field.kind() {
            Kind::Message(inner) if !inner.full_name().starts_with("google.protobuf.") => {
                let inner = of_message(&inner, &[]);
                Some(if field.is_list() { json!([inner]) } else { inner })
            }
            _ => of_field(&field),
        };
        if let Some(example) = example {
            object.insert(field.json_name().to_owned(), example);
        }
    }
    Value::Object(object)
}
