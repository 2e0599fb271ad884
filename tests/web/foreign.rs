//! gRPC-web by other people's code.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::common::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_web_calls_and_listens() {
    let Ok(modules) = std::env::var("TEST_CONNECT_WEB") else {
        eprintln!("skipped: connect-web isn't there (scripts/tools.sh connectweb)");
        return;
    };
    let server = TestServer::start(On::Sqlite).await;
    let descriptors = server.ground.path("descriptors.bin");
    std::fs::write(&descriptors, chat_service::pb::FILE_DESCRIPTOR_SET).unwrap();
    let mut command = Command::new("node");
    command
        .arg("tests/foreign/grpc_web.mjs")
        .env("TEST_NODE_MODULES", modules)
        .env("NODE_EXTRA_CA_CERTS", server.ground.path("certs/ca.pem"))
        .env("URL", format!("https://localhost:{}", server.port))
        .env("TOKEN", mint("alice", &["user"]))
        .env("DESCRIPTORS", descriptors);
    let output = within(command.kill_on_drop(true).stderr(Stdio::inherit()).output()).await.unwrap();
    assert!(output.status.success());
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen, json!({"title": "Tea ☕", "code": "NotFound", "texts": ["message 1", "message 2", "message 3"]}));
}
