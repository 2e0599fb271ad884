//! What changes of members are allowed: pure decisions, taken inside the store's transaction.

use std::collections::HashMap;

use super::access::{Action, allows};
use super::{ChatRole, SystemRole, UserId, limits};

/// What a decision sees, read under the chat's lock.
#[derive(Clone, Debug, Default)]
pub struct MembershipView {
    pub member_count: usize,
    pub owner_count: usize,
    /// Roles of the users asked for; a user that is missing is no member.
    pub roles: HashMap<UserId, ChatRole>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Adds the member, or sets its role.
    Set(UserId, ChatRole),
    Remove(UserId),
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersChanged {
    pub changes: Vec<MemberChange>,
    /// The chat's, behind the changes.
    pub access_version: i64,
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The chat is not there for this caller.
    ChatNotFound,
    /// The user to remove is no member.
    MemberNotFound,
    Denied,
    /// It would leave members without an owner.
    LastOwner,
    /// The chat would hold more than [`limits::MEMBERS_PER_CHAT`].
    TooManyMembers,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    pub user_id: UserId,
    pub role: SystemRole,
}

impl Caller {
    fn check(&self, action: Action, view: &MembershipView) -> Result<Option<ChatRole>, Refusal> {
        let own = view.roles.get(&self.user_id).copied();
        if own.is_none() && !self.role.is_trusted() {
            return Err(Refusal::ChatNotFound);
        }
        if allows(action, self.role, own) { Ok(own) } else { Err(Refusal::Denied) }
    }

    /// Whether a role is at or below the caller's own.
    fn reaches(&self, own: Option<ChatRole>, role: ChatRole) -> bool {
        self.role.is_trusted() || own.is_some_and(|own| own.is_at_least(role))
    }
}

/// Adds members or sets their roles. `wanted` names each user once.
pub fn set_members(caller: &Caller, wanted: &[(UserId, ChatRole)], view: &MembershipView) -> Result<Vec<MemberChange>, Refusal> {
    let own = caller.check(Action::ManageMembers, view)?;
    let (mut members, mut owners, mut changes) = (view.member_count, view.owner_count, Vec::new());
    for (user, role) in wanted {
        let old = view.roles.get(user).copied();
        if !caller.reaches(own, *role) || old.is_some_and(|old| !caller.reaches(own, old)) {
            return Err(Refusal::Denied);
        }
        if old == Some(*role) {
            continue;
        }
        members += usize::from(old.is_none());
        owners += usize::from(*role == ChatRole::Owner);
        owners -= usize::from(old == Some(ChatRole::Owner));
        changes.push(MemberChange::Set(user.clone(), *role));
    }
    if members > limits::MEMBERS_PER_CHAT {
        return Err(Refusal::TooManyMembers);
    }
    if owners == 0 && view.owner_count > 0 {
        return Err(Refusal::LastOwner);
    }
    Ok(changes)
}

/// Removes a member; one may always remove oneself, unless one is the last owner and others remain.
pub fn remove_member(caller: &Caller, user: &UserId, view: &MembershipView) -> Result<Vec<MemberChange>, Refusal> {
    let action = if caller.user_id == *user { Action::Leave } else { Action::ManageMembers };
    let own = caller.check(action, view)?;
    let Some(old) = view.roles.get(user).copied() else { return Err(Refusal::MemberNotFound) };
    if action == Action::ManageMembers && !caller.reaches(own, old) {
        return Err(Refusal::Denied);
    }
    if old == ChatRole::Owner && view.owner_count == 1 && view.member_count > 1 {
        return Err(Refusal::LastOwner);
    }
    Ok(vec![MemberChange::Remove(user.clone())])
}

/// Whether the caller may delete the chat.
pub fn delete_chat(caller: &Caller, view: &MembershipView) -> Result<(), Refusal> {
    caller.check(Action::DeleteChat, view).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name)
    }

    fn view(roles: &[(&str, ChatRole)]) -> MembershipView {
        MembershipView {
            member_count: roles.len(),
            owner_count: roles.iter().filter(|(_, role)| *role == ChatRole::Owner).count(),
            roles: roles.iter().map(|(name, role)| (user(name), *role)).collect(),
        }
    }

    fn caller(name: &str) -> Caller {
        Caller { user_id: user(name), role: SystemRole::User }
    }

    #[test]
    fn a_moderator_reaches_roles_up_to_its_own() {
        let chat = view(&[("o", ChatRole::Owner), ("m", ChatRole::Moderator), ("x", ChatRole::Member)]);
        assert!(set_members(&caller("m"), &[(user("x"), ChatRole::Moderator)], &chat).is_ok());
        assert_eq!(set_members(&caller("m"), &[(user("x"), ChatRole::Owner)], &chat), Err(Refusal::Denied));
        assert_eq!(set_members(&caller("m"), &[(user("o"), ChatRole::Member)], &chat), Err(Refusal::Denied));
        assert_eq!(remove_member(&caller("m"), &user("o"), &chat), Err(Refusal::Denied));
        assert!(remove_member(&caller("m"), &user("x"), &chat).is_ok());
    }

    #[test]
    fn the_last_owner_stays_while_others_remain() {
        let chat = view(&[("o", ChatRole::Owner), ("x", ChatRole::Member)]);
        assert_eq!(remove_member(&caller("o"), &user("o"), &chat), Err(Refusal::LastOwner));
        assert_eq!(set_members(&caller("o"), &[(user("o"), ChatRole::Member)], &chat), Err(Refusal::LastOwner));
        let handed_over = [(user("x"), ChatRole::Owner), (user("o"), ChatRole::Member)];
        assert!(set_members(&caller("o"), &handed_over, &chat).is_ok());
        assert!(remove_member(&caller("o"), &user("o"), &view(&[("o", ChatRole::Owner)])).is_ok());
    }

    #[test]
    fn a_chat_is_not_there_for_strangers_and_there_for_services() {
        let chat = view(&[("o", ChatRole::Owner)]);
        assert_eq!(delete_chat(&caller("stranger"), &chat), Err(Refusal::ChatNotFound));
        assert_eq!(remove_member(&caller("stranger"), &user("o"), &chat), Err(Refusal::ChatNotFound));
        let service = Caller { user_id: user("backend"), role: SystemRole::Service };
        assert!(delete_chat(&service, &chat).is_ok());
    }

    #[test]
    fn a_chat_holds_at_most_its_limit_of_members() {
        let mut chat = view(&[("o", ChatRole::Owner)]);
        chat.member_count = limits::MEMBERS_PER_CHAT;
        assert_eq!(set_members(&caller("o"), &[(user("new"), ChatRole::Member)], &chat), Err(Refusal::TooManyMembers));
    }
}
