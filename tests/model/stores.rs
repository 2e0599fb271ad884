//! The real stores against the reference model: every outcome, sequence, time, page and position is the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Mutex;

use chat_service::model::chat::CreateKey;
use chat_service::model::{
    AppendOutcome, Bound, ChatId, ChatRole, MemberChange, MembershipView, NewChat, NewMessage, PageQuery, Reader, Refusal, Sender,
    SystemRole, Timestamp, UserId,
};
use chat_service::repository::postgres::{PostgresOptions, PostgresStore};
use chat_service::repository::sqlite::{SqliteOptions, SqliteStore};
use chat_service::repository::{AppendLane, ChatRepository, CreateOutcome, MessageRepository};
use proptest::prelude::{Just, Strategy, any};
use proptest::{collection, option, prop_oneof, sample};
use tokio::runtime::{Builder, Runtime};

use crate::check::{self, Checked, ensure, equal};
use crate::common::{drop_database, new_database};
use crate::reference::Model;

const CHATS: usize = 3;
const NAMES: [&str; 4] = ["ann", "Ben", "çelik", "日本"];
/// Ids that a store might take for one another: by number, case, spaces, or the form of an accent; and some that need escaping.
const IDS: [&str; 12] = ["1", "01", "1.0", "1e0", "a", "A", "a ", "é", "e\u{301}", "\"\\", "null", "💬\u{1}"];
const TEXTS: [&str; 6] = ["a", "A", "1", "01", "{\"x\":[1,null]}\n\t'", "語💬\u{1}\u{7f}"];
/// A text that fills pages: beside those in [`TEXTS`].
const LONG: usize = TEXTS.len();
const LONG_CHARS: usize = 2_000;

/// A message to append; its parts are numbers, of this case's chats and users and of the lists above.
#[derive(Clone, Debug)]
struct Draft {
    chat: usize,
    sender: usize,
    role: SystemRole,
    id: usize,
    text: usize,
}

#[derive(Clone, Debug)]
enum Op {
    Append {
        lane: usize,
        batch: Vec<Draft>,
    },
    /// `None` removes the user.
    Change {
        chat: usize,
        involved: Vec<usize>,
        changes: BTreeMap<usize, Option<ChatRole>>,
        refused: bool,
    },
    /// The new chat takes the place of the one with this number.
    Create {
        chat: usize,
        creator: usize,
        members: Vec<usize>,
        request: Option<(u8, u8)>,
    },
    Delete {
        chat: usize,
        refused: bool,
    },
    Page {
        chat: usize,
        reader: usize,
        role: SystemRole,
        bound: Bound,
        limit: usize,
        max_bytes: usize,
    },
    List {
        user: usize,
        before: Option<usize>,
        limit: usize,
    },
    Purge {
        limit: usize,
    },
}

fn system_role() -> impl Strategy<Value = SystemRole> {
    prop_oneof![8 => Just(SystemRole::User), 1 => Just(SystemRole::Reader), 1 => Just(SystemRole::Service)]
}

fn draft() -> impl Strategy<Value = Draft> {
    (0..CHATS, 0..NAMES.len(), system_role(), 0..IDS.len(), 0..=LONG).prop_map(|(chat, sender, role, id, text)| Draft {
        chat,
        sender,
        role,
        id,
        text,
    })
}

fn bound() -> impl Strategy<Value = Bound> {
    prop_oneof![Just(Bound::Latest), (0_i64..40).prop_map(Bound::After), (1_i64..40).prop_map(Bound::Before)]
}

fn op() -> impl Strategy<Value = Op> {
    let users = || collection::vec(0..NAMES.len(), 0..4);
    let max_bytes = prop_oneof![Just(1_usize), 100_usize..600, Just(1_usize << 20)];
    prop_oneof![
        10 => (0_usize..2, collection::vec(draft(), 1..20)).prop_map(|(lane, batch)| Op::Append { lane, batch }),
        4 => (
            0..CHATS,
            users(),
            collection::btree_map(0..NAMES.len(), option::of(sample::select(ChatRole::ALL.to_vec())), 0..4),
            sample::select(vec![false, false, false, true]),
        )
            .prop_map(|(chat, involved, changes, refused)| Op::Change { chat, involved, changes, refused }),
        2 => (0..CHATS, 0..NAMES.len(), sample::subsequence((0..NAMES.len()).collect::<Vec<_>>(), 0..=NAMES.len()), option::of((0_u8..2, 0_u8..2)))
            .prop_map(|(chat, creator, members, request)| Op::Create { chat, creator, members, request }),
        1 => (0..CHATS, any::<bool>()).prop_map(|(chat, refused)| Op::Delete { chat, refused }),
        6 => (0..CHATS, 0..NAMES.len(), system_role(), bound(), 1_usize..12, max_bytes)
            .prop_map(|(chat, reader, role, bound, limit, max_bytes)| Op::Page { chat, reader, role, bound, limit, max_bytes }),
        1 => (0..NAMES.len(), option::of(0..CHATS), 0_usize..4).prop_map(|(user, before, limit)| Op::List { user, before, limit }),
        1 => (1_usize..20).prop_map(|limit| Op::Purge { limit }),
    ]
}

