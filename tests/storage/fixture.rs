//! A store with nothing in it, and what each test of the contract runs on.

use std::sync::Arc;

use chat_service::model::access::SystemRole;
use chat_service::model::chat::CreateKey;
use chat_service::model::{
    AppendOutcome, Bound, ChatId, MemberChange, NewChat, NewMessage, Page, PageQuery, Reader, Sender, Timestamp, UserId,
};
use chat_service::repository::postgres::{PostgresOptions, PostgresStore};
use chat_service::repository::sqlite::{SqliteOptions, SqliteStore};
use chat_service::repository::{AppendLane, ChatRepository, CreateOutcome, MessageRepository, StoreError};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;

use crate::common::new_database;

/// Instantiates each test on both stores.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod sqlite_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::fixture::sqlite_fixture().await).await; })*
        }
        mod postgres_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = $crate::fixture::postgres_fixture().await;
                let place = fixture.place.clone();
                super::$name(fixture).await;
                $crate::common::drop_database(&place).await;
            })*
        }
    };
}
pub(crate) use contract;

/// A store with nothing in it.
pub struct Fixture {
    pub chats: Arc<dyn ChatRepository>,
    messages: Arc<dyn MessageRepository>,
    /// What [`Fixture::append`] appends by: one, for what it knows of the store stays with it.
    lane: Mutex<Option<Box<dyn AppendLane>>>,
    /// The database's address, or its file.
    pub place: String,
    /// Where the file is, for SQLite.
    folder: Option<tempfile::TempDir>,
}

pub async fn sqlite_fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/chat.db");
    let store = Arc::new(SqliteStore::open(&SqliteOptions { path: path.clone(), read_connections: 4 }, true).await.unwrap());
    Fixture { chats: store.clone(), messages: store, lane: Mutex::default(), place: path.display().to_string(), folder: Some(folder) }
}

pub fn postgres_options(url: &str) -> PostgresOptions {
    PostgresOptions { url: url.to_owned().into(), pool_connections: 8, lanes: 2 }
}

pub async fn postgres_fixture() -> Fixture {
    let place = new_database().await;
    let store = Arc::new(PostgresStore::open(&postgres_options(&place), true).await.unwrap());
    Fixture { chats: store.clone(), messages: store, lane: Mutex::default(), place, folder: None }
}

impl Fixture {
    pub async fn chat(&self, members: &[&str]) -> ChatId {
        let chat = new_chat("owner", members, None);
        assert_eq!(self.chats.create(&chat).await.unwrap(), CreateOutcome::Created);
        chat.id
    }

    pub async fn lane(&self) -> Box<dyn AppendLane> {
        self.messages.open_lane().await.unwrap()
    }

    pub async fn append(&self, batch: &[NewMessage]) -> Vec<AppendOutcome> {
        self.try_append(batch).await.unwrap()
    }

    pub async fn try_append(&self, batch: &[NewMessage]) -> Result<Vec<AppendOutcome>, StoreError> {
        let mut lane = self.lane.lock().await;
        if lane.is_none() {
            *lane = Some(self.lane().await);
        }
        lane.as_mut().unwrap().append(batch).await
    }

    /// The next one is opened anew.
    pub async fn forget_lane(&self) {
        *self.lane.lock().await = None;
    }

    pub async fn page_of(&self, reader: &str, chat_id: ChatId, bound: Bound, limit: usize, max_bytes: usize) -> Option<Page> {
        let reader = Reader { user_id: user(reader), role: SystemRole::User };
        self.messages.page(&PageQuery { chat_id, reader, bound, limit, max_bytes }).await.unwrap()
    }

    pub async fn page(&self, chat_id: ChatId, bound: Bound, limit: usize) -> (Vec<i64>, bool) {
        let page = self.page_of("owner", chat_id, bound, limit, usize::MAX >> 1).await.unwrap();
        (page.messages.iter().map(|m| m.sequence).collect(), page.has_more)
    }

    /// SQLite's file, for a program beside the server.
    pub async fn beside(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(&self.place).connect().await.unwrap()
    }

    /// Puts the chat's newest message at a time, as a server whose clock runs ahead does.
    pub async fn set_last_message_at(&self, chat_id: ChatId, secs: u32) {
        if self.folder.is_some() {
            let mut connection = self.beside().await;
            let update = "UPDATE messages SET created_at = ?1
                          WHERE chat_id = ?2 AND sequence = (SELECT last_sequence FROM live_chats WHERE id = ?2)";
            let update = sqlx::query(update).bind(i64::from(secs) * 1_000_000).bind(chat_id.as_uuid());
            assert_eq!(update.execute(&mut connection).await.unwrap().rows_affected(), 1);
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.place).await.unwrap();
            let update = sqlx::query("UPDATE chats SET last_message_at = to_timestamp($1) WHERE id = $2").bind(f64::from(secs));
            update.bind(chat_id.as_uuid()).execute(&mut connection).await.unwrap();
        }
    }

    /// The chat's access version then.
    pub async fn change(&self, chat_id: ChatId, change: MemberChange) -> i64 {
        let decide = |_: &_| Ok(vec![change.clone()]);
        let changed = self.chats.change_members(chat_id, &[], Timestamp::from_micros(1), &decide).await.unwrap().unwrap();
        assert_eq!(changed.changes, [change]);
        changed.access_version
    }
}

pub fn user(name: &str) -> UserId {
    UserId::new(name)
}

pub fn message(chat_id: ChatId, sender: &str, id: &str, text: &str) -> NewMessage {
    let sender = Sender { user_id: user(sender), role: SystemRole::User };
    NewMessage { chat_id, sender, client_message_id: id.into(), text: text.into() }
}

pub fn new_chat(owner: &str, members: &[&str], request: Option<CreateKey>) -> NewChat {
    NewChat {
        id: ChatId::generate(),
        title: "Tea".into(),
        created_by: user(owner),
        members: members.iter().map(|name| user(name)).collect(),
        created_at: Timestamp::from_micros(1_000_000),
        request,
    }
}

pub fn sequence(outcome: &AppendOutcome) -> Option<i64> {
    match outcome {
        AppendOutcome::Stored { sequence, .. } => Some(*sequence),
        _ => None,
    }
}

pub fn sequences(outcomes: &[AppendOutcome]) -> Vec<Option<i64>> {
    outcomes.iter().map(sequence).collect()
}
