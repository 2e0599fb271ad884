//! From the start to the stop: a database that comes later, one that falls silent, probes that tell the truth.

mod common;

use std::net::SocketAddr;
use std::process::Stdio;

use chat_service::model::{ChatId, UserId};
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::{DeleteChatRequest, LeftReason};
use chat_service::repository::ChatRepository;
use chat_service::repository::postgres::{PostgresOptions, PostgresStore};
use common::process::{Overheard, Said, binary};
use common::*;
use futures_util::StreamExt;
use futures_util::future::join_all;
use sqlx::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

/// The server's address in a PostgreSQL URL, and the URL by way of another port of this machine.
fn by_way_of(url: &str, port: u16) -> (SocketAddr, String) {
    let (before, rest) = url.split_once('@').unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    (server.parse().unwrap(), format!("{before}@127.0.0.1:{port}/{database}"))
}

/// A proxy whose open connections fall silent without being closed each time `silence` changes, as behind a fail-over.
fn proxy(listener: TcpListener, target: SocketAddr) -> watch::Sender<()> {
    let silence = watch::Sender::new(());
    let silences = silence.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut silenced = silences.subscribe();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = silenced.changed() => std::future::pending::<()>().await,
                }
            });
        }
    });
    silence
}

/// A server whose database nobody serves yet, once it has said that it waits.
async fn waiting_server(ground: &Ground, database_url: &str) -> (Child, Said) {
    let mut flags = ground.flags();
    let at = flags.iter().position(|flag| flag == "--database-url").unwrap();
    flags[at + 1] = database_url.to_owned();
    let mut command = binary();
    command.arg("serve").args(flags).args(["--database-wait", "60s"]).env("NO_COLOR", "1");
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = Said::default();
    drop(said.listen(child.stderr.take().unwrap()));
    until("the server says that it waits", || said.text().contains("it is waited for")).await;
    (child, said)
}

async fn terminate(mut child: Child) {
    let status = Command::new("kill").args(["-TERM", &child.id().unwrap().to_string()]).status().await.unwrap();
    assert!(status.success());
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_yet_is_waited_for() {
    let ground = Ground::new(On::Postgres).await;
    let port = free_port();
    let (target, url) = by_way_of(&ground.database_url, port);
    let (child, said) = waiting_server(&ground, &url).await;
    let _proxy = proxy(TcpListener::bind(("127.0.0.1", port)).await.unwrap(), target);
    until("the server serves", || said.text().contains("serving")).await;
    terminate(child).await;
    assert_eq!(said.text().matches("it is waited for").count(), 1, "said once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_waits_for_its_database_stops_when_asked() {
    let ground = Ground::new(On::Sqlite).await;
    let (child, _) = waiting_server(&ground, &format!("postgres://nobody@127.0.0.1:{}/chat", free_port())).await;
    terminate(child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_given_up_and_calls_are_answered_again() {
    let database = new_database().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (target, url) = by_way_of(&database, listener.local_addr().unwrap().port());
    let silence = proxy(listener, target);
    let store = PostgresStore::open(&PostgresOptions { url: url.into(), pool_connections: 4, lanes: 1 }, true).await.unwrap();
    let (nowhere, nobody) = (ChatId::generate(), UserId::new("nobody"));
    let all = || join_all((0..4).map(|_| store.find(nowhere, &nobody)));
    assert!(all().await.iter().all(Result::is_ok), "every connection of the pool is in use");
    silence.send_replace(());
    // Some are on their way, and some connections are being given back.
    drop(all().await);
    let answered = async { while all().await.iter().any(Result::is_err) {} };
    within(answered).await;
    store.close().await;
    drop_database(&database).await;
}

/// The answer of the admin port: status line and body.
async fn probe(admin: u16, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_of_a_database_that_went_back_or_away_and_liveness_does_not() {
    let ground = Ground::new(On::Postgres).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (target, url) = by_way_of(&ground.database_url, listener.local_addr().unwrap().port());
    let silence = proxy(listener, target);
    let server = Overheard::serve(&ground, &url).await;
    assert_eq!(probe(server.admin, "/readyz").await, ("HTTP/1.1 200 OK".into(), "ready\n".into()));

    let mut database = sqlx::PgConnection::connect(&ground.database_url).await.unwrap();
    let newest = "UPDATE _sqlx_migrations SET success = $1 WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
    sqlx::query(newest).bind(false).execute(&mut database).await.unwrap();
    let (status, body) = probe(server.admin, "/readyz").await;
    assert!(status.contains("503") && body.contains("schema"), "{status} {body}");
    sqlx::query(newest).bind(true).execute(&mut database).await.unwrap();
    assert!(probe(server.admin, "/readyz").await.0.contains("200"));

    // A newer build has migrated it: this one goes on beside it.
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'next', true, '', 0)",
    )
    .execute(&mut database)
    .await
    .unwrap();
    assert!(probe(server.admin, "/readyz").await.0.contains("200"));

    silence.send_replace(());
    sqlx::query("DROP TABLE _sqlx_migrations").execute(&mut database).await.unwrap();
    let (status, body) = probe(server.admin, "/readyz").await;
    assert!(status.contains("503") && body.contains("database"), "{status} {body}");
    assert_eq!(probe(server.admin, "/healthz").await, ("HTTP/1.1 200 OK".into(), "alive\n".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_stream_finds_by_itself_is_told_as_one() {
    let ground = Ground::new(On::Postgres).await;
    // Nothing tells this node's streams of it before they look.
    let node = TestServer::start_on(ground.clone(), &["--sweep-interval", "1h"]).await;
    let other = TestServer::start_on(ground, &[]).await;
    let mut alice = node.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    other.client("alice").await.delete_chat(DeleteChatRequest { chat_id: chat.clone() }).await.unwrap();
    stream.half_close();
    match stream.event().await {
        Event::Left(left) => assert_eq!((left.chat_id.as_str(), left.reason()), (chat.as_str(), LeftReason::Deleted)),
        other => panic!("not left: {other:?}"),
    }
}

/// Longer than any test waits: a stop that waits for it fails.
const NEVER: [&str; 2] = ["--shutdown-timeout", "10m"];

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_neither_for_watches_of_health_nor_for_reflection() {
    let server = started(&NEVER).await;
    let channel = server.channel().await;
    let mut statuses = within(HealthClient::new(channel.clone()).watch(HealthCheckRequest::default())).await.unwrap().into_inner();
    within(statuses.message()).await.unwrap().unwrap();
    let list = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let requests = futures_util::stream::iter([list]).chain(futures_util::stream::pending());
    let mut answers = within(ServerReflectionClient::new(channel).server_reflection_info(requests)).await.unwrap().into_inner();
    within(answers.message()).await.unwrap().unwrap();

    server.begin_stop();
    let end = within(answers.message()).await.unwrap_err();
    assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "GOING_AWAY".into()));
    server.stopped().await;
    let end = loop {
        match within(statuses.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stop ends watches with a reason"),
            Err(end) => break end,
        }
    };
    assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "GOING_AWAY".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_watch_that_is_not_read() {
    let server = started(&NEVER).await;
    let endpoint = endpoint(&server.ground.path("certs/ca.pem"), server.port).initial_stream_window_size(0);
    let channel = within(endpoint.connect()).await.unwrap();
    // Its header comes, and nothing behind it may.
    let _statuses = within(HealthClient::new(channel).watch(HealthCheckRequest::default())).await.unwrap();
    server.begin_stop();
    server.stopped().await;
}