/// The two stores side by side, in one case.
struct Case<'a> {
    chats: &'a dyn ChatRepository,
    messages: &'a dyn MessageRepository,
    lanes: &'a mut [Box<dyn AppendLane>],
    model: Model,
    /// The chats that numbers mean, and those that were there before them.
    current: Vec<ChatId>,
    former: Vec<ChatId>,
    /// The case's number: users and requests of one case are nobody else's.
    number: u32,
    /// Of writes; makes times.
    clock: i64,
}

impl Case<'_> {
    fn user(&self, at: usize) -> UserId {
        UserId::new(format!("{} {}", NAMES[at], self.number))
    }

    fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::from_micros(self.clock * 1_000_001)
    }

    async fn run(&mut self, ops: Vec<Op>) -> Checked {
        for chat in 0..CHATS {
            self.current.push(ChatId::generate());
            self.create(chat, chat % NAMES.len(), &[1, 2], None).await?;
        }
        for (step, op) in ops.into_iter().enumerate() {
            let told = format!("step {step}, {op:?}");
            self.step(op).await.map_err(|why| format!("{told}: {why}"))?;
        }
        self.compare().await
    }

    async fn step(&mut self, op: Op) -> Checked {
        match op {
            Op::Append { lane, batch } => self.append(lane, &batch).await,
            Op::Change { chat, involved, changes, refused } => self.change(self.current[chat], &involved, &changes, refused).await,
            Op::Create { chat, creator, members, request } => self.create(chat, creator, &members, request).await,
            Op::Delete { chat, refused } => self.delete(self.current[chat], refused).await,
            Op::Page { chat, reader, role, bound, limit, max_bytes } => {
                let reader = Reader { user_id: self.user(reader), role };
                self.page(PageQuery { chat_id: self.current[chat], reader, bound, limit, max_bytes }).await
            }
            Op::List { user, before, limit } => {
                let (user, before) = (self.user(user), before.map(|chat| self.current[chat]));
                let found = self.chats.list(&user, before, limit).await.unwrap();
                equal(&found, &self.model.list(&user, before, limit), "the user's chats")
            }
            Op::Purge { limit } => {
                // What is left of earlier cases is purged too, so only the bound is known.
                let removed = self.chats.purge_deleted(limit).await.unwrap();
                ensure(removed <= limit, || format!("{removed} rows were purged, at most {limit} should be"))
            }
        }
    }

    async fn append(&mut self, lane: usize, drafts: &[Draft]) -> Checked {
        let message = |draft: &Draft| NewMessage {
            chat_id: self.current[draft.chat],
            sender: Sender { user_id: self.user(draft.sender), role: draft.role },
            client_message_id: IDS[draft.id].to_owned(),
            text: TEXTS.get(draft.text).map_or_else(|| "語".repeat(LONG_CHARS), |text| (*text).to_owned()),
        };
        let batch: Vec<NewMessage> = drafts.iter().map(message).collect();
        let lanes = self.lanes.len();
        let found = self.lanes[lane % lanes].append(&batch).await.unwrap();
        // The model takes the store's times, unless they decrease.
        let expected = self.model.append(&batch, |at| match found.get(at) {
            Some(AppendOutcome::Stored { created_at, .. }) => *created_at,
            _ => Timestamp::from_micros(0),
        });
        equal(&found, &expected, "outcomes")
    }

    async fn change(&mut self, chat_id: ChatId, involved: &[usize], changes: &BTreeMap<usize, Option<ChatRole>>, refused: bool) -> Checked {
        let involved: Vec<UserId> = involved.iter().map(|at| self.user(*at)).collect();
        let change = |(at, role): (&usize, &Option<ChatRole>)| {
            let user = self.user(*at);
            role.map_or(MemberChange::Remove(user.clone()), |role| MemberChange::Set(user, role))
        };
        let changes: Vec<MemberChange> = changes.iter().map(change).collect();
        let seen: Mutex<Vec<MembershipView>> = Mutex::default();
        let decide = |view: &MembershipView| {
            seen.lock().unwrap().push(view.clone());
            if refused { Err(Refusal::Denied) } else { Ok(changes.clone()) }
        };
        let now = self.now();
        let found = self.chats.change_members(chat_id, &involved, now, &decide).await.unwrap();
        let expected = self.model.change_members(chat_id, &involved, now, &decide);
        equal(&found, &expected, "changes")?;
        views_agree(&seen.into_inner().unwrap())
    }

    async fn delete(&mut self, chat_id: ChatId, refused: bool) -> Checked {
        let caller = self.user(0);
        let seen: Mutex<Vec<MembershipView>> = Mutex::default();
        let decide = |view: &MembershipView| {
            seen.lock().unwrap().push(view.clone());
            if refused { Err(Refusal::Denied) } else { Ok(()) }
        };
        let now = self.now();
        let found = self.chats.delete(chat_id, &caller, now, &decide).await.unwrap();
        let expected = self.model.delete(chat_id, &caller, &decide);
        equal(&found, &expected, "the deletion")?;
        views_agree(&seen.into_inner().unwrap())
    }

    async fn create(&mut self, chat: usize, creator: usize, members: &[usize], request: Option<(u8, u8)>) -> Checked {
        let new = NewChat {
            id: ChatId::generate(),
            title: "語 Tea".into(),
            created_by: self.user(creator),
            members: members.iter().filter(|at| **at != creator).map(|at| self.user(*at)).collect(),
            created_at: self.now(),
            request: request.map(|(id, digest)| CreateKey { request_id: format!("{id}"), digest: [digest; 32] }),
        };
        let found = self.chats.create(&new).await.unwrap();
        equal(&found, &self.model.create(&new), "the creation")?;
        if found == CreateOutcome::Created {
            self.former.push(std::mem::replace(&mut self.current[chat], new.id));
        }
        Ok(())
    }

    async fn page(&self, query: PageQuery) -> Checked {
        let found = self.messages.page(&query).await.unwrap();
        equal(&found, &self.model.page(&query), "the page")
    }

    /// Everything that can be seen of the case.
    async fn compare(&self) -> Checked {
        let all: Vec<ChatId> = self.former.iter().chain(&self.current).copied().collect();
        let mut positions = self.chats.positions(&all).await.unwrap();
        positions.sort_by_key(|position| position.chat_id);
        equal(&positions, &self.model.positions(&all), "positions")?;
        for chat_id in all {
            equal(&self.chats.members(chat_id).await.unwrap(), &self.model.members(chat_id), "members")?;
            for at in 0..NAMES.len() {
                let user = self.user(at);
                equal(&self.chats.find(chat_id, &user).await.unwrap(), &self.model.find(chat_id, &user), "the chat")?;
            }
            let reader = Reader { user_id: self.user(0), role: SystemRole::Service };
            self.page(PageQuery { chat_id, reader, bound: Bound::After(0), limit: 10_000, max_bytes: 1 << 30 }).await?;
        }
        for at in 0..NAMES.len() {
            let user = self.user(at);
            equal(&self.chats.list(&user, None, 100).await.unwrap(), &self.model.list(&user, None, 100), "the user's chats")?;
        }
        Ok(())
    }
}

