//! Plain types that every room shares: ids, times, roles and what they may do, chats and messages, networks, origins and rates.

pub mod access;
pub mod chat;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod membership;
pub mod message;
pub mod network;
pub mod origin;
pub mod rate;
pub mod secret;
pub mod time;

pub use access::{Action, ChatRole, SystemRole};
pub use chat::{Chat, ChatPosition, Member, NewChat};
pub use identity::Identity;
pub use ids::{ChatId, UserId};
pub use membership::{MemberChange, MembersChanged, MembershipView, Refusal};
pub use message::{AppendOutcome, Bound, Message, NewMessage, Page, PageQuery, Reader, Sender};
pub use network::{Network, client_network};
pub use origin::Origin;
pub use rate::Rate;
pub use secret::Secret;
pub use time::{Clock, SystemClock, Timestamp};
