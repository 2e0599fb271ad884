//! The storage contract: one suite, run on both stores.

mod common;

use std::sync::Arc;

use chat_service::model::access::{ChatRole, SystemRole};
use chat_service::model::chat::CreateKey;
use chat_service::model::{
    AppendOutcome, Bound, ChatId, MemberChange, MembersChanged, NewChat, NewMessage, Page, PageQuery, Reader, Refusal, Sender, Timestamp,
    UserId,
};
use chat_service::repository::postgres::{self, PostgresOptions, PostgresStore};
use chat_service::repository::sqlite::{self, SqliteOptions, SqliteStore};
use chat_service::repository::{AppendLane, ChatRepository, CreateOutcome, MessageRepository, SchemaError, StoreError};
use common::{drop_database, new_database};
use sqlx::Connection;

/// A store with nothing in it.
struct Fixture {
    chats: Arc<dyn ChatRepository>,
    messages: Arc<dyn MessageRepository>,
    /// The database's address, or its file.
    place: String,
    /// Where the file is, for SQLite.
    folder: Option<tempfile::TempDir>,
}

async fn sqlite_fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/chat.db");
    let store = Arc::new(SqliteStore::open(&SqliteOptions { path: path.clone(), read_connections: 4 }, true).await.unwrap());
    Fixture { chats: store.clone(), messages: store, place: path.display().to_string(), folder: Some(folder) }
}

fn postgres_options(url: &str) -> PostgresOptions {
    PostgresOptions { url: url.to_owned().into(), pool_connections: 8, lanes: 2 }
}

async fn postgres_fixture() -> Fixture {
    let place = new_database().await;
    let store = Arc::new(PostgresStore::open(&postgres_options(&place), true).await.unwrap());
    Fixture { chats: store.clone(), messages: store, place, folder: None }
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod sqlite_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::sqlite_fixture().await).await; })*
        }
        mod postgres_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = super::postgres_fixture().await;
                let place = fixture.place.clone();
                super::$name(fixture).await;
                super::drop_database(&place).await;
            })*
        }
    };
}

contract!(
    numbers_have_no_holes_and_refused_messages_take_none,
    a_retry_gets_the_first_ones_place_in_the_same_batch_and_later,
    a_retry_is_answered_even_after_its_sender_was_removed,
    a_retry_is_answered_whatever_its_own_rights_in_the_same_batch_too,
    membership_is_checked_with_the_append,
    times_never_decrease_with_the_sequence,
    pages_go_both_ways_and_end_early_by_weight,
    concurrent_appends_and_retries_to_one_chat_and_to_many_leave_no_hole,
    a_poison_message_is_refused_and_stores_nothing,
    a_deleted_chat_is_gone_at_once_and_purged_in_chunks,
    a_request_id_makes_one_chat,
    after_a_removal_returned_nothing_of_that_user_is_stored,
    changes_of_members_raise_the_access_version,
    a_users_chats_are_listed_newest_first,
);

fn user(name: &str) -> UserId {
    UserId::new(name)
}

fn message(chat_id: ChatId, sender: &str, id: &str, text: &str) -> NewMessage {
    let sender = Sender { user_id: user(sender), role: SystemRole::User };
    NewMessage { chat_id, sender, client_message_id: id.into(), text: text.into() }
}

impl Fixture {
    async fn chat(&self, members: &[&str]) -> ChatId {
        let chat = new_chat("owner", members, None);
        assert_eq!(self.chats.create(&chat).await.unwrap(), CreateOutcome::Created);
        chat.id
    }

    async fn lane(&self) -> Box<dyn AppendLane> {
        self.messages.open_lane().await.unwrap()
    }

    async fn append(&self, batch: &[NewMessage]) -> Vec<AppendOutcome> {
        self.lane().await.append(batch).await.unwrap()
    }

    async fn page_of(&self, reader: &str, chat_id: ChatId, bound: Bound, limit: usize, max_bytes: usize) -> Option<Page> {
        let reader = Reader { user_id: user(reader), role: SystemRole::User };
        self.messages.page(&PageQuery { chat_id, reader, bound, limit, max_bytes }).await.unwrap()
    }

