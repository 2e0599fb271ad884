//! The proto's buf.validate rules, as JSON Schema. A rule that isn't known here fails, as it fails the build: what is enforced is described.

use prost_reflect::{DynamicMessage, FieldDescriptor, Value as ProtoValue};
use serde_json::{Map, Value, json};

/// What a field's rules say.
#[derive(Default)]
pub struct Rules {
    /// JSON Schema's words for the value; of a list, for each item.
    pub value: Map<String, Value>,
    /// Of a list.
    pub list: Map<String, Value>,
    /// Values of an enum that may not be given.
    pub not_in: Vec<i32>,
    /// Without it the message isn't valid.
    pub required: bool,
}

pub fn of(field: &FieldDescriptor) -> Rules {
    let pool = field.parent_message().parent_pool().clone();
    let extension = pool.get_extension_by_name("buf.validate.field").unwrap();
    let options = field.options();
    let mut rules = Rules::default();
    if options.has_extension(&extension) {
        let ProtoValue::Message(all) = options.get_extension(&extension).into_owned() else { panic!("{}", field.full_name()) };
        rules.read(field, &all);
    }
    rules
}

impl Rules {
    fn read(&mut self, field: &FieldDescriptor, all: &DynamicMessage) {
        for (kind, rules) in all.fields() {
            let ProtoValue::Message(rules) = rules else { panic!("{}: {}", field.full_name(), kind.name()) };
            for (rule, value) in rules.fields() {
                self.rule(field, kind.name(), rule.name(), value);
            }
        }
    }

    fn rule(&mut self, field: &FieldDescriptor, kind: &str, rule: &str, value: &ProtoValue) {
        match (kind, rule, value) {
            ("string", "min_len", value) => {
                self.required |= number(value) > 0 && !field.is_list();
                self.value.insert("minLength".into(), number(value).into());
            }
            ("string", "max_len", value) => drop(self.value.insert("maxLength".into(), number(value).into())),
            ("string", "pattern", ProtoValue::String(pattern)) => drop(self.value.insert("pattern".into(), json!(pattern))),
            ("string", "uuid", ProtoValue::Bool(true)) => {
                self.required |= !field.is_list();
                self.value.insert("format".into(), json!("uuid"));
            }
            ("int32" | "int64", "gte", value) => drop(self.value.insert("minimum".into(), number(value).into())),
            ("enum", "defined_only", ProtoValue::Bool(true)) => {}
            ("enum", "not_in", ProtoValue::List(values)) => {
                self.not_in = values.iter().map(|value| i32::try_from(number(value)).unwrap()).collect();
                self.required |= self.not_in.contains(&0);
            }
            ("repeated", "min_items", value) => {
                self.required |= number(value) > 0;
                self.list.insert("minItems".into(), number(value).into());
            }
            ("repeated", "max_items", value) => drop(self.list.insert("maxItems".into(), number(value).into())),
            ("repeated", "items", ProtoValue::Message(items)) => self.read(field, items),
            (kind, rule, _) => panic!("{}: the rule {kind}.{rule} is not described; teach tests/openapi/rules.rs", field.full_name()),
        }
    }
}

fn number(value: &ProtoValue) -> i64 {
    match value {
        ProtoValue::U64(number) => i64::try_from(*number).unwrap(),
        ProtoValue::I64(number) => *number,
        ProtoValue::I32(number) => i64::from(*number),
        other => panic!("{other:?} is no number"),
    }
}
