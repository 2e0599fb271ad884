//! Who calls.

use super::{SystemRole, Timestamp, UserId};

/// What a verified token says of its bearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user_id: UserId,
    pub role: SystemRole,
    /// When the token ends, the configured leeway included: streams opened with it end then.
    pub expires_at: Timestamp,
}
