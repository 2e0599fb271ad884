//! Ids as types, so that one can't stand where another is meant.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::limits;

/// A chat's id: UUIDv7, so ids of newer chats sort behind those of older ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChatId(Uuid);

impl ChatId {
    /// A new id, made from the time and randomness.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the hyphenated form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(Self)
    }

    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    pub const fn as_uuid(self) -> Uuid {
        self.0
    }

    /// A stable hash for spreading chats over lanes and shards. UUIDv7's low half is random.
    pub fn spread(self) -> usize {
        (self.0.as_u64_pair().1 & 0xffff_ffff) as usize
    }
}

impl fmt::Display for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A user's id: the `sub` claim of its token, 1–128 characters. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// `None`: the text is no user's id. It is empty, too long, or has U+0000.
    pub fn parse(text: &str) -> Option<Self> {
        let length = text.chars().take(limits::USER_ID_CHARS_MAX + 1).count();
        let fits = (1..=limits::USER_ID_CHARS_MAX).contains(&length) && !text.contains('\0');
        fits.then(|| Self::new(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<UserId> for Arc<str> {
    fn from(id: UserId) -> Self {
        id.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
