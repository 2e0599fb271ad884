//! The chat page: its logic by Node.js's own test runner, and the page itself in headless Chromium. Screenshots are in target/page.

mod common;

use std::io::ErrorKind;
use std::process::Stdio;

use chat_service::pb::chat::v1::ListMessagesRequest;
use common::process::Process;
use common::*;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

#[tokio::test]
async fn the_pages_logic_loses_nothing_and_doubles_nothing() {
    let files = ["api", "connection", "store"].map(|name| format!("tests/page/{name}.test.mjs"));
    let output = match within(Command::new("node").arg("--test").args(files).kill_on_drop(true).output()).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return eprintln!("skipped: there is no Node.js"),
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// People at the page: tests/foreign/page.mjs.
struct Browser {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    /// `None`: there is no browser here.
    async fn start(port: u16, mint_there: bool) -> Option<Self> {
        let Ok(chromium) = std::env::var("TEST_CHROMIUM") else {
            eprintln!("skipped: TEST_CHROMIUM is not set");
            return None;
        };
        let modules = std::env::var("TEST_PUPPETEER").expect("scripts/test.sh sets both");
        let mut child = Command::new("node")
            .arg("tests/foreign/page.mjs")
            .envs([("TEST_CHROMIUM", chromium), ("TEST_PUPPETEER", modules)])
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let mut browser = Self { child, input, output };
        let token = |name| mint(name, &["user"]);
        let tokens = json!({ "alice": token("alice"), "bob": token("bob"), "carol": token("carol") });
        let stage = json!({ "url": format!("https://localhost:{port}/"), "out": "target/page", "tokens": tokens, "mint": mint_there });
        browser.tell(&stage.to_string()).await;
        Some(browser)
    }

    async fn tell(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next line. Each is the end of many steps, and each step has its own time there.
    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(5 * PATIENCE, self.output.next_line()).await.expect("the page took too long");
        line.unwrap().expect("what went wrong on the page is told above")
    }

    async fn ends(mut self) {
        assert!(within(self.child.wait()).await.unwrap().success());
    }
}

/// What is seen of a conversation, whoever shows it: sequence, sender, text.
type Seen = Vec<(i64, String, String)>;

fn seen<'a>(messages: impl IntoIterator<Item = &'a Value>, sender: &str) -> Seen {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    // int64 is a string in proto3's JSON.
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap();
    messages.into_iter().map(|message| (number(&message["sequence"]), text(&message[sender]), text(&message["text"]))).collect()
}

