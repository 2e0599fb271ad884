//! The real binary as its users run it: kill -9, wrong settings, the terminal client, grpcurl.

mod common;

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chat_service::pb::chat::v1::connect_chat_response::Event;
use common::process::{Process, binary};
use common::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

on_both_stores!(after_kill_9_every_acknowledged_message_is_there_once_and_clients_resume);

/// What one client has sent, was told, and has seen.
#[derive(Default)]
struct Story {
    acknowledged: Vec<(String, i64)>,
    pending: Vec<String>,
    seen: Vec<(i64, String)>,
}

impl Story {
    /// Connects, resumes, sends again what is pending, and goes on sending until `enough` or the stream ends. Whether it ended by itself.
    async fn go_on(&mut self, ground: &Ground, port: u16, name: &str, chat: &str, enough: usize, total: &AtomicU64) -> bool {
        let mut client = client(ground, port, &mint(name, &["user"])).await;
        let last = self.seen.last().map_or(0, |(sequence, _)| *sequence);
        let mut stream = Stream::open(&mut client, join(chat, Some(last))).await;
        for id in &self.pending {
            stream.send_text(chat, id, id);
        }
        loop {
            while self.pending.len() < 20 && self.acknowledged.len() + self.pending.len() < enough {
                let id = format!("{name} {}", self.acknowledged.len() + self.pending.len());
                stream.send_text(chat, &id, &id);
                self.pending.push(id);
            }
            if self.pending.is_empty() && self.acknowledged.len() >= enough {
                return true;
            }
            match stream.next().await {
                Ok(Some(response)) => match response.event.unwrap() {
                    Event::Message(message) => self.seen.push((message.sequence, message.client_message_id)),
                    Event::Acknowledged(acknowledged) => {
                        self.pending.retain(|id| *id != acknowledged.client_message_id);
                        self.acknowledged.push((acknowledged.client_message_id, acknowledged.sequence));
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                },
                Ok(None) | Err(_) => return false,
            }
        }
    }
}

async fn after_kill_9_every_acknowledged_message_is_there_once_and_clients_resume(on: On) {
    let ground = Ground::new(on).await;
    let mut server = Process::serve(&ground, 0, &[]).await;
    let port = server.port;
    let mut owner = client(&ground, port, &mint("owner", &["user"])).await;
    let chat = new_chat(&mut owner, &["a", "b", "c"]).await;
    let total = Arc::new(AtomicU64::new(0));
    let senders: Vec<_> = ["a", "b", "c"]
        .map(|name| {
            let (ground, chat, total) = (ground.clone(), chat.clone(), total.clone());
            tokio::spawn(async move {
                let mut story = Story::default();
                let finished = story.go_on(&ground, port, name, &chat, usize::MAX, &total).await;
                assert!(!finished);
                (name, story)
            })
        })
        .into();
    until("some messages are acknowledged", || total.load(Ordering::Relaxed) > 200).await;
    server.child.kill().await.unwrap();
    let mut stories = Vec::new();
    for sender in senders {
        stories.push(within(sender).await.unwrap());
    }

    let _server = Process::serve(&ground, port, &[]).await;
    for (name, story) in &mut stories {
        let enough = story.acknowledged.len() + story.pending.len() + 50;
        assert!(story.go_on(&ground, port, name, &chat, enough, &total).await, "{name} went on after the restart");
    }

    let mut owner = client(&ground, port, &mint("owner", &["user"])).await;
    let mut stream = Stream::open(&mut owner, join(&chat, Some(0))).await;
    stream.half_close();
    let mut history = Vec::new();
    while let Some(response) = stream.next().await.unwrap() {
        if let Event::Message(message) = response.event.unwrap() {
            history.push((message.sequence, message.client_message_id));
        }
    }
    assert_eq!(
        history.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(),
        (1..=history.len() as i64).collect::<Vec<_>>(),
        "no hole"
    );
    assert_eq!(history.iter().map(|(_, id)| id).collect::<HashSet<_>>().len(), history.len(), "each once");
    for (name, story) in &stories {
        for (id, sequence) in &story.acknowledged {
            assert_eq!(history[*sequence as usize - 1].1, *id, "{name}'s acknowledged message is where it was acknowledged");
        }
        assert_eq!(story.seen, history[..story.seen.len()], "{name} saw the history, without hole or duplicate");
    }
}

#[tokio::test]
async fn wrong_settings_end_the_start_with_one_line_that_names_the_setting() {
    let ground = Ground::new(On::Sqlite).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let short = ground.path("short");
    std::fs::write(&short, "short").unwrap();
    let development = ground.path("development");
    std::fs::write(&development, format!("development-only-{}", "0".repeat(64))).unwrap();
    let (short, development) = (short.to_str().unwrap().to_owned(), development.to_str().unwrap().to_owned());
    let cases: [(&[&str], &str); 13] = [
        (&["--listen", &taken], "CHAT_LISTEN"),
        (&["--tls-key", "/nonexistent"], "CHAT_TLS_KEY"),
        (&["--tls-cert", "/nonexistent"], "CHAT_TLS_CERT"),
        (&["--tls-client-ca", "/nonexistent"], "CHAT_TLS_CLIENT_CA"),
        (&["--tls-client-ca", &short], "CHAT_TLS_CLIENT_CA"),
        (&["--tls-client-ca", &short, "--insecure", "true"], "CHAT_TLS_CLIENT_CA"),
        (&["--database-url", "mysql://localhost/chat"], "DATABASE_URL"),
        (&["--database-url", "postgres://nobody@127.0.0.1:1/chat", "--database-wait", "0s"], "DATABASE_URL"),
        (&["--auth-public-key", &short], "CHAT_AUTH_PUBLIC_KEY"),
        (&["--auth-jwks-url", "https://localhost/keys"], "CHAT_AUTH_JWKS_URL"),
        (&["--auth-secret", &short], "CHAT_AUTH_SECRET"),
        (&["--auth-secret", "/nonexistent"], "CHAT_AUTH_SECRET"),
        (&["--auth-secret", &development, "--listen", "0.0.0.0:0"], "CHAT_LISTEN"),
    ];
    for (change, setting) in cases {
        let mut flags = ground.flags();
        for pair in change.chunks(2) {
            match flags.iter().position(|flag| flag == pair[0]) {
                Some(at) => flags[at + 1] = pair[1].to_owned(),
                None => flags.extend(pair.iter().map(|flag| (*flag).to_owned())),
            }
        }
        let output = within(binary().arg("serve").args(flags).output()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{change:?}");
        assert!(said.contains(setting) && said.trim().lines().count() == 1, "{change:?}: {said}");
    }
    let none = within(binary().arg("serve").args(&ground.flags()[..10]).output()).await.unwrap();
    assert!(String::from_utf8(none.stderr).unwrap().contains("no auth setting"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_stops_the_server_in_time_whatever_clients_do() {
    let ground = Ground::new(On::Sqlite).await;
    let mut server = Process::serve(&ground, 0, &[]).await;
    let port = server.port;
    let mut alice = client(&ground, port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let _never_read = Stream::joined(&mut alice, &chat, Some(0)).await;
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_certificates_anew_and_a_broken_pair_keeps_the_old_one() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &[]).await;
    let key = std::fs::read(ground.path("certs/server.key")).unwrap();
    std::fs::write(ground.path("certs/server.key"), "no key").unwrap();
    server.signal("HUP").await;
    until("the broken key is logged", || server.said("CHAT_TLS_KEY") > 0).await;
    client(&ground, server.port, &mint("alice", &["user"])).await;
    std::fs::write(ground.path("certs/server.key"), key).unwrap();
    server.signal("HUP").await;
    until("the key is read again", || server.said("were read anew") > 0).await;
    client(&ground, server.port, &mint("alice", &["user"])).await;
}

#[tokio::test]
async fn token_prints_the_token_alone_and_help_no_secret() {
    let ground = Ground::new(On::Sqlite).await;
    let secret = ground.path("secret");
    let output =
        binary().args(["token", "--sub", "alice", "--roles", "user,reader"]).env("CHAT_AUTH_SECRET", &secret).output().await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!((printed.trim().split('.').count(), printed.lines().count()), (3, 1));
    let help = binary().args(["serve", "--help"]).env("DATABASE_URL", "postgres://u:hunter2@h/d").output().await.unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("DATABASE_URL") && !help.contains("hunter2"));
}

/// The terminal client in a chat, its lines from and to this test.
fn connect(ground: &Ground, port: u16, sub: &str, chat: &str) -> Child {
    binary()
        .args(["connect", chat, "--addr", &format!("https://localhost:{port}"), "--ca", ground.path("certs/ca.pem").to_str().unwrap()])
        .env("CHAT_TOKEN", mint(sub, &["user"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_talks_to_the_server_by_reflection_over_tls() {
    let Ok(grpcurl) = std::env::var("TEST_GRPCURL") else { return eprintln!("skipped: TEST_GRPCURL is not set") };
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &[]).await;
    let port = server.port;
    let call = async |data: &str, method: &str| {
        let output = Command::new(&grpcurl)
            .args([
                "-cacert",
                ground.path("certs/ca.pem").to_str().unwrap(),
                "-H",
                &format!("authorization: Bearer {}", mint("alice", &["user"])),
            ])
            .args(["-d", data, &format!("localhost:{port}"), method])
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let created: serde_json::Value =
        serde_json::from_str(&call(r#"{"title":"Tea","member_ids":["bob"]}"#, "chat.v1.ChatService/CreateChat").await).unwrap();
    let chat = created["chat"]["chatId"].as_str().unwrap();
    let send = format!(r#"{{"chat_id":"{chat}","client_message_id":"1","text":"Привет"}}"#);
    assert!(call(&send, "chat.v1.ChatService/SendMessage").await.contains(r#""sequence": "1""#));
    let history = call(&format!(r#"{{"join":{{"chat_id":"{chat}","after_sequence":0}}}}"#), "chat.v1.ChatService/ConnectChat").await;
    assert!(history.contains("joined") && history.contains("Привет"), "{history}");
    let health = call("{}", "grpc.health.v1.Health/Check").await;
    assert!(health.contains("SERVING"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_client_reconnects_resumes_and_sends_what_was_not_acknowledged() {
    let ground = Ground::new(On::Sqlite).await;
    let mut server = Process::serve(&ground, 0, &[]).await;
    let port = server.port;
    let mut alice = client(&ground, port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut child = connect(&ground, port, "alice", &chat);
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    input.write_all(b"before\n").await.unwrap();
    assert!(within(output.next_line()).await.unwrap().unwrap().ends_with("alice: before"));
    server.child.kill().await.unwrap();
    input.write_all(b"meanwhile\n").await.unwrap();
    let _server = Process::serve(&ground, port, &[]).await;
    assert!(within(output.next_line()).await.unwrap().unwrap().ends_with("alice: meanwhile"));
    drop(input);
    assert!(within(child.wait()).await.unwrap().success());
    assert_eq!(within(output.next_line()).await.unwrap(), None, "each message once");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_postgres_store_retries_once_and_leave_no_hole() {
    const EACH: usize = 100;
    let ground = Ground::new(On::Postgres).await;
    let (one, two) = (Process::serve(&ground, 0, &[]).await, Process::serve(&ground, 0, &[]).await);
    let (port_one, port_two) = (one.port, two.port);
    let mut alice = client(&ground, port_one, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut placed = Vec::new();
    for port in [port_one, port_two] {
        let (ground, chat) = (ground.clone(), chat.clone());
        placed.push(tokio::spawn(async move {
            let mut alice = client(&ground, port, &mint("alice", &["user"])).await;
            // Both send the very same messages, at once.
            let mut stream = Stream::joined(&mut alice, &chat, Some(0)).await;
            for number in 0..EACH {
                stream.send_text(&chat, &number.to_string(), "x");
            }
            let mut placed = Vec::new();
            while placed.len() < EACH {
                let acknowledged = stream.acknowledged().await;
                placed.push((acknowledged.client_message_id, acknowledged.sequence));
            }
            placed
        }));
    }
    let (one, two) = (within(placed.remove(0)).await.unwrap(), within(placed.remove(0)).await.unwrap());
    assert_eq!(one, two, "a message has one place, whichever server is asked");
    let mut sequences: Vec<i64> = one.iter().map(|(_, sequence)| *sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=EACH as i64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_no_text_is_not_sent_and_the_terminal_client_goes_on() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &[]).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut child = connect(&ground, server.port, "alice", &chat);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"\xff\xfe\nafter\n").await.unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(within(output.next_line()).await.unwrap().unwrap().ends_with("alice: after"));
    drop(input);
    assert!(within(child.wait()).await.unwrap().success());
}

/// The delivery checker at a server; its exit code and its last line.
async fn check(ground: &Ground, port: u16, more: &[&str]) -> (Option<i32>, String) {
    let output = binary()
        .args(["check", "--addr", &format!("https://localhost:{port}"), "--ca", ground.path("certs/ca.pem").to_str().unwrap()])
        .args(["--auth-secret", ground.path("secret").to_str().unwrap(), "--history", ground.path("history.jsonl").to_str().unwrap()])
        .args(more)
        .output();
    let output = within(output).await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap().lines().last().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_finds_a_good_server_good_and_a_changed_history_violated() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Process::serve(&ground, 0, &[]).await;
    let (code, said) = check(&ground, server.port, &["--messages", "300", "--disconnect-every", "200ms", "--rate", "0"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("check: ok acked=300 delivered=") && said.ends_with(" lost=0 duplicated=0 reordered=0 holes=0"), "{said}");

    let history = std::fs::read_to_string(ground.path("history.jsonl")).unwrap();
    let changed = ground.path("changed.jsonl");
    let judged = async |history: &str| {
        std::fs::write(&changed, history).unwrap();
        check(&ground, server.port, &["--verify", changed.to_str().unwrap()]).await
    };
    assert_eq!(judged(&history).await, (Some(0), said), "the history alone gives the same verdict");
    let mut lossy: Vec<&str> = history.lines().collect();
    lossy.remove(lossy.iter().rposition(|line| line.contains(r#""event":"listed""#)).unwrap());
    let (code, said) = judged(&lossy.join("\n")).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("check: violated acked=300 ") && !said.contains(" lost=0 "), "{said}");
    assert_eq!(judged(history.lines().next().unwrap()).await.0, Some(2), "a history that is not whole proves nothing");
}

#[tokio::test]
async fn a_checker_that_can_not_run_says_so_and_claims_nothing() {
    let ground = Ground::new(On::Sqlite).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(check(&ground, nobody, &["--patience", "1s"]).await, (Some(2), String::new()));
}
