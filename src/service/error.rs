//! What a caller may be told. `transport` maps it to a status; the reasons are stable.

use crate::model::Refusal;
use crate::observe::request::{self, Ids};
use crate::repository::StoreError;

/// An error of the service. Everything in it may be shown to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no such chat for this caller")]
    ChatNotFound,
    #[error("the user is not a member of the chat")]
    MemberNotFound,
    #[error("the caller's role does not allow this")]
    Denied,
    #[error("the client_message_id stands for another text")]
    MessageIdTaken,
    #[error("the request_id stands for another request")]
    RequestIdTaken,
    #[error("the last owner can't be removed or demoted while others remain; make somebody else an owner first")]
    LastOwner,
    #[error("a chat holds at most 10000 members")]
    TooManyMembers,
    #[error("after_sequence is beyond the chat's last sequence, {last_sequence}; drop what you have of the chat and join from 0")]
    SequenceAhead { last_sequence: i64 },
    #[error("{field}: {description}")]
    Invalid { field: &'static str, description: &'static str },
    #[error("more is being sent than can be stored; try again")]
    Overloaded,
    #[error("the server is stopping; connect again")]
    GoingAway,
    #[error("the message can't be stored now, and was not; send it again with the same id")]
    NotStored,
    #[error("the store can't be reached; whether this was done is not known, try again with the same id")]
    Unavailable,
    #[error("internal error")]
    Internal,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ChatNotFound => Self::ChatNotFound,
            Refusal::MemberNotFound => Self::MemberNotFound,
            Refusal::Denied => Self::Denied,
            Refusal::LastOwner => Self::LastOwner,
            Refusal::TooManyMembers => Self::TooManyMembers,
        }
    }
}

/// The one place where a store's error is logged: its text stays here.
impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        // By these the caller's line finds its cause.
        let Ids { request_id, trace_id } = request::current();
        match error {
            StoreError::Unavailable(_) | StoreError::TimedOut(_) => {
                tracing::warn!(error = %error, %request_id, %trace_id, "the store is unavailable");
                Self::Unavailable
            }
            // Only lanes say so.
            StoreError::Unreachable(_) | StoreError::Undone(_) => {
                tracing::warn!(error = %error, %request_id, %trace_id, "the store is unavailable");
                Self::NotStored
            }
            StoreError::Refused(_) | StoreError::Corrupt(_) | StoreError::SchemaTooOld => {
                tracing::error!(error = %error, %request_id, %trace_id, "the store failed");
                Self::Internal
            }
        }
    }
}
