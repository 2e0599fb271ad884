//! The proto3 JSON mapping of this API's messages, by their descriptors.
//!
//! Own code, because answers to bad input must name the field, must not repeat the input at length, and must refuse what is given twice. REST and the
//! WebSocket share it. It knows the kinds that the API has: [`supports`] tells of others when the server starts.

mod decode;
mod encode;

pub use decode::{Unread, decode};
pub use encode::encode;

use std::collections::BTreeSet;

use prost_reflect::{Kind, MessageDescriptor};

const TIMESTAMP: &str = "google.protobuf.Timestamp";
const DURATION: &str = "google.protobuf.Duration";
const ANY: &str = "google.protobuf.Any";

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// Whether all of a message can be mapped; else the field that can't, and why.
pub fn supports(message: &MessageDescriptor, direction: Direction) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let mut queue = vec![message.clone()];
    while let Some(message) = queue.pop() {
        if !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        match message.full_name() {
            TIMESTAMP | DURATION => continue,
            ANY if direction == Direction::Out => continue,
            name if name.starts_with("google.protobuf.") => return Err(format!("JSON of {name} is not supported")),
            _ => {}
        }
        for field in message.fields() {
            match field.kind() {
                _ if field.is_map() && direction == Direction::In => return Err(format!("{}: maps are not supported", field.full_name())),
                Kind::Double | Kind::Float | Kind::Bytes => {
                    return Err(format!("{}: JSON of its kind is not supported", field.full_name()));
                }
                Kind::Message(inner) => queue.push(inner),
                _ => {}
            }
        }
    }
    Ok(())
}
