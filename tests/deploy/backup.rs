//! docs/backup.md, done by its own commands: a server's messages come back, and the chat goes on behind them.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use chat_service::pb::chat::v1::ListMessagesRequest;
use sqlx::Connection;
use sqlx::migrate::Migrator;
use tokio::process::Command;

use crate::common::process::Process;
use crate::common::*;

/// The document's fenced block that holds a text.
fn block(holding: &str) -> String {
    let text = std::fs::read_to_string("docs/backup.md").unwrap();
    let mut found = text.split("```\n").skip(1).step_by(2).filter(|block| block.contains(holding));
    let block = found.next().unwrap_or_else(|| panic!("docs/backup.md has no commands with {holding}"));
    assert!(found.next().is_none(), "docs/backup.md has two blocks with {holding}");
    block.to_owned()
}

/// A shell into which lines are pasted.
struct Shell {
    folder: std::path::PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Shell {
    /// In a folder, with tools and this build's binary on its path.
    fn new(folder: &Path, tools: &Path) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_chat-service")).parent().unwrap();
        let path = format!("{}:{}:{}", tools.display(), binary.display(), std::env::var("PATH").unwrap_or_default());
        Self { folder: folder.to_owned(), variables: vec![("PATH", path)] }
    }

    async fn paste(&self, lines: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-euc", lines]).current_dir(&self.folder).envs(self.variables.iter().cloned()).kill_on_drop(true);
        let output = within(shell.output()).await.unwrap();
        assert!(output.status.success(), "{lines}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Sends messages, each of which must get its number as its sequence.
async fn send(ground: &Ground, server: &Process, chat: &str, numbers: RangeInclusive<i64>) {
    let mut alice = client(ground, server.port, &mint("alice", &["user"])).await;
    for number in numbers {
        let sent = alice.send_message(send_request(chat, &number.to_string(), "hello")).await.unwrap().into_inner();
        assert_eq!(sent.message.unwrap().sequence, number);
    }
}

/// Five messages are backed up and three are lost; the chat goes on with the sixth.
async fn comes_back(ground: Arc<Ground>, backup: impl AsyncFnOnce(), restore: impl AsyncFnOnce()) {
    let mut server = Process::serve(&ground, 0, &[]).await;
    let chat = new_chat(&mut client(&ground, server.port, &mint("alice", &["user"])).await, &[]).await;
    send(&ground, &server, &chat, 1..=5).await;
    backup().await;
    send(&ground, &server, &chat, 6..=8).await;
    assert!(server.stop().await.success());

    restore().await;
    let mut server = Process::serve(&ground, 0, &[]).await;
    send(&ground, &server, &chat, 6..=6).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let listed = alice.list_messages(ListMessagesRequest { chat_id: chat, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(listed.messages.iter().map(|message| message.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_file_that_was_backed_up_while_it_was_used_is_restored() {
    let Ok(sqlite3) = std::env::var("TEST_SQLITE3") else { return eprintln!("skipped: TEST_SQLITE3 is not set") };
    for (way, other) in [("VACUUM INTO", ".backup"), (".backup", "VACUUM INTO")] {
        let ground = Ground::new(On::Sqlite).await;
        let shell = Shell::new(ground.folder.path(), Path::new(&sqlite3).parent().unwrap());
        let backups = ground.path("backup");
        std::fs::create_dir(&backups).unwrap();
        let lines = block("VACUUM INTO").replace("/backup/", &format!("{}/", backups.display()));
        let documented = block("cp \"$copy\"");
        let named = documented.lines().find_map(|line| line.strip_prefix("copy=")?.split_whitespace().next()).unwrap();
        let backup = async || {
            let lines: Vec<&str> = lines.lines().filter(|line| !line.contains(other)).collect();
            assert_eq!(shell.paste(&lines.join("\n")).await.trim(), "ok", "{way}");
        };
        let restore = async || {
            let mut copies = std::fs::read_dir(&backups).unwrap().map(|entry| entry.unwrap().path());
            let copy = copies.find(|path| path.extension().is_some_and(|extension| extension == "db")).unwrap();
            shell.paste(&documented.replace(named, copy.to_str().unwrap())).await;
        };
        comes_back(Arc::clone(&ground), backup, restore).await;
    }
}

/// Where PostgreSQL's tools are, beside the server that the tests use.
fn postgres_tools() -> Option<std::path::PathBuf> {
    let tools = std::env::var("TEST_POSTGRES_BIN").ok().map(std::path::PathBuf::from);
    let tools = tools.filter(|bin| ["pg_dump", "pg_restore", "createdb", "dropdb"].iter().all(|tool| bin.join(tool).is_file()));
    if tools.is_none() {
        skipped_but_by_ci("the backup of PostgreSQL (pg_dump, pg_restore, createdb or dropdb isn't beside its server)");
    }
    tools
}

/// A shell that is told where a database is, as PostgreSQL's own programs are.
fn postgres_shell(ground: &Ground, tools: &Path) -> Shell {
    let (user, rest) = ground.database_url.strip_prefix("postgres://").unwrap().split_once('@').unwrap();
    let (server, name) = rest.split_once('/').unwrap();
    let (host, port) = server.split_once(':').unwrap();
    let mut shell = Shell::new(ground.folder.path(), tools);
    let variables =
        [("PGUSER", user), ("PGHOST", host), ("PGPORT", port), ("PGDATABASE", name), ("DATABASE_URL", ground.database_url.as_str())];
    shell.variables.extend(variables.map(|(variable, value)| (variable, value.to_owned())));
    shell
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_database_that_was_dumped_while_it_was_used_is_restored() {
    let Some(tools) = postgres_tools() else { return };
    let ground = Ground::new(On::Postgres).await;
    let shell = postgres_shell(&ground, &tools);
    let (dump, restore) = (block("pg_dump --format"), block("\"$PGDATABASE\""));
    comes_back(Arc::clone(&ground), async || drop(shell.paste(&dump).await), async || drop(shell.paste(&restore).await)).await;
    drop_database(&ground.database_url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_the_stack_is_restored_by_its_own_commands() {
    let Some(tools) = postgres_tools() else { return };
    let ground = Ground::new(On::Postgres).await;
    let shell = postgres_shell(&ground, &tools);
    let (_, name) = ground.database_url.rsplit_once('/').unwrap();
    // The stack's user and its database are both called chat.
    let mut connection = sqlx::PgConnection::connect(&ground.database_url).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE ROLE {name} SUPERUSER LOGIN"))).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let here = |block: String| {
        let renamed = block.lines().map(|line| line.split(' ').map(|word| if word == "chat" { name } else { word }).collect::<Vec<_>>());
        let lines: Vec<String> = renamed.map(|words| words.join(" ")).collect();
        // What runs in the database's container runs here; the other commands have no containers to start or stop.
        format!("docker() {{ case \"$2\" in exec) shift 4; \"$@\" ;; esac; }}\n{}", lines.join("\n"))
    };
    let (dump, restore) = (here(block("postgres pg_dump")), here(block("postgres pg_restore")));
    comes_back(Arc::clone(&ground), async || drop(shell.paste(&dump).await), async || drop(shell.paste(&restore).await)).await;
    drop_database(&ground.database_url).await;
    let mut connection = sqlx::PgConnection::connect(&std::env::var("TEST_DATABASE_URL").unwrap()).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP ROLE {name}"))).execute(&mut connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_an_older_build_takes_the_place_of_a_newer_ones_database() {
    let Some(tools) = postgres_tools() else { return };
    let ground = Ground::new(On::Postgres).await;
    let shell = postgres_shell(&ground, &tools);
    let older = tempfile::tempdir().unwrap();
    std::fs::copy("migrations/postgres/0001_chats.sql", older.path().join("0001_chats.sql")).unwrap();
    let mut connection = sqlx::PgConnection::connect(&ground.database_url).await.unwrap();
    Migrator::new(older.path()).await.unwrap().run(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    shell.paste(&block("pg_dump --format")).await;
    shell.paste("chat-service migrate").await;

    shell.paste(&block("\"$PGDATABASE\"")).await;
    let mut server = Process::serve(&ground, 0, &["--migrate", "false"]).await;
    let chat = new_chat(&mut client(&ground, server.port, &mint("alice", &["user"])).await, &[]).await;
    send(&ground, &server, &chat, 1..=1).await;
    assert!(server.stop().await.success());
    drop_database(&ground.database_url).await;
}