    async fn page(&self, chat_id: ChatId, bound: Bound, limit: usize) -> (Vec<i64>, bool) {
        let page = self.page_of("owner", chat_id, bound, limit, usize::MAX >> 1).await.unwrap();
        (page.messages.iter().map(|m| m.sequence).collect(), page.has_more)
    }

    /// Puts the chat's newest message at a time, as a server whose clock runs ahead does.
    async fn set_last_message_at(&self, chat_id: ChatId, secs: u32) {
        if self.folder.is_some() {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.place);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            let update = sqlx::query("UPDATE chats SET last_message_at = ? WHERE id = ?").bind(i64::from(secs) * 1_000_000);
            update.bind(chat_id.as_uuid()).execute(&mut connection).await.unwrap();
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.place).await.unwrap();
            let update = sqlx::query("UPDATE chats SET last_message_at = to_timestamp($1) WHERE id = $2").bind(f64::from(secs));
            update.bind(chat_id.as_uuid()).execute(&mut connection).await.unwrap();
        }
    }

    /// The chat's access version then.
    async fn change(&self, chat_id: ChatId, change: MemberChange) -> i64 {
        let decide = |_: &_| Ok(vec![change.clone()]);
        let changed = self.chats.change_members(chat_id, &[], Timestamp::from_micros(1), &decide).await.unwrap().unwrap();
        assert_eq!(changed.changes, [change]);
        changed.access_version
    }
}

fn new_chat(owner: &str, members: &[&str], request: Option<CreateKey>) -> NewChat {
    NewChat {
        id: ChatId::generate(),
        title: "Tea".into(),
        created_by: user(owner),
        members: members.iter().map(|name| user(name)).collect(),
        created_at: Timestamp::from_micros(1_000_000),
        request,
    }
}

fn sequence(outcome: &AppendOutcome) -> Option<i64> {
    match outcome {
        AppendOutcome::Stored { sequence, .. } => Some(*sequence),
        _ => None,
    }
}

fn sequences(outcomes: &[AppendOutcome]) -> Vec<Option<i64>> {
    outcomes.iter().map(sequence).collect()
}

async fn numbers_have_no_holes_and_refused_messages_take_none(f: Fixture) {
    let (one, two) = (f.chat(&["bob"]).await, f.chat(&[]).await);
    let outcomes = f
        .append(&[
            message(one, "owner", "1", "a"),
            message(two, "owner", "1", "b"),
            message(one, "eve", "1", "c"),
            message(one, "bob", "1", "d"),
        ])
        .await;
    assert_eq!(sequences(&outcomes), [Some(1), Some(1), None, Some(2)]);
    assert_eq!(outcomes[2], AppendOutcome::NotFound);
    assert_eq!(sequences(&f.append(&[message(one, "bob", "2", "e")]).await), [Some(3)]);
    assert_eq!(f.page(one, Bound::After(0), 10).await, (vec![1, 2, 3], false));
    assert_eq!(f.append(&[message(ChatId::generate(), "owner", "1", "x")]).await, [AppendOutcome::NotFound]);
}

async fn a_retry_gets_the_first_ones_place_in_the_same_batch_and_later(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let (first, other) = (message(chat, "owner", "1", "a"), message(chat, "owner", "1", "other"));
    let same_id_of_bob = message(chat, "bob", "1", "a");
    let outcomes = f.append(&[first.clone(), first.clone(), other.clone(), same_id_of_bob]).await;
    let AppendOutcome::Stored { sequence: 1, created_at } = outcomes[0] else { panic!("{outcomes:?}") };
    let duplicate = AppendOutcome::Duplicate { sequence: 1, created_at };
    assert_eq!(outcomes[1..3], [duplicate, AppendOutcome::Conflict]);
    assert_eq!(sequence(&outcomes[3]), Some(2), "ids are their senders' own");
    assert_eq!(f.append(&[first, other]).await, [duplicate, AppendOutcome::Conflict]);
    assert_eq!(f.page(chat, Bound::After(0), 10).await, (vec![1, 2], false));
}

