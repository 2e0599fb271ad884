//! The proto's comments, as paragraphs of Markdown.

use prost_reflect::{EnumDescriptor, FieldDescriptor, MessageDescriptor, MethodDescriptor};
use prost_types::FileDescriptorProto;

pub fn of_message(message: &MessageDescriptor) -> String {
    of(message.parent_file_descriptor_proto(), message.path())
}

pub fn of_field(field: &FieldDescriptor) -> String {
    of(field.parent_message().parent_file_descriptor_proto(), field.path())
}

pub fn of_rpc(rpc: &MethodDescriptor) -> String {
    of(rpc.parent_service().parent_file_descriptor_proto(), rpc.path())
}

pub fn of_service(rpc: &MethodDescriptor) -> String {
    of(rpc.parent_service().parent_file_descriptor_proto(), rpc.parent_service().path())
}

/// Of an enum, and of each of its values.
pub fn of_enum(descriptor: &EnumDescriptor) -> String {
    let file = descriptor.parent_file_descriptor_proto();
    let mut text = of(file, descriptor.path());
    for value in descriptor.values() {
        let comment = of(file, value.path());
        if !comment.is_empty() {
            text.push_str(&format!("\n\n`{}`: {comment}", value.name()));
        }
    }
    text
}

/// The first sentence, as a title.
pub fn first_sentence(text: &str) -> String {
    let end = text.find(['.', ';', ':']).unwrap_or(text.len());
    text[..end].to_owned()
}

fn of(file: &FileDescriptorProto, path: &[i32]) -> String {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let comment = locations.filter(|location| location.path == path).find_map(|location| location.leading_comments.as_deref());
    let lines: Vec<&str> = comment.unwrap_or_default().trim().lines().map(str::trim).collect();
    lines
        .split(|line| line.is_empty())
        .filter(|paragraph| !paragraph.is_empty())
        .map(|paragraph| paragraph.join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}
