//! Turns the buf.validate rules of a package's requests into Rust checks at build time.
//!
//! Run-time evaluation of the rules costs about a microsecond a message; the code made here costs nanoseconds. A rule
//! that this generator doesn't know fails the build: a rule in the proto is enforced or it isn't there.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write;

use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

/// The one pattern that is supported: "has a character that isn't white space".
const NOT_BLANK: &str = r"\S";

pub fn generate(pool: &DescriptorPool, package: &str) -> Result<String, Box<dyn Error>> {
    let extension = pool.get_extension_by_name("buf.validate.field").ok_or("buf.validate.field is not among the descriptors")?;
    let mut seen = BTreeSet::new();
    let mut out = String::from("// Made by build/validation.rs from the proto's buf.validate rules.\n");
    let requests = pool.all_messages().filter(|m| m.package_name() == package && m.name().ends_with("Request"));
    let mut queue: Vec<MessageDescriptor> = requests.collect();
    while let Some(message) = queue.pop() {
        if !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        let mut body = String::new();
        for field in message.fields().filter(|f| f.containing_oneof().is_none_or(|o| is_synthetic(f, o.fields().count()))) {
            let rules = rules_of(&field, &extension)?;
            write_field(&mut body, &field, rules.as_ref())?;
            queue.extend(nested(&field));
        }
        for oneof in message.oneofs().filter(|o| !o.fields().all(|f| is_synthetic(&f, o.fields().count()))) {
            let module = snake(message.name());
            let kind = pascal(oneof.name());
            writeln!(body, "        if let Some(choice) = &self.{} {{\n            match choice {{", oneof.name())?;
            for field in oneof.fields() {
                let Kind::Message(inner) = field.kind() else {
                    return Err(format!("{}: only messages are supported in a oneof", field.full_name()).into());
                };
                writeln!(
                    body,
                    "                {module}::{kind}::{}(inner) => inner.check(at.field({:?}), out),",
                    pascal(field.name()),
                    field.name()
                )?;
                queue.push(inner);
            }
            writeln!(body, "            }}\n        }}")?;
        }
        let (at, violations) = if body.is_empty() { ("_at", "_out") } else { ("at", "out") };
        writeln!(
            out,
            "impl Validate for {} {{\n    fn check(&self, {at}: Path<'_>, {violations}: &mut Vec<Violation>) {{\n{body}    }}\n}}",
            message.name()
        )?;
    }
    Ok(out)
}

/// A proto3 `optional` field is a oneof of its own in the descriptors, but an `Option` in the code.
fn is_synthetic(field: &FieldDescriptor, members: usize) -> bool {
    members == 1 && field.field_descriptor_proto().proto3_optional()
}

fn nested(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message) => Some(message),
        _ => None,
    }
}

fn rules_of(field: &FieldDescriptor, extension: &prost_reflect::ExtensionDescriptor) -> Result<Option<DynamicMessage>, Box<dyn Error>> {
    let options = field.options();
    if !options.has_extension(extension) {
        return Ok(None);
    }
    match options.get_extension(extension).as_ref() {
        Value::Message(rules) => Ok(Some(rules.clone())),
        _ => Err(format!("{}: buf.validate.field is not a message", field.full_name()).into()),
    }
}

fn write_field(out: &mut String, field: &FieldDescriptor, rules: Option<&DynamicMessage>) -> Result<(), Box<dyn Error>> {
    let name = field.name();
    let path = format!("at.field({name:?})");
    if field.cardinality() == Cardinality::Repeated {
        let (checks, items) = repeated_rules(field, rules)?;
        if !checks.is_empty() {
            writeln!(out, "        check_count(self.{name}.len(), &CountRules {{ {checks}..CountRules::NONE }}, {path}, out);")?;
        }
        writeln!(out, "        for (index, item) in self.{name}.iter().enumerate() {{")?;
        write_value(out, field, "item", &format!("at.item({name:?}, index)"), items.as_ref(), true)?;
        writeln!(out, "        }}")?;
    } else if field.field_descriptor_proto().proto3_optional() {
        writeln!(out, "        if let Some(value) = self.{name} {{")?;
        write_value(out, field, "value", &path, rules, false)?;
        writeln!(out, "        }}")?;
    } else if let Kind::Message(_) = field.kind() {
        return Err(format!("{}: single message fields are only supported in a oneof", field.full_name()).into());
    } else {
        write_value(out, field, &format!("self.{name}"), &path, rules, false)?;
    }
    Ok(())
}