async fn a_retry_is_answered_even_after_its_sender_was_removed(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let sent = message(chat, "bob", "1", "a");
    f.append(std::slice::from_ref(&sent)).await;
    f.change(chat, MemberChange::Remove(user("bob"))).await;
    let outcomes = f.append(&[sent, message(chat, "bob", "2", "b")]).await;
    assert!(matches!(outcomes[..], [AppendOutcome::Duplicate { sequence: 1, .. }, AppendOutcome::NotFound]), "{outcomes:?}");
}

async fn a_retry_is_answered_whatever_its_own_rights_in_the_same_batch_too(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let first = message(chat, "bob", "1", "a");
    let mut by_reading_token = first.clone();
    by_reading_token.sender.role = SystemRole::Reader;
    let outcomes = f.append(&[by_reading_token.clone(), first, by_reading_token.clone()]).await;
    let AppendOutcome::Stored { sequence: 1, created_at } = outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!((outcomes[0], outcomes[2]), (AppendOutcome::Denied, AppendOutcome::Duplicate { sequence: 1, created_at }));
    assert_eq!(f.append(&[by_reading_token]).await, [outcomes[2]]);
}

async fn membership_is_checked_with_the_append(f: Fixture) {
    let chat = f.chat(&["bob", "rita"]).await;
    f.change(chat, MemberChange::Set(user("rita"), ChatRole::Reader)).await;
    let with_role = |sender: &str, role| {
        let mut message = message(chat, sender, "1", "a");
        message.sender.role = role;
        message
    };
    let outcomes = f
        .append(&[
            with_role("eve", SystemRole::User),
            with_role("rita", SystemRole::User),
            with_role("bob", SystemRole::Reader),
            // The same id again with a right to send: the refused one before it has stored nothing.
            with_role("bob", SystemRole::User),
            with_role("eve", SystemRole::Reader),
            with_role("backend", SystemRole::Service),
        ])
        .await;
    assert_eq!(outcomes[..3], [AppendOutcome::NotFound, AppendOutcome::Denied, AppendOutcome::Denied]);
    assert_eq!(sequences(&outcomes[3..]), [Some(1), None, Some(2)]);
    assert_eq!(outcomes[4], AppendOutcome::NotFound);
}

async fn times_never_decrease_with_the_sequence(f: Fixture) {
    let chat = f.chat(&[]).await;
    for number in 0..20 {
        f.append(&[message(chat, "owner", &number.to_string(), "a")]).await;
    }
    // The year 2100: a clock that ran ahead and was set right again.
    let ahead_secs = 4_102_444_800;
    f.set_last_message_at(chat, ahead_secs).await;
    let created_at = Timestamp::from_secs(i64::from(ahead_secs));
    let outcomes = f.append(&[message(chat, "owner", "later", "a"), message(chat, "owner", "last", "a")]).await;
    assert_eq!(outcomes, [21, 22].map(|sequence| AppendOutcome::Stored { sequence, created_at }));
    let page = f.page_of("owner", chat, Bound::After(0), 100, 1 << 20).await.unwrap();
    assert!(page.messages.is_sorted_by_key(|m| m.created_at));
}

