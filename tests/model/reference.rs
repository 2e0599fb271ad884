//! A store as plain data: the storage contract of `src/repository/mod.rs` in the plainest code. What the real stores do with
//! statements and locks stands here as loops over vectors.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;

use chat_service::model::chat::CreateKey;
use chat_service::model::message::MESSAGE_OVERHEAD_BYTES;
use chat_service::model::{
    AppendOutcome, Bound, Chat, ChatId, ChatPosition, ChatRole, Member, MemberChange, MembersChanged, MembershipView, Message, NewChat,
    NewMessage, Page, PageQuery, Refusal, SystemRole, Timestamp, UserId,
};
use chat_service::repository::{ChatView, CreateOutcome, DecideDelete, DecideMembers};

/// All chats that live; a deleted one is simply gone.
#[derive(Clone, Debug, Default)]
pub struct Model {
    chats: BTreeMap<ChatId, StoredChat>,
}

#[derive(Clone, Debug)]
struct StoredChat {
    chat: Chat,
    members: BTreeMap<UserId, Member>,
    messages: Vec<Message>,
    access_version: i64,
    request: Option<CreateKey>,
}

impl StoredChat {
    fn role(&self, user: &UserId) -> Option<ChatRole> {
        self.members.get(user).map(|member| member.role)
    }

    fn set(&mut self, user: &UserId, role: ChatRole, now: Timestamp) {
        let new = Member { user_id: user.clone(), role, joined_at: now };
        self.members.entry(user.clone()).or_insert(new).role = role;
    }

    fn view(&self, involved: &[UserId]) -> MembershipView {
        MembershipView {
            member_count: self.members.len(),
            owner_count: self.members.values().filter(|member| member.role == ChatRole::Owner).count(),
            roles: involved.iter().filter_map(|user| Some((user.clone(), self.role(user)?))).collect(),
        }
    }
}

fn is_trusted(role: SystemRole) -> bool {
    role == SystemRole::Admin || role == SystemRole::Service
}

impl Model {
    pub fn create(&mut self, new: &NewChat) -> CreateOutcome {
        if let Some(key) = &new.request {
            let same = |stored: &&StoredChat| {
                stored.chat.created_by == new.created_by && stored.request.as_ref().is_some_and(|other| other.request_id == key.request_id)
            };
            if let Some(stored) = self.chats.values().find(same) {
                let same_content = stored.request.as_ref().is_some_and(|other| other.digest == key.digest);
                return if same_content { CreateOutcome::Existing(stored.chat.id) } else { CreateOutcome::Conflict };
            }
        }
        let chat =
            Chat { id: new.id, title: new.title.clone(), created_by: new.created_by.clone(), created_at: new.created_at, last_sequence: 0 };
        let (members, messages) = (BTreeMap::new(), Vec::new());
        let mut stored = StoredChat { chat, members, messages, access_version: 1, request: new.request.clone() };
        stored.set(&new.created_by, ChatRole::Owner, new.created_at);
        for member in &new.members {
            stored.set(member, ChatRole::Member, new.created_at);
        }
        self.chats.insert(new.id, stored);
        CreateOutcome::Created
    }

    /// Judges one message after the other; `now` gives the present for the message with this index.
    pub fn append(&mut self, batch: &[NewMessage], now: impl Fn(usize) -> Timestamp) -> Vec<AppendOutcome> {
        batch.iter().enumerate().map(|(at, message)| self.append_one(message, now(at))).collect()
    }

    fn append_one(&mut self, message: &NewMessage, now: Timestamp) -> AppendOutcome {
        let Some(stored) = self.chats.get_mut(&message.chat_id) else { return AppendOutcome::NotFound };
        let sender = &message.sender.user_id;
        let before = stored.messages.iter().find(|old| old.sender_id == *sender && old.client_message_id == message.client_message_id);
        if let Some(old) = before {
            let (sequence, created_at) = (old.sequence, old.created_at);
            return if old.text == message.text { AppendOutcome::Duplicate { sequence, created_at } } else { AppendOutcome::Conflict };
        }
        match (message.sender.role, stored.role(sender)) {
            (SystemRole::Admin | SystemRole::Service, _) => {}
            (SystemRole::User | SystemRole::Reader, None) => return AppendOutcome::NotFound,
            (SystemRole::Reader, Some(_)) | (SystemRole::User, Some(ChatRole::Reader)) => return AppendOutcome::Denied,
            (SystemRole::User, Some(ChatRole::Owner | ChatRole::Moderator | ChatRole::Member)) => {}
        }
        let sequence = stored.chat.last_sequence + 1;
        let created_at = stored.messages.last().map_or(now, |last| last.created_at.max(now));
        stored.chat.last_sequence = sequence;
        stored.messages.push(Message {
            chat_id: message.chat_id,
            sequence,
            sender_id: sender.clone(),
            client_message_id: message.client_message_id.clone(),
            text: message.text.clone(),
            created_at,
        });
        AppendOutcome::Stored { sequence, created_at }
    }

