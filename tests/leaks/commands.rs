//! What the commands write: help, starts that fail, the terminal client.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::canaries::Canaries;
use crate::common::process::talkative;
use crate::common::*;

/// Runs a command to its end; what it wrote.
async fn run(command: &mut Command) -> String {
    let output = within(command.stdin(Stdio::null()).output()).await.unwrap();
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn help_and_failing_starts_show_no_secret() {
    let ground = Ground::new(On::Sqlite).await;
    let mut hidden = Canaries::new();
    let password = hidden.hide("the database's password");
    let token = hidden.token("the terminal client's token", "alice", &["user"]);
    let urls = [
        format!("postgres://nobody:{password}@127.0.0.1:1/chat?sslpassword={password}"),
        format!("postgres://nobody:{password}@127.0.0.1:{password}/chat"),
        format!("postgres://nobody:{password}@[127.0.0.1/chat"),
        format!("mysql://nobody:{password}@127.0.0.1/chat"),
        password.clone(),
    ];
    let commands: [(&[&str], bool); 4] =
        [(&["serve"], true), (&["migrate"], true), (&["serve", "--help"], false), (&["migrate", "--help"], false)];
    for url in &urls {
        for (arguments, fails) in commands {
            let mut command = talkative();
            // Long enough to say that it waits.
            command.args(arguments).env("DATABASE_URL", url).env("CHAT_DATABASE_WAIT", "300ms");
            command.env("CHAT_AUTH_SECRET", ground.path("secret")).env("CHAT_INSECURE", "true");
            command.env("CHAT_LISTEN", "127.0.0.1:0").env("CHAT_ADMIN_LISTEN", "127.0.0.1:0");
            let said = run(&mut command).await;
            assert_eq!(said.contains("DATABASE_URL: ") || said.contains("DATABASE_URL is"), fails, "{url}: {said}");
            hidden.are_not_in(&said, "a start's output");
        }
    }
    // The secret itself, where the path of its file belongs.
    for arguments in [&["serve"][..], &["serve", "--help"], &["token", "--sub", "alice"], &["token", "--help"]] {
        let said = run(talkative().args(arguments).env("CHAT_AUTH_SECRET", SECRET)).await;
        assert!(said.contains("CHAT_AUTH_SECRET"), "{arguments:?}: {said}");
        hidden.are_not_in(&said, "what was said of a secret in the wrong place");
    }
    for arguments in [&["connect", "--help"][..], &["connect", "--addr", "no address", "chat"], &["connect", "--no-such-flag"]] {
        let said = run(talkative().args(arguments).env("CHAT_TOKEN", &token)).await;
        hidden.are_not_in(&said, "the terminal client's output");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_client_shows_no_token() {
    let server = TestServer::start(On::Sqlite).await;
    let mut hidden = Canaries::default();
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let tokens = [
        hidden.token("a good token", "alice", &["user"]),
        hidden.token("a stranger's token", "eve", &["user"]),
        hidden.hide("no token"),
        format!("{}\n{}", hidden.hide("a token in two lines"), hidden.hide("its second line")),
        hidden.hide_token("a token that ends while it is used", mint_for("alice", &["user"], Duration::from_secs(1))),
    ];
    for token in tokens {
        let mut command = talkative();
        command.args(["connect", &chat, "--addr", &format!("https://localhost:{}", server.port)]);
        command.arg("--ca").arg(server.ground.path("certs/ca.pem")).env("CHAT_TOKEN", token);
        hidden.are_not_in(&run(&mut command).await, "the terminal client's output");
    }
}