/// What a command prints; `None`: there is no such program.
async fn printed(command: &mut Command) -> Option<Vec<u8>> {
    let output = match within(command.kill_on_drop(true).stdin(Stdio::null()).output()).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: there is no {:?}", command.as_std().get_program());
            return None;
        }
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pages_talk_through_a_kill_and_grpcurl_curl_and_python_see_what_they_see() {
    let ground = Ground::new(On::Sqlite).await;
    let mut server = Process::serve(&ground, 0, &[]).await;
    let port = server.port;
    let Some(mut browser) = Browser::start(port, false).await else { return };
    let told: Value = loop {
        match browser.line().await.as_str() {
            "kill" => {
                server.child.kill().await.unwrap();
                browser.tell("killed").await;
            }
            "restart" => {
                server = Process::serve(&ground, port, &[]).await;
                browser.tell("restarted").await;
            }
            line => break serde_json::from_str(line).unwrap(),
        }
    };
    browser.ends().await;
    let chat = told["chat"].as_str().unwrap();
    let page = seen(told["seen"].as_array().unwrap(), "sender");

    let (ca, token) = (ground.path("certs/ca.pem"), mint("alice", &["user"]));
    let mut alice = client(&ground, port, &token).await;
    let request = ListMessagesRequest { chat_id: chat.into(), page_size: 500, after_sequence: Some(0), before_sequence: None };
    let stored = alice.list_messages(request).await.unwrap().into_inner().messages;
    let stored: Seen = stored.iter().map(|message| (message.sequence, message.sender_id.clone(), text_of(message).to_owned())).collect();
    assert_eq!(page, stored, "the page shows what is stored");

    let bearer = format!("authorization: Bearer {token}");
    if let Ok(grpcurl) = std::env::var("TEST_GRPCURL") {
        let join = json!({ "join": { "chat_id": chat, "after_sequence": 0 } }).to_string();
        let mut command = Command::new(grpcurl);
        command.arg("-cacert").arg(&ca).args(["-H", &bearer, "-d", &join, &format!("localhost:{port}"), "chat.v1.ChatService/ConnectChat"]);
        let events = printed(&mut command).await.unwrap();
        let events: Vec<Value> = serde_json::Deserializer::from_slice(&events).into_iter::<Value>().map(Result::unwrap).collect();
        assert_eq!(seen(events.iter().filter_map(|event| event.get("message")), "senderId"), page, "grpcurl");
    }
    let mut command = Command::new("curl");
    let url = format!("https://localhost:{port}/v1/chats/{chat}/messages?pageSize=500");
    command.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(&ca).args(["-H", &bearer, &url]);
    if let Some(answer) = printed(&mut command).await {
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(seen(answer["messages"].as_array().unwrap(), "senderId"), page, "curl");
    }
    if let Ok(python) = std::env::var("TEST_PYTHON") {
        let mut command = Command::new(python);
        command.arg("examples/python/chat_client.py").args(["--addr", &format!("localhost:{port}"), "--chat", chat, "--ca"]).arg(&ca);
        let lines = printed(command.env("CHAT_TOKEN", &token)).await.unwrap();
        let lines: Vec<Value> = serde_json::Deserializer::from_slice(&lines).into_iter::<Value>().map(Result::unwrap).collect();
        assert_eq!(seen(&lines, "sender_id"), page, "Python");
    }
}

/// A server on a development secret.
async fn development() -> (std::sync::Arc<Ground>, Process) {
    let ground = Ground::new(On::Sqlite).await;
    std::fs::write(ground.path("secret"), format!("development-only-{}", "0".repeat(64))).unwrap();
    let server = Process::serve(&ground, 0, &[]).await;
    (ground, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_development_secret_the_page_mints_tokens() {
    let (_ground, server) = development().await;
    let Some(mut browser) = Browser::start(server.port, true).await else { return };
    browser.line().await;
    browser.ends().await;
}

/// curl's answer at the minting endpoint: HTTP code and body.
async fn minting(ground: &Ground, port: u16, more: &[&str]) -> Option<(u16, Value)> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--cacert"]).arg(ground.path("certs/ca.pem"));
    let answer = String::from_utf8(printed(command.args(more).arg(format!("https://localhost:{port}/v1/dev/token"))).await?).unwrap();
    let (body, code) = answer.rsplit_once('\n').unwrap();
    Some((code.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null)))
}

const POST: [&str; 2] = ["--json", r#"{"sub":"dave"}"#];

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_minted_in_development_alone_and_for_nobody_beyond_loopback() {
    let (ground, server) = development().await;
    let Some((code, _)) = minting(&ground, server.port, &[]).await else { return };
    assert_eq!(code, 200, "the page may offer it");
    let (code, answer) = minting(&ground, server.port, &POST).await.unwrap();
    assert_eq!(code, 200);
    let mut dave = client(&ground, server.port, answer["token"].as_str().unwrap()).await;
    new_chat(&mut dave, &[]).await;
    // Somebody else's proxy or page in between: a name that was made to point here, or another origin.
    for header in ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "Host: chat.example", "Origin: https://chat.example"] {
        let refused = [&POST[..], &["--header", header]].concat();
        assert_eq!(minting(&ground, server.port, &refused).await.unwrap().0, 404, "{header}");
    }
    for body in [r#"{"sub":""}"#, r#"{"sub":"a\u0000b"}"#, r#"{"name":"dave"}"#, "dave"] {
        assert_eq!(minting(&ground, server.port, &["--json", body]).await.unwrap().0, 400, "{body}");
    }

    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &[]).await;
    let requests: [&[&str]; 2] = [&[], &POST];
    for request in requests {
        assert_eq!(minting(&ground, server.port, request).await.unwrap().0, 404, "{request:?}");
    }
}