fn repeated_rules(field: &FieldDescriptor, rules: Option<&DynamicMessage>) -> Result<(String, Option<DynamicMessage>), Box<dyn Error>> {
    let (mut checks, mut items) = (String::new(), None);
    let Some(rules) = rules else { return Ok((checks, items)) };
    for (rule, value) in typed_rules(field, rules, "repeated")? {
        match (rule.as_str(), value) {
            ("min_items", value) => write!(checks, "min: {}, ", number(&value)?)?,
            ("max_items", value) => write!(checks, "max: {}, ", number(&value)?)?,
            ("items", Value::Message(inner)) => items = Some(inner),
            (other, _) => return Err(unsupported(field, other)),
        }
    }
    Ok((checks, items))
}

fn write_value(
    out: &mut String,
    field: &FieldDescriptor,
    value: &str,
    path: &str,
    rules: Option<&DynamicMessage>,
    by_reference: bool,
) -> Result<(), Box<dyn Error>> {
    let star = if by_reference { "*" } else { "" };
    match field.kind() {
        Kind::String => {
            let mut checks = String::new();
            for (rule, limit) in rules.map(|r| typed_rules(field, r, "string")).transpose()?.unwrap_or_default() {
                match (rule.as_str(), &limit) {
                    ("min_len", limit) => write!(checks, "min: {}, ", number(limit)?)?,
                    ("max_len", limit) => write!(checks, "max: {}, ", number(limit)?)?,
                    ("uuid", Value::Bool(true)) => checks.push_str("uuid: true, "),
                    ("pattern", Value::String(pattern)) if pattern == NOT_BLANK => checks.push_str("not_blank: true, "),
                    (other, _) => return Err(unsupported(field, other)),
                }
            }
            // Without rules too: U+0000 is refused in every string.
            writeln!(out, "        check_string(&{value}, &StringRules {{ {checks}..StringRules::NONE }}, {path}, out);")?;
        }
        Kind::Int32 | Kind::Int64 => {
            let ty = if field.kind() == Kind::Int32 { "int32" } else { "int64" };
            for (rule, limit) in rules.map(|r| typed_rules(field, r, ty)).transpose()?.unwrap_or_default() {
                match rule.as_str() {
                    "gte" => writeln!(out, "        check_at_least(i64::from({star}{value}), {}, {path}, out);", number(&limit)?)?,
                    other => return Err(unsupported(field, other)),
                }
            }
        }
        Kind::Enum(kind) => {
            for (rule, limit) in rules.map(|r| typed_rules(field, r, "enum")).transpose()?.unwrap_or_default() {
                match (rule.as_str(), &limit) {
                    ("defined_only", Value::Bool(true)) => {
                        let ty = kind.name();
                        writeln!(
                            out,
                            "        check_true({ty}::try_from({star}{value}).is_ok(), \"is not a value of {ty}\", {path}, out);"
                        )?;
                    }
                    ("not_in", Value::List(values)) => {
                        for forbidden in values {
                            let forbidden = number(forbidden)?;
                            writeln!(out, "        check_true({star}{value} != {forbidden}, \"is required\", {path}, out);")?;
                        }
                    }
                    (other, _) => return Err(unsupported(field, other)),
                }
            }
        }
        Kind::Message(_) if rules.is_none() => writeln!(out, "            {value}.check({path}, out);")?,
        Kind::Bool if rules.is_none() => {}
        other => return Err(format!("{}: no validation for kind {other:?}", field.full_name()).into()),
    }
    Ok(())
}

/// The set rules of the one expected type; anything beside it is refused.
fn typed_rules(field: &FieldDescriptor, rules: &DynamicMessage, expected: &str) -> Result<Vec<(String, Value)>, Box<dyn Error>> {
    let mut found = Vec::new();
    for (descriptor, value) in rules.fields() {
        match value {
            Value::Message(inner) if descriptor.name() == expected => {
                found.extend(inner.fields().map(|(rule, value)| (rule.name().to_owned(), value.clone())));
            }
            _ => return Err(unsupported(field, descriptor.name())),
        }
    }
    Ok(found)
}

fn number(value: &Value) -> Result<i128, Box<dyn Error>> {
    match value {
        Value::U64(n) => Ok(i128::from(*n)),
        Value::I64(n) => Ok(i128::from(*n)),
        Value::I32(n) => Ok(i128::from(*n)),
        other => Err(format!("{other:?} is not a number").into()),
    }
}

fn unsupported(field: &FieldDescriptor, rule: &str) -> Box<dyn Error> {
    format!("{}: the validation rule {rule:?} is not supported; teach build/validation.rs or leave it out", field.full_name()).into()
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn pascal(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}
