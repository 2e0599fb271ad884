//! Messages as JSON Schema.

use std::collections::BTreeMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::rules::{self, Rules};
use crate::{comments, examples};

/// Where a value stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Request,
    Answer,
    /// A path or a query, where a number is written as one.
    Parameter,
}

/// The document's components.
#[derive(Default)]
pub struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    pub fn into_value(self) -> Value {
        Value::Object(self.0.into_iter().collect())
    }

    /// A reference to a message's schema; `without`: fields that stand elsewhere.
    pub fn message(&mut self, message: &MessageDescriptor, name: &str, place: Place, without: &[FieldDescriptor]) -> Value {
        if !self.0.contains_key(name) {
            // A place for it, so that a message inside itself would end.
            self.0.insert(name.to_owned(), Value::Null);
            let schema = self.object(message, place, without);
            self.0.insert(name.to_owned(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn object(&mut self, message: &MessageDescriptor, place: Place, without: &[FieldDescriptor]) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for field in message.fields().filter(|field| !without.contains(field)) {
            let is_required = match place {
                // Shown even where it is unset, but for what may be absent.
                Place::Answer => field.containing_oneof().is_none(),
                Place::Request | Place::Parameter => rules::of(&field).required,
            };
            if is_required {
                required.push(json!(field.json_name()));
            }
            properties.insert(field.json_name().to_owned(), self.field(&field, place));
        }
        let mut schema = Map::new();
        schema.insert("type".into(), json!("object"));
        describe(&mut schema, comments::of_message(message));
        schema.insert("properties".into(), Value::Object(properties));
        if !required.is_empty() {
            schema.insert("required".into(), Value::Array(required));
        }
        if place == Place::Request {
            schema.insert("additionalProperties".into(), json!(false));
        }
        Value::Object(schema)
    }

    /// A field's schema, with its description, rules and example.
    pub fn field(&mut self, field: &FieldDescriptor, place: Place) -> Value {
        // Answers hold what was valid when it came.
        let rules = if place == Place::Answer { Rules::default() } else { rules::of(field) };
        let mut schema = self.value(&field.kind(), place, &rules);
        if field.is_list() {
            let mut list = rules.list.clone();
            list.insert("type".into(), json!("array"));
            list.insert("items".into(), Value::Object(schema));
            schema = list;
        }
        describe(&mut schema, comments::of_field(field));
        if let Some(example) = examples::of_field(field) {
            schema.insert("examples".into(), json!([example]));
        }
        Value::Object(schema)
    }

    fn value(&mut self, kind: &Kind, place: Place, rules: &Rules) -> Map<String, Value> {
        let mut schema = rules.value.clone();
        let mut is = |ty: &str, format: Option<&str>| {
            schema.insert("type".into(), json!(ty));
            if let Some(format) = format {
                schema.insert("format".into(), json!(format));
            }
        };
        match kind {
            Kind::String => is("string", None),
            Kind::Bool => is("boolean", None),
            Kind::Int32 => is("integer", Some("int32")),
            Kind::Int64 if place == Place::Parameter => is("integer", Some("int64")),
            Kind::Int64 => {
                is("string", Some("int64"));
                schema.insert("pattern".into(), json!("^-?[0-9]+$"));
            }
            Kind::Enum(descriptor) => return self.enumeration(descriptor, &rules.not_in),
            Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => is("string", Some("date-time")),
            Kind::Message(message) => {
                let Value::Object(reference) = self.message(message, message.name(), place, &[]) else { unreachable!() };
                return reference;
            }
            other => panic!("{other:?} is not described; teach tests/openapi/schemas.rs"),
        }
        schema
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor, not_in: &[i32]) -> Map<String, Value> {
        let values = descriptor.values().filter(|value| !not_in.contains(&value.number()));
        let names: Vec<String> = values.map(|value| value.name().to_owned()).collect();
        let mut schema = Map::new();
        schema.insert("type".into(), json!("string"));
        schema.insert("enum".into(), json!(names));
        describe(&mut schema, comments::of_enum(descriptor));
        if !not_in.is_empty() {
            return schema;
        }
        self.0.insert(descriptor.name().to_owned(), Value::Object(schema));
        let mut reference = Map::new();
        reference.insert("$ref".into(), json!(format!("#/components/schemas/{}", descriptor.name())));
        reference
    }
}

fn describe(schema: &mut Map<String, Value>, comment: String) {
    if !comment.is_empty() {
        schema.insert("description".into(), json!(comment));
    }
}