/// What the two stores showed to the same decision.
fn views_agree(seen: &[MembershipView]) -> Checked {
    let plain = |view: &MembershipView| {
        let roles: BTreeMap<_, _> = view.roles.iter().map(|(user, role)| (user.clone(), *role)).collect();
        (view.member_count, view.owner_count, roles)
    };
    match seen {
        [] => Ok(()),
        [real, model] => equal(&plain(real), &plain(model), "the view of a decision"),
        _ => Err(format!("one of two stores asked for a decision, or one twice: {seen:?}")),
    }
}

/// Runs cases on one store. It isn't emptied between them: each case has chats and users of its own.
fn agrees(runtime: &Runtime, cases: u32, chats: &dyn ChatRepository, messages: &dyn MessageRepository) {
    let open = async {
        let mut lanes = Vec::new();
        for _ in 0..messages.lane_count() {
            lanes.push(messages.open_lane().await.unwrap());
        }
        lanes
    };
    let shared = RefCell::new((runtime.block_on(open), 0_u32));
    check::property(cases, &collection::vec(op(), 1..24), |ops| {
        let mut shared = shared.borrow_mut();
        let (lanes, number) = &mut *shared;
        *number += 1;
        let (current, former) = (Vec::new(), Vec::new());
        let mut case = Case { chats, messages, lanes, model: Model::default(), current, former, number: *number, clock: 0 };
        runtime.block_on(case.run(ops))
    });
    // Connections are closed where there is a runtime.
    runtime.block_on(async { drop(shared.into_inner()) });
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn sqlite_does_what_the_model_does() {
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let options = SqliteOptions { path: folder.path().join("chat.db"), read_connections: 2 };
    let store = runtime.block_on(SqliteStore::open(&options, true)).unwrap();
    agrees(&runtime, 48, &store, &store);
    runtime.block_on(store.close());
}

#[test]
fn postgres_does_what_the_model_does() {
    let runtime = runtime();
    let url = runtime.block_on(new_database());
    let options = PostgresOptions { url: url.clone().into(), pool_connections: 4, lanes: 2 };
    let store = runtime.block_on(PostgresStore::open(&options, true)).unwrap();
    agrees(&runtime, 24, &store, &store);
    runtime.block_on(async {
        store.close().await;
        drop_database(&url).await;
    });
}
