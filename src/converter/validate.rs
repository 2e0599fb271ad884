//! Checks requests against the proto's rules; `build/validation.rs` writes the checks.

use std::fmt;

use uuid::Uuid;

/// A field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path, as in `members[3].user_id`.
    pub field: String,
    pub description: String,
}

/// Every violation of a message's rules, in the order of its fields; none: the message is valid.
pub fn violations(message: &impl Validate) -> Vec<Violation> {
    let mut out = Vec::new();
    message.check(Path::ROOT, &mut out);
    out
}

pub trait Validate {
    fn check(&self, at: Path<'_>, out: &mut Vec<Violation>);
}

/// Where in a message: built on the way down, written out only for a violation.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    name: &'static str,
    index: Option<usize>,
}

impl<'a> Path<'a> {
    const ROOT: Path<'static> = Path { parent: None, name: "", index: None };

    fn field(&'a self, name: &'static str) -> Path<'a> {
        Path { parent: Some(self), name, index: None }
    }

    fn item(&'a self, name: &'static str, index: usize) -> Path<'a> {
        Path { parent: Some(self), name, index: Some(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent.filter(|parent| !parent.name.is_empty()) {
            write!(f, "{parent}.")?;
        }
        f.write_str(self.name)?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

struct StringRules {
    min: usize,
    max: usize,
    uuid: bool,
    not_blank: bool,
}

impl StringRules {
    const NONE: Self = Self { min: 0, max: usize::MAX, uuid: false, not_blank: false };
}

struct CountRules {
    min: usize,
    max: usize,
}

impl CountRules {
    const NONE: Self = Self { min: 0, max: usize::MAX };
}

fn violate(out: &mut Vec<Violation>, at: Path<'_>, description: impl Into<String>) {
    out.push(Violation { field: at.to_string(), description: description.into() });
}

fn check_string(value: &str, rules: &StringRules, at: Path<'_>, out: &mut Vec<Violation>) {
    if value.as_bytes().contains(&0) {
        return violate(out, at, "must not contain U+0000");
    }
    if rules.uuid {
        if value.len() != 36 || Uuid::try_parse(value).is_err() {
            violate(out, at, "must be a UUID");
        }
        return;
    }
    // A string has at most as many characters as bytes: most need no counting.
    let too_long = value.len() > rules.max && value.chars().count() > rules.max;
    let too_short = rules.min > 0 && value.chars().take(rules.min).count() < rules.min;
    if too_long || too_short {
        violate(out, at, format!("must have {} to {} characters", rules.min, rules.max));
    } else if rules.not_blank && value.trim().is_empty() {
        violate(out, at, "must not be blank");
    }
}

fn check_count(count: usize, rules: &CountRules, at: Path<'_>, out: &mut Vec<Violation>) {
    if count < rules.min || count > rules.max {
        violate(out, at, format!("must have {} to {} items", rules.min, rules.max));
    }
}

fn check_at_least(value: i64, least: i64, at: Path<'_>, out: &mut Vec<Violation>) {
    if value < least {
        violate(out, at, format!("must be at least {least}"));
    }
}

fn check_true(holds: bool, description: &str, at: Path<'_>, out: &mut Vec<Violation>) {
    if !holds {
        violate(out, at, description);
    }
}

#[allow(clippy::useless_conversion, clippy::needless_update, clippy::needless_borrow, reason = "generated")]
mod generated {
    use super::{CountRules, Path, StringRules, Validate, Violation, check_at_least, check_count, check_string, check_true};
    use crate::pb::chat::v1::*;

    include!(concat!(env!("OUT_DIR"), "/chat.v1.validation.rs"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::chat::v1::{
        AddMembersRequest, ChatRole, ConnectChatRequest, ListMessagesRequest, NewMember, SendFrame, SendMessageRequest,
        connect_chat_request::Frame,
    };

    const CHAT: &str = "0198f7a0-0000-7000-8000-000000000001";

    fn fields(message: &impl Validate) -> Vec<String> {
        violations(message).into_iter().map(|v| v.field).collect()
    }

    fn send(text: &str) -> SendMessageRequest {
        SendMessageRequest { chat_id: CHAT.into(), text: text.into(), client_message_id: "1".into() }
    }

    #[test]
    fn limits_count_characters_and_not_bytes() {
        assert!(fields(&send(&"語".repeat(4096))).is_empty());
        assert_eq!(fields(&send(&"語".repeat(4097))), ["text"]);
        assert_eq!(fields(&send("")), ["text"]);
    }

    #[test]
    fn blank_text_and_nul_are_refused() {
        assert_eq!(fields(&send(" \u{a0}\n\u{3000}")), ["text"]);
        assert_eq!(fields(&send("a\0b")), ["text"]);
    }

    #[test]
    fn violations_name_the_field_by_its_path() {
        let member = |user_id: &str, role: i32| NewMember { user_id: user_id.into(), role };
        let request = AddMembersRequest {
            chat_id: "no-uuid".into(),
            members: vec![member("a", ChatRole::Member.into()), member("", 0), member("b", 99)],
        };
        assert_eq!(fields(&request), ["chat_id", "members[1].user_id", "members[1].role", "members[2].role"]);
        let frame = ConnectChatRequest {
            frame: Some(Frame::Send(SendFrame { chat_id: CHAT.into(), client_message_id: String::new(), text: "x".into() })),
        };
        assert_eq!(fields(&frame), ["send.client_message_id"]);
    }

    #[test]
    fn optional_bounds_are_checked_where_they_are_set() {
        let request = |after_sequence| ListMessagesRequest { chat_id: CHAT.into(), page_size: 0, after_sequence, before_sequence: None };
        assert!(fields(&request(None)).is_empty());
        assert!(fields(&request(Some(0))).is_empty());
        assert_eq!(fields(&request(Some(-1))), ["after_sequence"]);
    }
}
