//! Servers and clients for tests: a real port, TLS, tokens; each server has a store of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod process;
pub mod raw_tls;
pub mod redis_server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chat_service::app::server::{Server, StartError, Times};
use chat_service::app::{certs, token};
use chat_service::broker::{BrokerStats, Registry};
use chat_service::config::{Config, ServeArgs};
use chat_service::pb::chat::v1::chat_service_client::ChatServiceClient;
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use clap::Parser;
use prost::Message as _;
use sqlx::Connection;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::InterceptedService;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

pub const SECRET: &str = "a secret of the tests, long enough for HS256";
/// No test waits longer for anything: one that would is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which store a test runs on.
#[derive(Clone, Copy, Debug)]
pub enum On {
    Sqlite,
    Postgres,
}

/// Instantiates each test on both stores.
#[macro_export]
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::common::On::Sqlite).await; })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::common::On::Postgres).await; })*
        }
    };
}

/// A folder with keys, and a database; gone with the last value.
pub struct Ground {
    pub folder: tempfile::TempDir,
    pub database_url: String,
}

impl Ground {
    pub async fn new(on: On) -> Arc<Self> {
        Arc::new(match on {
            On::Sqlite => Self::with_database(None),
            On::Postgres => Self::with_database(Some(new_database().await)),
        })
    }

