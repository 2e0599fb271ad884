//! TLS while the server runs: certificates that change, clients that must show one, versions that are too old.

mod common;

use std::time::Duration;

use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_count_for_new_connections_and_open_streams_go_on() {
    let ground = Ground::new(On::Sqlite).await;
    let server = TestServer::start_with(ground.clone(), &[], |times| times.certificates_interval = Duration::from_millis(50)).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut stream = Stream::joined(&mut alice, &chat, None).await;
    let (ca, old_ca) = (ground.path("certs/ca.pem"), ground.path("old-ca.pem"));
    std::fs::copy(&ca, &old_ca).unwrap();
    ground.renew_certs();
    within(async { while endpoint(&ca, server.port).connect().await.is_err() {} }).await;
    assert!(endpoint(&old_ca, server.port).connect().await.is_err(), "the old CA signed nothing of this");
    stream.send_text(&chat, "1", "still here");
    assert_eq!(stream.acknowledged().await.sequence, 1);
    server.client("alice").await.list_chats(list_request()).await.unwrap();
}

async fn with_identity(ground: &Ground, port: u16, identity: Option<&Ground>) -> Result<(), String> {
    let read = |ground: &Ground, name: &str| std::fs::read(ground.path(name)).unwrap();
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ground, "certs/ca.pem")));
    if let Some(of) = identity {
        tls = tls.identity(Identity::from_pem(read(of, "certs/client.pem"), read(of, "certs/client.key")));
    }
    let endpoint = Channel::from_shared(format!("https://localhost:{port}")).unwrap().tls_config(tls).unwrap();
    // In TLS 1.3 a client learns only with its first answer that its certificate was refused.
    let channel = within(endpoint.connect()).await.map_err(|error| error.to_string())?;
    let mut alice = with_token(channel, &mint("alice", &["user"]));
    within(alice.list_chats(list_request())).await.map(drop).map_err(|status| status.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_client_ca_only_its_certificates_are_let_in() {
    let (ground, stranger) = (Ground::new(On::Sqlite).await, Ground::new(On::Sqlite).await);
    let ca = ground.path("certs/ca.pem").display().to_string();
    let server = TestServer::start_on(ground.clone(), &["--tls-client-ca", &ca]).await;
    with_identity(&ground, server.port, Some(&ground)).await.unwrap();
    with_identity(&ground, server.port, None).await.expect_err("no certificate");
    with_identity(&ground, server.port, Some(&stranger)).await.expect_err("a certificate of another CA");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_1_is_refused() {
    let server = TestServer::start(On::Sqlite).await;
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    // No session, two suites of that time, no compression, and as extension only the signature algorithms, without which it would be refused
    // for another reason.
    hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0, 0, 10, 0, 13, 0, 6, 0, 4, 4, 3, 4, 1]);
    let length = hello.len() as u8;
    let record = [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let mut tcp = within(tokio::net::TcpStream::connect(("127.0.0.1", server.port))).await.unwrap();
    tcp.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    within(tcp.read_to_end(&mut answer)).await.unwrap();
    // A fatal alert: protocol_version.
    assert_eq!(answer.first(), Some(&0x15));
    assert_eq!(answer.get(5..7), Some(&[2, 70][..]));
}
