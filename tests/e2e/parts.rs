//! The sweep and sessions without a server, where a part must fail or time must pass.

use std::sync::Arc;
use std::time::Duration;

use chat_service::broker::{AccessEnd, Broker, Delivery, Eviction, Mailbox, Registry};
use chat_service::interceptor::token::{Demands, Key, Verifier};
use chat_service::model::{Clock, Identity, SystemClock, SystemRole, Timestamp, UserId};
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::*;
use chat_service::ratelimiter::memory::{MemoryLimiter, Rates};
use chat_service::repository::MessageRepository;
use chat_service::repository::sqlite::{SqliteOptions, SqliteStore};
use chat_service::service::append::Appender;
use chat_service::service::{ChatService, CreateChat, Parts, SendMessage, run_sweep};
use chat_service::transport::session::{Session, SessionOptions, outbox};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// A broker that loses everything.
struct LossyBroker;

#[tonic::async_trait]
impl Broker for LossyBroker {
    async fn publish(&self, _: Vec<Arc<Delivery>>) {}
    async fn announce(&self, _: AccessEnd) {}
}

/// The service on SQLite, without a server and with a broker that loses everything.
pub struct Alone {
    pub service: Arc<ChatService>,
    pub store: Arc<SqliteStore>,
    pub registry: Arc<Registry>,
    pub _folder: tempfile::TempDir,
}

impl Alone {
    pub async fn new() -> Self {
        Self::by(Arc::new(SystemClock)).await
    }

    /// By this clock.
    pub async fn by(clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions { path: folder.path().join("chat.db"), read_connections: 2 };
        let store = Arc::new(SqliteStore::open(&options, true).await.unwrap());
        let (registry, broker): (_, Arc<dyn Broker>) = (Registry::new(), Arc::new(LossyBroker));
        let (appender, _lanes) = Appender::start(vec![store.open_lane().await.unwrap()], &broker);
        let (chats, messages) = (store.clone(), store.clone());
        let parts = Parts { chats, messages, broker, registry: registry.clone(), appender, clock };
        Self { service: Arc::new(ChatService::new(parts)), store, registry, _folder: folder }
    }
}

pub fn identity(name: &str) -> Identity {
    Identity { user_id: UserId::new(name), role: SystemRole::User, expires_at: Timestamp::from_secs(i64::MAX / 4_000_000) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_heals_what_the_broker_lost() {
    let Alone { service, store, registry, _folder } = Alone::new().await;
    let (alice, bob) = (identity("alice"), identity("bob"));
    let create = CreateChat { title: "Tea".into(), member_ids: vec![bob.user_id.clone()], request_id: None };
    let chat_id = service.create_chat(&alice, create).await.unwrap().chat.id;
    let mailbox = Arc::new(Mailbox::default());
    let mut joined = service.join(&bob, chat_id, None, mailbox.clone()).await.unwrap();
    let send = SendMessage { chat_id, client_message_id: "1".into(), text: "the last message".into() };
    service.send_message(&alice, send).await.unwrap();
    let sweep = run_sweep(store.clone(), store, registry, Duration::from_millis(20), CancellationToken::new());
    let sweep = tokio::spawn(sweep);
    assert_eq!(within(joined.receiver.recv()).await.unwrap().message.sequence, 1);
    service.remove_member(&alice, chat_id, bob.user_id.clone()).await.unwrap();
    let evictions = within(std::future::poll_fn(|cx| mailbox.poll_take(cx))).await;
    assert_eq!(evictions, [(chat_id, joined.subscription.key(), Eviction::Removed)]);
    sweep.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_chat_that_can_not_be_read_does_not_keep_the_sweep_from_the_others() {
    let Alone { service, store, registry, _folder: folder } = Alone::new().await;
    let alice = identity("alice");
    let mut joined = Vec::new();
    for _ in 0..2 {
        let create = CreateChat { title: "Tea".into(), member_ids: Vec::new(), request_id: None };
        let chat_id = service.create_chat(&alice, create).await.unwrap().chat.id;
        joined.push(service.join(&alice, chat_id, None, Arc::new(Mailbox::default())).await.unwrap());
        service.send_message(&alice, SendMessage { chat_id, client_message_id: "1".into(), text: "x".into() }).await.unwrap();
    }
    // The one that the sweep comes to first holds what can't be text.
    let broken = registry.chats()[0];
    let file = format!("sqlite:{}", folder.path().join("chat.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&file).await.unwrap();
    let spoil = sqlx::query("UPDATE messages SET text = x'ff' WHERE chat_id = ?").bind(broken.as_uuid());
    assert_eq!(spoil.execute(&mut connection).await.unwrap().rows_affected(), 1);
    let sweep = tokio::spawn(run_sweep(store.clone(), store, registry, Duration::from_millis(20), CancellationToken::new()));
    let whole = joined.iter_mut().find(|joined| joined.chat.id != broken).unwrap();
    assert_eq!(within(whole.receiver.recv()).await.unwrap().message.sequence, 1);
    sweep.abort();
}

#[tokio::test]
async fn a_stream_without_a_valid_first_frame_ends_after_ten_seconds() {
    let Alone { service, _folder, .. } = Alone::new().await;
    let key = Key::Secret(SECRET.into());
    let verifier = Arc::new(Verifier::new(&key, &Demands::default()).unwrap());
    let limiter = Arc::new(MemoryLimiter::new(Rates::default()));
    let (clock, draining) = (Arc::new(SystemClock), CancellationToken::new());
    let leaving = draining.clone();
    let options = Arc::new(SessionOptions { service, verifier, clock, limiter, send_due: None, draining });
    // Frames that don't count: one of no kind, and one that breaks a rule.
    let invalid = Frame::Leave(LeaveFrame { chat_id: "no uuid".into() });
    let frames = futures_util::stream::iter([None, Some(invalid)].map(|frame| Ok(ConnectChatRequest { frame })));
    let (outbox, mut body) = outbox::outbox();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let frames = frames.chain(futures_util::stream::pending());
    let session = Session::new(options, leaving, identity("alice"), frames, outbox);
    let session = tokio::spawn(session.run());
    let trailers = loop {
        let frame = body.frame().await.unwrap().unwrap();
        if let Ok(trailers) = frame.into_trailers() {
            break trailers;
        }
    };
    assert_eq!(trailers["grpc-status"], "4", "DEADLINE_EXCEEDED");
    assert_eq!(began.elapsed().as_secs(), 10);
    session.abort();
}