async fn pages_go_both_ways_and_end_early_by_weight(f: Fixture) {
    let chat = f.chat(&[]).await;
    assert_eq!(f.page(chat, Bound::Latest, 2).await, (vec![], false));
    let batch: Vec<_> = (1..=5).map(|number| message(chat, "owner", &number.to_string(), &"語".repeat(1000))).collect();
    f.append(&batch).await;
    assert_eq!(f.page(chat, Bound::After(0), 2).await, (vec![1, 2], true));
    assert_eq!(f.page(chat, Bound::After(3), 2).await, (vec![4, 5], false));
    assert_eq!(f.page(chat, Bound::After(5), 2).await, (vec![], false));
    assert_eq!(f.page(chat, Bound::Before(4), 2).await, (vec![2, 3], true));
    assert_eq!(f.page(chat, Bound::Before(3), 2).await, (vec![1, 2], false));
    assert_eq!(f.page(chat, Bound::Latest, 2).await, (vec![4, 5], true));
    let light = f.page_of("owner", chat, Bound::After(0), 5, 1).await.unwrap();
    assert_eq!((light.messages.len(), light.has_more, light.last_sequence), (1, true, 5), "at least one");
    let two = f.page_of("owner", chat, Bound::Latest, 5, 4000).await.unwrap();
    assert_eq!(two.messages.iter().map(|m| m.sequence).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(f.page_of("eve", chat, Bound::After(0), 5, 1 << 20).await, None);
}

async fn concurrent_appends_and_retries_to_one_chat_and_to_many_leave_no_hole(f: Fixture) {
    const EACH: i64 = 100;
    let hot = f.chat(&[]).await;
    let mut chats = vec![hot];
    for _ in 0..4 {
        chats.push(f.chat(&[]).await);
    }
    // Two lanes append the very same messages, in batches of other sizes; a third one's are its own.
    let mut tasks = Vec::new();
    for (lane_number, batch_size) in [(0, 7), (0, 10), (1, 3)] {
        let (mut lane, chats) = (f.lane().await, chats.clone());
        tasks.push(tokio::spawn(async move {
            let all: Vec<_> = (0..EACH)
                .flat_map(|n| chats.iter().map(move |chat| message(*chat, "owner", &format!("{lane_number}-{n}"), "a")).collect::<Vec<_>>())
                .collect();
            for batch in all.chunks(batch_size) {
                for outcome in lane.append(batch).await.unwrap() {
                    assert!(matches!(outcome, AppendOutcome::Stored { .. } | AppendOutcome::Duplicate { .. }), "{outcome:?}");
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for chat in chats {
        assert_eq!(f.page(chat, Bound::After(0), 1000).await.0, (1..=2 * EACH).collect::<Vec<_>>());
    }
}

async fn a_poison_message_is_refused_and_stores_nothing(f: Fixture) {
    let chat = f.chat(&[]).await;
    let poison = message(chat, "owner", "2", &"x".repeat(5000));
    let error = f.lane().await.append(&[message(chat, "owner", "1", "a"), poison]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)) && !error.is_unknown_outcome(), "{error:?}");
    assert_eq!(f.page(chat, Bound::After(0), 10).await, (vec![], false));
    assert_eq!(sequences(&f.append(&[message(chat, "owner", "1", "a")]).await), [Some(1)]);
}

async fn a_deleted_chat_is_gone_at_once_and_purged_in_chunks(f: Fixture) {
    let key = CreateKey { request_id: "r".into(), digest: [1; 32] };
    let chat = new_chat("owner", &["bob"], Some(key.clone()));
    f.chats.create(&chat).await.unwrap();
    let batch: Vec<_> = (0..10).map(|n| message(chat.id, "owner", &n.to_string(), "a")).collect();
    f.append(&batch).await;
    let refused = f.chats.delete(chat.id, &user("bob"), Timestamp::from_micros(2), &|_| Err(Refusal::Denied)).await.unwrap();
    assert_eq!(refused, Err(Refusal::Denied));
    f.chats.delete(chat.id, &user("owner"), Timestamp::from_micros(2), &|_| Ok(())).await.unwrap().unwrap();

    assert_eq!(f.chats.find(chat.id, &user("owner")).await.unwrap(), None);
    assert_eq!(f.page_of("owner", chat.id, Bound::Latest, 1, 1).await, None);
    assert_eq!(f.append(&[batch[0].clone()]).await, [AppendOutcome::NotFound], "even a retry");
    assert!(f.chats.list(&user("bob"), None, 10).await.unwrap().is_empty());
    assert!(f.chats.positions(&[chat.id]).await.unwrap().is_empty());
    assert!(f.chats.members(chat.id).await.unwrap().is_empty());
    let again = f.chats.delete(chat.id, &user("owner"), Timestamp::from_micros(3), &|_| Ok(())).await.unwrap();
    assert_eq!(again, Err(Refusal::ChatNotFound));
    assert_eq!(f.chats.create(&new_chat("owner", &[], Some(key))).await.unwrap(), CreateOutcome::Created, "its request_id is free");

    let mut removed = Vec::new();
    loop {
        match f.chats.purge_deleted(4).await.unwrap() {
            0 => break,
            rows => removed.push(rows),
        }
    }
    assert!(removed.iter().all(|rows| *rows <= 4), "{removed:?}");
    assert_eq!(removed.iter().sum::<usize>(), 10 + 2 + 1, "messages, members, the chat");
}

async fn a_request_id_makes_one_chat(f: Fixture) {
    let key = |digest| Some(CreateKey { request_id: "r".into(), digest: [digest; 32] });
    let first = new_chat("owner", &[], key(1));
    assert_eq!(f.chats.create(&first).await.unwrap(), CreateOutcome::Created);
    assert_eq!(f.chats.create(&new_chat("owner", &[], key(1))).await.unwrap(), CreateOutcome::Existing(first.id));
    assert_eq!(f.chats.create(&new_chat("owner", &[], key(2))).await.unwrap(), CreateOutcome::Conflict);
    assert_eq!(f.chats.create(&new_chat("bob", &[], key(2))).await.unwrap(), CreateOutcome::Created, "per creator");
}

async fn after_a_removal_returned_nothing_of_that_user_is_stored(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let (removed, mut is_removed) = tokio::sync::watch::channel(false);
    let mut lane = f.lane().await;
    let sender = tokio::spawn(async move {
        let mut number = 0;
        loop {
            let known = *is_removed.borrow_and_update();
            let outcome = lane.append(&[message(chat, "bob", &number.to_string(), "a")]).await.unwrap()[0];
            if known {
                return outcome;
            }
            number += 1;
        }
    });
    f.change(chat, MemberChange::Remove(user("bob"))).await;
    removed.send(true).unwrap();
    assert_eq!(sender.await.unwrap(), AppendOutcome::NotFound);
    let last = f.chats.positions(&[chat]).await.unwrap()[0].last_sequence;
    assert_eq!(f.page(chat, Bound::After(0), 1_000_000).await.0, (1..=last).collect::<Vec<_>>());
}

async fn changes_of_members_raise_the_access_version(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let version = async || f.chats.positions(&[chat]).await.unwrap()[0].access_version;
    let first = version().await;
    let set = f.change(chat, MemberChange::Set(user("bob"), ChatRole::Reader)).await;
    assert_eq!((set, version().await), (first + 1, first + 1));
    let removed = f.change(chat, MemberChange::Remove(user("bob"))).await;
    assert_eq!((removed, version().await), (first + 2, first + 2));
    let none = f.chats.change_members(chat, &[], Timestamp::from_micros(1), &|_| Ok(vec![])).await.unwrap().unwrap();
    let unchanged = MembersChanged { changes: vec![], access_version: first + 2 };
    assert_eq!((none, version().await), (unchanged, first + 2), "no change, no new version");
}

async fn a_users_chats_are_listed_newest_first(f: Fixture) {
    let mut chats = Vec::new();
    for _ in 0..3 {
        chats.push(f.chat(&["bob"]).await);
    }
    f.chat(&[]).await;
    chats.sort_unstable();
    chats.reverse();
    let ids = async |before, limit| f.chats.list(&user("bob"), before, limit).await.unwrap().iter().map(|c| c.id).collect::<Vec<_>>();
    assert_eq!(ids(None, 10).await, chats);
    assert_eq!(ids(Some(chats[0]), 1).await, chats[1..2]);
}

#[tokio::test]
async fn a_second_server_on_one_sqlite_file_is_refused() {
    let f = sqlite_fixture().await;
    let second = SqliteStore::open(&SqliteOptions { path: f.place.clone().into(), read_connections: 1 }, true).await;
    assert!(matches!(second, Err(sqlite::OpenError::Locked(_))));
}

#[tokio::test]
async fn a_sqlite_schema_that_is_too_old_or_too_new_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { path: folder.path().join("chat.db"), read_connections: 1 };
    let old = SqliteStore::open(&options, false).await;
    assert!(matches!(old, Err(sqlite::OpenError::Schema(SchemaError::TooOld { found: 0, .. }))));
    drop(SqliteStore::open(&options, true).await.unwrap());
    drop(SqliteStore::open(&options, false).await.unwrap());
    let file = sqlx::sqlite::SqliteConnectOptions::new().filename(&options.path);
    let mut connection = sqlx::SqliteConnection::connect_with(&file).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', true, x'', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    for migrate in [true, false] {
        let new = SqliteStore::open(&options, migrate).await;
        assert!(matches!(new, Err(sqlite::OpenError::Schema(SchemaError::TooNew { found: 9999, .. }))), "{migrate}");
    }
}

#[tokio::test]
async fn a_postgres_schema_that_is_too_old_or_too_new_is_refused() {
    let url = new_database().await;
    let old = PostgresStore::open(&postgres_options(&url), false).await;
    assert!(matches!(old, Err(postgres::OpenError::Schema(SchemaError::TooOld { found: 0, .. }))));
    PostgresStore::open(&postgres_options(&url), true).await.unwrap();
    PostgresStore::open(&postgres_options(&url), false).await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', true, '', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    for migrate in [true, false] {
        let new = PostgresStore::open(&postgres_options(&url), migrate).await;
        assert!(matches!(new, Err(postgres::OpenError::Schema(SchemaError::TooNew { found: 9999, .. }))), "{migrate}");
    }
    drop_database(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_postgres_leave_no_hole() {
    let f = postgres_fixture().await;
    let chat = f.chat(&[]).await;
    let mut tasks = Vec::new();
    for server in 0..2 {
        let store = PostgresStore::open(&postgres_options(&f.place), true).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut lane = store.open_lane().await.unwrap();
            for number in 0..100 {
                // Every other message is sent through both.
                let id = if number % 2 == 0 { format!("both {number}") } else { format!("{server} {number}") };
                lane.append(&[message(chat, "owner", &id, "a")]).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(f.page(chat, Bound::After(0), 500).await.0, (1..=150).collect::<Vec<_>>());
    drop_database(&f.place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_can_not_be_locked_fails_alone() {
    let f = postgres_fixture().await;
    let (free, stuck) = (f.chat(&[]).await, f.chat(&[]).await);
    let mut foreign = sqlx::PgConnection::connect(&f.place).await.unwrap();
    let mut tx = foreign.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM chats WHERE id = $1 FOR UPDATE").bind(stuck.as_uuid()).execute(&mut *tx).await.unwrap();
    let outcomes = f.append(&[message(stuck, "owner", "1", "a"), message(free, "owner", "1", "b")]).await;
    assert_eq!(outcomes[0], AppendOutcome::Busy);
    assert_eq!(sequence(&outcomes[1]), Some(1));
    tx.rollback().await.unwrap();
    assert_eq!(sequences(&f.append(&[message(stuck, "owner", "1", "a")]).await), [Some(1)]);
    drop_database(&f.place).await;
}

#[tokio::test]
async fn an_append_that_postgres_reports_as_failed_is_known_to_be_undone() {
    let f = postgres_fixture().await;
    let chat = f.chat(&[]).await;
    let mut connection = sqlx::PgConnection::connect(&f.place).await.unwrap();
    // A message's text is the code of the error that its insert meets.
    for statement in [
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = NEW.text; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION fail()",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let mut lane = f.lane().await;
    for (code, is_undone) in [
        ("25006", true),
        ("40001", true),
        ("40P01", true),
        ("53100", true),
        ("55P03", true),
        ("57014", true),
        // What ends the session, or comes from between, may hide a commit.
        ("57P01", false),
        ("08006", false),
        ("40003", false),
    ] {
        let error = lane.append(&[message(chat, "owner", code, code)]).await.unwrap_err();
        assert_eq!((matches!(error, StoreError::Undone(_)), error.is_unknown_outcome()), (is_undone, !is_undone), "{code}: {error:?}");
    }
    sqlx::query("DROP TRIGGER fail ON messages").execute(&mut connection).await.unwrap();
    assert_eq!(sequences(&lane.append(&[message(chat, "owner", "1", "a")]).await.unwrap()), [Some(1)]);
    drop_database(&f.place).await;
}