    /// On this database; `None`: on an SQLite file in the folder.
    pub fn with_database(url: Option<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_certs(&folder.path().join("certs"));
        std::fs::write(folder.path().join("secret"), format!("{SECRET}\n")).unwrap();
        let database_url = url.unwrap_or_else(|| format!("sqlite:{}", folder.path().join("data/chat.db").display()));
        Self { folder, database_url }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new CA and new certificates, in the place of the old ones.
    pub fn renew_certs(&self) {
        make_certs(&self.path("certs"));
    }

    /// The flags of a server on this ground.
    pub fn flags(&self) -> Vec<String> {
        let path = |name| self.path(name).display().to_string();
        [
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--database-url",
            &self.database_url,
            "--tls-cert",
            &path("certs/server.pem"),
            "--tls-key",
            &path("certs/server.key"),
            "--auth-secret",
            &path("secret"),
            "--sweep-interval",
            "200ms",
            // Tests of limits set their own.
            "--rate-limit-user-sends",
            "0",
            "--rate-limit-user-calls",
            "0",
            "--rate-limit-address",
            "0",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The same without its secret: something else vouches for tokens.
    pub fn flags_without_secret(&self) -> Vec<String> {
        let mut flags = self.flags();
        let at = flags.iter().position(|flag| flag == "--auth-secret").unwrap();
        flags.drain(at..at + 2);
        flags
    }
}

#[derive(Parser)]
struct GenCert {
    #[command(flatten)]
    args: certs::GenCertArgs,
}

fn make_certs(folder: &Path) {
    certs::generate(&GenCert::parse_from(["gen-cert", "--force", "--out", folder.to_str().unwrap()]).args).unwrap();
}

/// A flag that comes again replaces the one before.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Serve {
    #[command(flatten)]
    args: ServeArgs,
}

/// A PostgreSQL database of its own.
pub async fn new_database() -> String {
    let base = std::env::var("TEST_DATABASE_URL").expect("TEST_DATABASE_URL is not set: run `make test`, which starts PostgreSQL");
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let mut connection = sqlx::PgConnection::connect(&base).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
    let (server, _) = base.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

/// Removes a database that [`new_database`] made, with whoever is connected.
pub async fn drop_database(url: &str) {
    let base = std::env::var("TEST_DATABASE_URL").unwrap();
    let (_, name) = url.rsplit_once('/').unwrap();
    let mut connection = sqlx::PgConnection::connect(&base).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut connection).await.unwrap();
}

/// A server in this process.
pub struct TestServer {
    pub ground: Arc<Ground>,
    pub port: u16,
    pub registry: Arc<Registry>,
    pub broker: Arc<BrokerStats>,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl TestServer {
    pub async fn start(on: On) -> Self {
        Self::start_on(Ground::new(on).await, &[]).await
    }

    pub async fn start_on(ground: Arc<Ground>, more: &[&str]) -> Self {
        Self::start_with(ground, more, |_| {}).await
    }

    /// A server some of whose times are others than the usual ones. Flags in `more` take the place of the ground's.
    pub async fn start_with(ground: Arc<Ground>, more: &[&str], adjust: impl FnOnce(&mut Times)) -> Self {
        let flags = ground.flags();
        Self::try_start_with(ground, &flags, more, adjust).await.unwrap()
    }

    /// Where something else than the ground's secret vouches for tokens.
    pub async fn start_without_secret(ground: Arc<Ground>, more: &[&str]) -> Self {
        let flags = ground.flags_without_secret();
        Self::try_start(ground, &flags, more).await.unwrap()
    }

    pub async fn try_start(ground: Arc<Ground>, flags: &[String], more: &[&str]) -> Result<Self, StartError> {
        Self::try_start_with(ground, flags, more, |_| {}).await
    }

    async fn try_start_with(
        ground: Arc<Ground>,
        flags: &[String],
        more: &[&str],
        adjust: impl FnOnce(&mut Times),
    ) -> Result<Self, StartError> {
        let args = Serve::parse_from(std::iter::once("serve").chain(flags.iter().map(String::as_str)).chain(more.iter().copied())).args;
        let mut server = Server::build(Config::of(args)?).await?;
        adjust(server.times());
        let (port, registry, stop) = (server.address().port(), server.registry(), CancellationToken::new());
        let broker = server.broker_stats();
        let running = tokio::spawn(server.run(stop.clone()));
        Ok(Self { ground, port, registry, broker, stop, running: Some(running) })
    }

    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until a server that was told to stop has stopped.
    pub async fn stopped(mut self) {
        within(self.running.take().unwrap()).await.unwrap();
    }

    pub async fn client(&self, sub: &str) -> Client {
        client(&self.ground, self.port, &mint(sub, &["user"])).await
    }

    pub async fn client_as(&self, sub: &str, roles: &[&str]) -> Client {
        client(&self.ground, self.port, &mint(sub, roles)).await
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn mint(sub: &str, roles: &[&str]) -> String {
    mint_for(sub, roles, Duration::from_secs(3600))
}

pub fn mint_for(sub: &str, roles: &[&str], ttl: Duration) -> String {
    let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
    token::sign(SECRET.as_bytes(), sub, &roles, ttl, None, None).unwrap()
}

/// Puts a token on every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<tonic::metadata::Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub type Client = ChatServiceClient<InterceptedService<Channel, Bearer>>;

pub fn endpoint(ca: &Path, port: u16) -> Endpoint {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(ca).unwrap()));
    Channel::from_shared(format!("https://localhost:{port}")).unwrap().tls_config(tls).unwrap()
}

pub async fn client(ground: &Ground, port: u16, token: &str) -> Client {
    let channel = within(endpoint(&ground.path("certs/ca.pem"), port).connect()).await.unwrap();
    with_token(channel, token)
}

pub fn with_token(channel: Channel, token: &str) -> Client {
    ChatServiceClient::with_interceptor(channel, Bearer(format!("Bearer {token}").parse().unwrap()))
}

/// The stable reason that a status carries.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// A new chat's id.
pub async fn new_chat(client: &mut Client, members: &[&str]) -> String {
    let request = CreateChatRequest {
        title: "Tea".into(),
        member_ids: members.iter().map(|id| (*id).to_owned()).collect(),
        request_id: String::new(),
    };
    client.create_chat(request).await.unwrap().into_inner().chat.unwrap().chat_id
}

pub fn send_request(chat_id: &str, id: &str, text: &str) -> SendMessageRequest {
    SendMessageRequest { chat_id: chat_id.into(), text: text.into(), client_message_id: id.into() }
}

/// A ConnectChat stream.
pub struct Stream {
    frames: Option<mpsc::UnboundedSender<ConnectChatRequest>>,
    events: Streaming<ConnectChatResponse>,
}

impl Stream {
    /// Opens a stream with its first frame.
    pub async fn open(client: &mut Client, first: Frame) -> Self {
        let (frames, receiver) = mpsc::unbounded_channel();
        let stream = UnboundedReceiverStream::new(receiver);
        frames.send(ConnectChatRequest { frame: Some(first) }).unwrap();
        let events = within(client.connect_chat(stream)).await.unwrap().into_inner();
        Self { frames: Some(frames), events }
    }

    /// Opens a stream that has joined a chat, from now on or behind `after_sequence`.
    pub async fn joined(client: &mut Client, chat_id: &str, after_sequence: Option<i64>) -> Self {
        let mut stream = Self::open(client, join(chat_id, after_sequence)).await;
        match stream.event().await {
            Event::Joined(_) => stream,
            other => panic!("not joined: {other:?}"),
        }
    }

    pub fn send(&self, frame: Frame) {
        self.frames.as_ref().unwrap().send(ConnectChatRequest { frame: Some(frame) }).unwrap();
    }

    pub fn send_text(&self, chat_id: &str, id: &str, text: &str) {
        self.send(Frame::Send(SendFrame { chat_id: chat_id.into(), client_message_id: id.into(), text: text.into() }));
    }

    pub fn half_close(&mut self) {
        self.frames = None;
    }

    pub async fn event(&mut self) -> Event {
        self.next().await.unwrap().expect("the stream has ended").event.unwrap()
    }

    pub async fn next(&mut self) -> Result<Option<ConnectChatResponse>, Status> {
        within(self.events.message()).await
    }

    /// The next message; acknowledgements before it are passed over.
    pub async fn message(&mut self) -> Message {
        loop {
            match self.event().await {
                Event::Message(message) => return message,
                Event::Acknowledged(_) => {}
                other => panic!("no message: {other:?}"),
            }
        }
    }

    /// The next acknowledgement; messages before it are passed over.
    pub async fn acknowledged(&mut self) -> AcknowledgedEvent {
        loop {
            match self.event().await {
                Event::Acknowledged(acknowledged) => return acknowledged,
                Event::Message(_) => {}
                other => panic!("not acknowledged: {other:?}"),
            }
        }
    }

    pub async fn rejected(&mut self) -> RejectedEvent {
        match self.event().await {
            Event::Rejected(rejected) => rejected,
            other => panic!("not rejected: {other:?}"),
        }
    }

    /// The status that the stream ends with; events before it are passed over.
    pub async fn end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

pub fn join(chat_id: &str, after_sequence: Option<i64>) -> Frame {
    Frame::Join(JoinFrame { chat_id: chat_id.into(), after_sequence, follow: false })
}

pub fn text_of(message: &Message) -> &str {
    match message.content.as_ref().unwrap() {
        message::Content::Text(text) => text,
    }
}

/// Why a frame was rejected, as a call would be told.
pub fn refusal(rejected: &RejectedEvent) -> Status {
    let status = rejected.status.as_ref().unwrap();
    Status::with_details(Code::from_i32(status.code), status.message.clone(), status.encode_to_vec().into())
}

/// Says that a part is not tried on this machine; `make test` repeats it in its summary.
pub fn skipped(what: &str) {
    eprintln!("skipped: {what}");
    if let Some(file) = std::env::var_os("SKIPPED_FILE") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        // Whole: others write too.
        file.write_all(format!("{what}\n").as_bytes()).unwrap();
    }
}

pub async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(PATIENCE, work).await.expect("it took too long")
}

/// Waits until a condition holds that no event tells of.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}
