//! Who may do what: the one place where it is decided.
//!
//! | action | system role `user` | `reader` | `service`, `admin` |
//! |---|---|---|---|
//! | create a chat | yes | no | yes |
//! | read (get, list messages, connect) | with any chat role | with any chat role | any chat |
//! | send | chat role member and above | no | any chat |
//! | leave (remove oneself) | with any chat role | no | any chat |
//! | manage members | chat role moderator and above, up to its own role | no | any chat |
//! | delete | chat role owner | no | any chat |

/// What a token's `roles` make of its user, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SystemRole {
    /// May do everything.
    Admin,
    /// A trusted backend: may act on every chat.
    Service,
    /// The default: may create chats, and in a chat what its chat role allows.
    User,
    /// May only read.
    Reader,
}

impl SystemRole {
    /// The strongest role named; `User` where none that is known is named.
    pub fn from_claims<'a>(roles: impl IntoIterator<Item = &'a str>) -> Self {
        let known = roles.into_iter().filter_map(|role| match role {
            "admin" => Some(Self::Admin),
            "service" => Some(Self::Service),
            "user" => Some(Self::User),
            "reader" => Some(Self::Reader),
            _ => None,
        });
        known.min().unwrap_or(Self::User)
    }

    /// Whether this role acts on chats without being a member.
    pub fn is_trusted(self) -> bool {
        matches!(self, Self::Admin | Self::Service)
    }
}

/// A member's role in a chat, the strongest first. The numbers are those of the proto and of the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum ChatRole {
    Owner = 1,
    Moderator = 2,
    Member = 3,
    Reader = 4,
}

impl ChatRole {
    pub const ALL: [Self; 4] = [Self::Owner, Self::Moderator, Self::Member, Self::Reader];

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|role| *role as i16 == number)
    }

    /// Whether this role has at least the rights of `other`.
    pub fn is_at_least(self, other: Self) -> bool {
        self <= other
    }
}

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    CreateChat,
    Read,
    Send,
    Leave,
    ManageMembers,
    DeleteChat,
}

/// Whether a caller may: its system role, and its role in the chat where it is a member.
pub fn allows(action: Action, system: SystemRole, in_chat: Option<ChatRole>) -> bool {
    match system {
        SystemRole::Admin | SystemRole::Service => true,
        SystemRole::User => match action {
            Action::CreateChat => true,
            Action::Read | Action::Leave => in_chat.is_some(),
            Action::Send => in_chat.is_some_and(|role| role.is_at_least(ChatRole::Member)),
            Action::ManageMembers => in_chat.is_some_and(|role| role.is_at_least(ChatRole::Moderator)),
            Action::DeleteChat => in_chat == Some(ChatRole::Owner),
        },
        SystemRole::Reader => match action {
            Action::Read => in_chat.is_some(),
            Action::CreateChat | Action::Send | Action::Leave | Action::ManageMembers | Action::DeleteChat => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_named_role_counts_and_user_is_the_default() {
        assert_eq!(SystemRole::from_claims([]), SystemRole::User);
        assert_eq!(SystemRole::from_claims(["unheard-of"]), SystemRole::User);
        assert_eq!(SystemRole::from_claims(["reader"]), SystemRole::Reader);
        assert_eq!(SystemRole::from_claims(["reader", "user"]), SystemRole::User);
        assert_eq!(SystemRole::from_claims(["user", "admin"]), SystemRole::Admin);
    }

    #[test]
    fn a_reader_by_token_only_reads_even_as_owner_of_a_chat() {
        for action in [Action::CreateChat, Action::Send, Action::Leave, Action::ManageMembers, Action::DeleteChat] {
            assert!(!allows(action, SystemRole::Reader, Some(ChatRole::Owner)), "{action:?}");
        }
        assert!(allows(Action::Read, SystemRole::Reader, Some(ChatRole::Reader)));
        assert!(!allows(Action::Read, SystemRole::Reader, None));
    }

    #[test]
    fn a_user_may_do_in_a_chat_what_its_chat_role_allows() {
        let may = |action| ChatRole::ALL.into_iter().filter(|role| allows(action, SystemRole::User, Some(*role))).collect::<Vec<_>>();
        assert_eq!(may(Action::Read), ChatRole::ALL);
        assert_eq!(may(Action::Leave), ChatRole::ALL);
        assert_eq!(may(Action::Send), [ChatRole::Owner, ChatRole::Moderator, ChatRole::Member]);
        assert_eq!(may(Action::ManageMembers), [ChatRole::Owner, ChatRole::Moderator]);
        assert_eq!(may(Action::DeleteChat), [ChatRole::Owner]);
    }
}
