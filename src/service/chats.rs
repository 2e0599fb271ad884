//! Chats and their members.

use std::collections::HashSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::{ChatService, Error, Result};
use crate::broker::AccessEnd;
use crate::model::access::{Action, allows};
use crate::model::chat::CreateKey;
use crate::model::membership::{self, Caller};
use crate::model::{Chat, ChatId, ChatRole, Identity, Member, MemberChange, MembersChanged, NewChat, UserId, limits};
use crate::observe::{request, trace};
use crate::repository::CreateOutcome;

/// What a chat in a list weighs beside its strings, in bytes; bounds pages.
const CHAT_OVERHEAD_BYTES: usize = 128;

/// A chat to create.
#[derive(Clone, Debug)]
pub struct CreateChat {
    pub title: String,
    pub member_ids: Vec<UserId>,
    pub request_id: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ChatWithMembers {
    pub chat: Chat,
    pub members: Vec<Member>,
}

/// Part of a user's chats, newest first.
#[derive(Clone, Debug)]
pub struct ChatPage {
    pub chats: Vec<Chat>,
    /// Where the next page begins: behind this chat.
    pub next: Option<ChatId>,
}

impl ChatService {
    /// Creates a chat; the caller becomes its owner.
    pub async fn create_chat(&self, caller: &Identity, create: CreateChat) -> Result<ChatWithMembers> {
        if !allows(Action::CreateChat, caller.role, None) {
            return Err(Error::Denied);
        }
        let mut seen = HashSet::from([caller.user_id.clone()]);
        let members: Vec<UserId> = create.member_ids.into_iter().filter(|id| seen.insert(id.clone())).collect();
        let request = create.request_id.map(|request_id| CreateKey { request_id, digest: digest(&create.title, &members) });
        let chat = NewChat {
            id: ChatId::generate(),
            title: create.title,
            created_by: caller.user_id.clone(),
            members,
            created_at: self.clock.now(),
            request,
        };
        let chat_id = match self.chats.create(&chat).await? {
            CreateOutcome::Created => chat.id,
            CreateOutcome::Existing(chat_id) => chat_id,
            CreateOutcome::Conflict => return Err(Error::RequestIdTaken),
        };
        // Checked like any other read: whoever made a chat may have been removed from it since.
        self.get_chat(caller, chat_id).await
    }

    pub async fn get_chat(&self, caller: &Identity, chat_id: ChatId) -> Result<ChatWithMembers> {
        let view = self.chats.find(chat_id, &caller.user_id).await?.ok_or(Error::ChatNotFound)?;
        if !allows(Action::Read, caller.role, view.role) {
            return Err(Error::ChatNotFound);
        }
        Ok(ChatWithMembers { chat: view.chat, members: self.chats.members(chat_id).await? })
    }

    /// The caller's chats behind `before`, newest first.
    pub async fn list_chats(&self, caller: &Identity, before: Option<ChatId>, page_size: usize) -> Result<ChatPage> {
        let mut chats = self.chats.list(&caller.user_id, before, page_size + 1).await?;
        let mut weight = 0;
        let fits = chats.iter().take(page_size).take_while(|chat| {
            let before_this = weight;
            weight += chat.title.len() + chat.created_by.as_str().len() + CHAT_OVERHEAD_BYTES;
            before_this < limits::PAGE_BYTES_MAX
        });
        let kept = fits.count();
        let more = chats.len() > kept;
        chats.truncate(kept);
        let next = chats.last().filter(|_| more).map(|chat| chat.id);
        Ok(ChatPage { chats, next })
    }

    /// Hides the chat from everyone at once.
    pub async fn delete_chat(&self, caller: &Identity, chat_id: ChatId) -> Result<()> {
        let (who, now) = (who(caller), self.clock.now());
        let (chats, broker) = (Arc::clone(&self.chats), Arc::clone(&self.broker));
        to_the_end(async move {
            chats.delete(chat_id, &who.user_id, now, &|view| membership::delete_chat(&who, view)).await??;
            broker.announce(AccessEnd::Deleted { chat_id }).await;
            Ok(())
        })
        .await
    }

    /// Adds members or sets their roles. Of a user named more than once the last role counts.
    pub async fn add_members(&self, caller: &Identity, chat_id: ChatId, members: Vec<(UserId, ChatRole)>) -> Result<ChatWithMembers> {
        let mut wanted: Vec<(UserId, ChatRole)> = Vec::with_capacity(members.len());
        let mut seen = HashSet::new();
        for (user_id, role) in members.into_iter().rev() {
            if seen.insert(user_id.clone()) {
                wanted.push((user_id, role));
            }
        }
        wanted.reverse();
        let who = who(caller);
        let involved: Vec<UserId> = wanted.iter().map(|(user, _)| user.clone()).chain([caller.user_id.clone()]).collect();
        let decide = |view: &_| membership::set_members(&who, &wanted, view);
        self.chats.change_members(chat_id, &involved, self.clock.now(), &decide).await??;
        self.with_members(chat_id, &caller.user_id).await
    }

    /// Removes a member; its streams lose the chat.
    pub async fn remove_member(&self, caller: &Identity, chat_id: ChatId, user_id: UserId) -> Result<()> {
        let (who, now) = (who(caller), self.clock.now());
        let (chats, broker) = (Arc::clone(&self.chats), Arc::clone(&self.broker));
        to_the_end(async move {
            let involved = [user_id.clone(), who.user_id.clone()];
            let decide = |view: &_| membership::remove_member(&who, &user_id, view);
            let MembersChanged { changes, access_version } = chats.change_members(chat_id, &involved, now, &decide).await??;
            for change in changes {
                if let MemberChange::Remove(user_id) = change {
                    broker.announce(AccessEnd::Removed { chat_id, user_id, access_version: Some(access_version) }).await;
                }
            }
            Ok(())
        })
        .await
    }

    async fn with_members(&self, chat_id: ChatId, user_id: &UserId) -> Result<ChatWithMembers> {
        let view = self.chats.find(chat_id, user_id).await?.ok_or(Error::ChatNotFound)?;
        Ok(ChatWithMembers { chat: view.chat, members: self.chats.members(chat_id).await? })
    }
}

/// Runs to its end even where the caller goes away: what was committed must be announced.
async fn to_the_end(work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    tokio::spawn(request::inherit(work.instrument(trace::current()))).await.unwrap_or(Err(Error::Internal))
}

fn who(caller: &Identity) -> Caller {
    Caller { user_id: caller.user_id.clone(), role: caller.role }
}

/// Of what a CreateChat asks for. Lengths go in, so that no two requests run together; the order of members doesn't count.
fn digest(title: &str, members: &[UserId]) -> [u8; 32] {
    let mut sorted: Vec<&str> = members.iter().map(UserId::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha256::new();
    for part in std::iter::once(title).chain(sorted) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}
