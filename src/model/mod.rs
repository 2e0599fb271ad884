//! Plain types that every room shares: ids, times, roles and what they may do, chats and messages.

pub mod access;
pub mod chat;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod membership;
pub mod message;
pub mod secret;
pub mod time;

pub use access::{Action, ChatRole, SystemRole};
pub use chat::{Chat, ChatPosition, Member, NewChat};
pub use identity::Identity;
pub use ids::{ChatId, UserId};
pub use membership::{MemberChange, MembershipView, Refusal};
pub use message::{AppendOutcome, Bound, Message, NewMessage, Page, PageQuery, Reader, Sender};
pub use secret::Secret;
pub use time::{Clock, SystemClock, Timestamp};
