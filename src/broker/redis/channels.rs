//! The names of channels.

use crate::model::ChatId;

/// Names each chat's channel.
pub(super) struct Channels {
    begin: String,
}

impl Channels {
    /// `prefix`: what sets this deployment apart from others on the same Redis. It has no braces.
    pub fn new(prefix: &str) -> Self {
        Self { begin: format!("{prefix}c:") }
    }

    /// The chat's id is in braces: in a Cluster they say what the slot hangs on.
    pub fn name(&self, chat_id: ChatId) -> String {
        format!("{}{{{chat_id}}}", self.begin)
    }

    /// Whose channel this is; `None`: no chat's of this deployment.
    pub fn chat(&self, name: &[u8]) -> Option<ChatId> {
        let id = name.strip_prefix(self.begin.as_bytes())?.strip_prefix(b"{")?.strip_suffix(b"}")?;
        ChatId::parse(std::str::from_utf8(id).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_chat_in_the_same_deployment_only() {
        let (ours, theirs) = (Channels::new("chat:"), Channels::new("other:"));
        let chat = ChatId::generate();
        assert_eq!(ours.name(chat), format!("chat:c:{{{chat}}}"));
        assert_eq!(ours.chat(ours.name(chat).as_bytes()), Some(chat));
        assert_eq!(theirs.chat(ours.name(chat).as_bytes()), None);
        assert_eq!(ours.chat(b"chat:c:{x}"), None);
    }
}
