//! Bytes as requests.

use std::fmt::Debug;

use chat_service::converter::status;
use chat_service::converter::validate::{Validate, violations};
use chat_service::pb::chat::v1::ConnectChatRequest;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::prop_oneof;
use prost::Message;

use crate::check::{Checked, ensure, equal, property};
use crate::inputs::{self, edited, edits, text};
use crate::limits::KeepsLimits;

/// Bytes of details that an answer may have: they travel in a header.
const DETAILS_BYTES_MAX: usize = 8 * 1024;

/// Whatever bytes come as this request: they are decoded or refused, and validation accepts exactly what keeps the limits.
fn fuzz<T>(requests: impl Strategy<Value = T>)
where
    T: Message + Default + Validate + KeepsLimits + Debug,
{
    let mutated = (requests, edits()).prop_map(|(request, edits)| edited(request.encode_to_vec(), &edits));
    property(128, &prop_oneof![8 => mutated, 1 => vec(any::<u8>(), 0..200)], |bytes| match T::decode(bytes.as_slice()) {
        Ok(request) => check(&request),
        Err(_) => Ok(()),
    });
}

fn check<T: Validate + KeepsLimits + Debug>(request: &T) -> Checked {
    let found = violations(request);
    equal(&found.is_empty(), &request.keeps_limits(), "whether a request is valid")?;
    ensure(found.iter().all(|violation| !violation.field.is_empty()), || format!("a violation without its field: {found:?}"))?;
    let details = status::invalid(&found).details().len();
    ensure(details <= DETAILS_BYTES_MAX, || format!("an answer with {details} bytes of details"))
}

macro_rules! requests {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            fuzz(inputs::$name());
        })*
    };
}

/// Each test holds the property for one request.
mod validation_accepts_exactly_what_keeps_the_limits {
    use super::{fuzz, inputs};

    requests!(create_chat, get_chat, list_chats, delete_chat, add_members, remove_member, send_message, list_messages);

    #[test]
    fn connect_chat() {
        super::frames();
    }
}

fn frames() {
    let requests = inputs::frame(inputs::id().boxed(), text(16_384));
    fuzz::<ConnectChatRequest>(requests);
}