    pub fn page(&self, query: &PageQuery) -> Option<Page> {
        let stored = self.chats.get(&query.chat_id)?;
        if !is_trusted(query.reader.role) && stored.role(&query.reader.user_id).is_none() {
            return None;
        }
        let all = stored.messages.iter();
        let (wanted, ascending): (Vec<&Message>, bool) = match query.bound {
            Bound::After(sequence) => (all.filter(|message| message.sequence > sequence).collect(), true),
            Bound::Before(sequence) => (all.rev().filter(|message| message.sequence < sequence).collect(), false),
            Bound::Latest => (all.rev().collect(), false),
        };
        let (mut messages, mut weight) = (Vec::new(), 0);
        for message in &wanted {
            if messages.len() == query.limit || weight >= query.max_bytes {
                break;
            }
            weight += message.text.len() + message.client_message_id.len() + message.sender_id.as_str().len() + MESSAGE_OVERHEAD_BYTES;
            messages.push((*message).clone());
        }
        let has_more = messages.len() < wanted.len();
        if !ascending {
            messages.reverse();
        }
        Some(Page { messages, has_more, last_sequence: stored.chat.last_sequence })
    }

    pub fn change_members(
        &mut self,
        chat_id: ChatId,
        involved: &[UserId],
        now: Timestamp,
        decide: DecideMembers<'_>,
    ) -> Result<MembersChanged, Refusal> {
        let stored = self.chats.get_mut(&chat_id).ok_or(Refusal::ChatNotFound)?;
        let changes = decide(&stored.view(involved))?;
        for change in &changes {
            match change {
                MemberChange::Set(user, role) => stored.set(user, *role, now),
                MemberChange::Remove(user) => drop(stored.members.remove(user)),
            }
        }
        stored.access_version += i64::from(!changes.is_empty());
        Ok(MembersChanged { changes, access_version: stored.access_version })
    }

    pub fn delete(&mut self, chat_id: ChatId, caller: &UserId, decide: DecideDelete<'_>) -> Result<(), Refusal> {
        let stored = self.chats.get(&chat_id).ok_or(Refusal::ChatNotFound)?;
        decide(&stored.view(std::slice::from_ref(caller)))?;
        self.chats.remove(&chat_id);
        Ok(())
    }

    pub fn find(&self, chat_id: ChatId, user: &UserId) -> Option<ChatView> {
        let stored = self.chats.get(&chat_id)?;
        Some(ChatView { chat: stored.chat.clone(), role: stored.role(user), access_version: stored.access_version })
    }

    pub fn members(&self, chat_id: ChatId) -> Vec<Member> {
        let mut members: Vec<Member> =
            self.chats.get(&chat_id).map(|stored| stored.members.values().cloned().collect()).unwrap_or_default();
        // By id they are already.
        members.sort_by_key(|member| member.role);
        members
    }

    pub fn list(&self, user: &UserId, before: Option<ChatId>, limit: usize) -> Vec<Chat> {
        let own = self.chats.values().rev().filter(|stored| stored.role(user).is_some());
        own.map(|stored| stored.chat.clone()).filter(|chat| before.is_none_or(|before| chat.id < before)).take(limit).collect()
    }

    /// Ascending by id.
    pub fn positions(&self, chat_ids: &[ChatId]) -> Vec<ChatPosition> {
        let asked = self.chats.iter().filter(|(id, _)| chat_ids.contains(id));
        asked
            .map(|(id, stored)| ChatPosition {
                chat_id: *id,
                last_sequence: stored.chat.last_sequence,
                access_version: stored.access_version,
            })
            .collect()
    }

    /// All messages of a chat, in order.
    pub fn messages(&self, chat_id: ChatId) -> &[Message] {
        self.chats.get(&chat_id).map_or(&[][..], |stored| &stored.messages[..])
    }

    pub fn last_sequence(&self, chat_id: ChatId) -> i64 {
        self.messages(chat_id).len() as i64
    }

    /// The message at a place.
    pub fn at(&self, chat_id: ChatId, sequence: i64) -> Option<&Message> {
        let index = usize::try_from(sequence.checked_sub(1)?).ok()?;
        self.messages(chat_id).get(index)
    }
}
