//! The examples for users, at the real binary: with the terminal client in one chat they see one conversation, also when the server is
//! killed in the middle of it.

mod common;

use std::process::Stdio;

use chat_service::pb::chat::v1::ListMessagesRequest;
use common::process::{Process, binary};
use common::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A client that sends what it reads and prints what it gets.
struct Talker {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// "sender: text" of each message.
    heard: Vec<String>,
    /// What a line of output says.
    read: fn(&str) -> String,
}

impl Talker {
    fn start(name: &'static str, mut command: Command, read: fn(&str) -> String) -> Self {
        let command = command.env("CHAT_TOKEN", mint(name, &["user"])).kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        Self { name, child, input, output, heard: Vec::new(), read }
    }

    async fn says(&mut self, text: &str) {
        self.input.write_all(format!("{text}\n").as_bytes()).await.unwrap();
    }

    async fn hears(&mut self, messages: usize) {
        while self.heard.len() < messages {
            let line = within(self.output.next_line()).await.unwrap().unwrap_or_else(|| panic!("{} has ended", self.name));
            self.heard.push((self.read)(&line));
        }
    }

    /// Its input ends, and then it.
    async fn ends(mut self) -> (&'static str, Vec<String>) {
        drop(self.input);
        assert_eq!(within(self.output.next_line()).await.unwrap(), None, "{} shows each message once", self.name);
        assert!(within(self.child.wait()).await.unwrap().success(), "{}", self.name);
        (self.name, self.heard)
    }
}

/// The terminal client shows time, sender and text.
fn of_terminal(line: &str) -> String {
    line.split_once(' ').unwrap().1.to_owned()
}

/// The examples print JSON.
fn of_example(line: &str) -> String {
    let message: serde_json::Value = serde_json::from_str(line).unwrap();
    format!("{}: {}", message["sender_id"].as_str().unwrap(), message["text"].as_str().unwrap())
}

/// An example whose tool is there.
fn example(name: &'static str, variable: &str, script: Option<&str>, flags: &[String]) -> Option<Talker> {
    let Ok(program) = std::env::var(variable) else {
        eprintln!("skipped: {variable} is not set");
        return None;
    };
    let mut command = Command::new(program);
    command.args(script).args(flags);
    Some(Talker::start(name, command, of_example))
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_and_examples_see_one_conversation_through_a_kill_of_the_server() {
    let ground = Ground::new(On::Sqlite).await;
    let mut server = Process::serve(&ground, 0, &[]).await;
    let port = server.port;
    let mut alice = client(&ground, port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &["bob", "python", "go", "typescript"]).await;
    let ca = ground.path("certs/ca.pem").display().to_string();

    let terminal = |name| {
        let mut command = binary();
        command.args(["connect", &chat, "--addr", &format!("https://localhost:{port}"), "--ca", &ca]);
        Talker::start(name, command, of_terminal)
    };
    let flags = ["--addr", &format!("localhost:{port}"), "--ca", &ca, "--chat", &chat, "--after", "0"].map(str::to_owned);
    let mut talkers = vec![terminal("alice"), terminal("bob")];
    talkers.extend(example("python", "TEST_PYTHON", Some("examples/python/chat_client.py"), &flags));
    talkers.extend(example("go", "TEST_GO_CHAT", None, &flags));
    talkers.extend(example("typescript", "TEST_TSX", Some("examples/typescript/chat_client.ts"), &flags));

    let mut said = 0;
    for text in ["Привет 👋🏽 مرحبا", "你好，世界 שלום <b>&amp; e\u{301}"] {
        for talker in &mut talkers {
            talker.says(text).await;
        }
        said += talkers.len();
        for talker in &mut talkers {
            talker.hears(said).await;
        }
    }
    server.child.kill().await.unwrap();
    for talker in &mut talkers {
        talker.says("meanwhile").await;
        talker.says("meanwhile, too").await;
    }
    said += 2 * talkers.len();
    let _server = Process::serve(&ground, port, &[]).await;
    for talker in &mut talkers {
        talker.hears(said).await;
    }

    let mut alice = client(&ground, port, &mint("alice", &["user"])).await;
    let request = ListMessagesRequest { chat_id: chat.clone(), page_size: 500, after_sequence: Some(0), before_sequence: None };
    let stored = alice.list_messages(request).await.unwrap().into_inner().messages;
    let stored: Vec<String> = stored.iter().map(|message| format!("{}: {}", message.sender_id, text_of(message))).collect();
    assert_eq!(stored.len(), said, "each message once");
    for talker in talkers {
        let (name, heard) = talker.ends().await;
        assert_eq!(heard, stored, "{name} saw the conversation");
        let own: Vec<&String> = stored.iter().filter(|line| line.starts_with(&format!("{name}: meanwhile"))).collect();
        assert!(own.len() == 2 && own[1].ends_with("too"), "{name}'s own lines keep their order");
    }
}
