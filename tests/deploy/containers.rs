//! The stack's commands and environment, as docker-compose.yml states them, without containers: no engine is needed here, so neither
//! images nor networks nor volumes are tried. `make lint` has Compose itself read the file.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;

use chat_service::pb::chat::v1::GetChatRequest;
use tokio::process::Command;

use crate::common::process::{Said, binary};
use crate::common::*;
use crate::settings::{self, OF_LIBRARIES};

/// What the test needs of a service.
#[derive(Default)]
struct Service {
    /// Scalars and flow lists by their key, as they stand.
    keys: HashMap<String, String>,
    environment: Vec<(String, String)>,
    ports: Vec<String>,
    binds: Vec<String>,
    /// The lines of a block text in the command.
    script: String,
}

/// Reads what docker-compose.yml uses of YAML, and no more.
fn services() -> HashMap<String, Service> {
    let text = std::fs::read_to_string("docker-compose.yml").unwrap();
    let (mut services, mut at, mut key) = (HashMap::<String, Service>::new(), None::<String>, String::new());
    let body = text.split_once("\nservices:\n").unwrap().1.split("\nnetworks:\n").next().unwrap();
    for line in body.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
        let (indent, line) = (line.len() - line.trim_start().len(), line.trim());
        if indent == 2 {
            at = Some(line.trim_end_matches(':').to_owned());
        }
        let Some(name) = &at else { continue };
        let service = services.entry(name.clone()).or_default();
        match (indent, line.split_once(": ")) {
            (4, Some((name, value))) => {
                key = name.to_owned();
                service.keys.insert(key.clone(), value.to_owned());
            }
            (4, None) => key = line.trim_end_matches(':').to_owned(),
            (6, Some((name, value))) if key == "environment" => {
                service.environment.push((name.to_owned(), value.trim_matches('"').to_owned()));
            }
            (6, Some((name, value))) => drop(service.keys.insert(format!("{key}.{name}"), value.to_owned())),
            (8, _) if key == "command" => service.script += &format!("{line}\n"),
            _ => {}
        }
        let item = line.strip_prefix("- ").unwrap_or(line).trim_matches('"').to_owned();
        match (indent, key.as_str()) {
            (6, "ports") => service.ports.push(item),
            (6, "volumes") => service.binds.push(item),
            _ => {}
        }
    }
    for service in services.values_mut() {
        for (key, into) in [("ports", &mut service.ports), ("volumes", &mut service.binds)] {
            into.extend(service.keys.get(key).map(|list| flow(list)).unwrap_or_default());
        }
    }
    services
}

/// `[a, "b"]`, or a word.
fn flow(list: &str) -> Vec<String> {
    let list = list.trim_start_matches('[').trim_end_matches(']');
    list.split(", ").map(|word| word.trim_matches('"').to_owned()).collect()
}

/// `${NAME:-default}` by its default.
fn defaults(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, behind) = after.split_once('}').unwrap();
        out += before;
        out += inside.split_once(":-").map_or("", |(_, default)| default);
        rest = behind;
    }
    out + rest
}

/// The stack on this machine: its paths, names and ports put in place of the containers'.
struct Stack {
    services: HashMap<String, Service>,
    keys: String,
    database_url: String,
    /// 0 until the server serves: the system chooses.
    admin: u16,
}

impl Stack {
    fn here(&self, text: &str) -> String {
        let text = defaults(text).replace("/keys", &self.keys).replace("postgres://chat@postgres:5432/chat", &self.database_url);
        text.replace("0.0.0.0:50051", "0.0.0.0:0").replace("0.0.0.0:9090", &format!("0.0.0.0:{}", self.admin))
    }

    /// The binary as a service runs it, or as its health check does.
    fn command(&self, name: &str, key: &str) -> Command {
        let service = &self.services[name];
        let words: Vec<String> = service.keys.get("entrypoint").filter(|_| key == "command").map(|words| flow(words)).unwrap_or_default();
        let words = words.into_iter().chain(flow(&service.keys[key]));
        self.command_of(name, words.filter(|word| word != "CMD" && !word.ends_with("/chat-service")))
    }

    /// The binary with other words in a service's place, as by `docker compose run`.
    fn command_of(&self, name: &str, words: impl Iterator<Item = String>) -> Command {
        let mut command = binary();
        command.args(words.map(|word| self.here(&word)));
        for (name, value) in &self.services[name].environment {
            // Redis where the tests have one, else one node.
            let value = if name == "REDIS_URL" { std::env::var("TEST_REDIS_URL").unwrap_or_default() } else { self.here(value) };
            command.env(name, value);
        }
        command
    }

    async fn run(&self, name: &str, key: &str) -> String {
        self.ran(name, self.command(name, key)).await
    }

    async fn ran(&self, name: &str, mut command: Command) -> String {
        let output = within(command.output()).await.unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stacks_commands_work_in_their_order_without_containers() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().display().to_string();
    let mut stack = Stack { services: services(), keys, database_url: new_database().await, admin: 0 };

    // Owners are the containers' affair.
    let script = stack.services["secrets"].script.replace("chown 65532:65532", "ls -d").replace("$$", "$");
    let secrets = Command::new("sh").args(["-ceu", &stack.here(&script)]).output().await.unwrap();
    assert!(secrets.status.success(), "{}", String::from_utf8_lossy(&secrets.stderr));
    let secret = std::fs::read_to_string(folder.path().join("secret")).unwrap();
    assert!(secret.len() >= 32 && !secret.starts_with("development-only-"));
    assert!(std::fs::read_to_string(folder.path().join("pgpass")).unwrap().starts_with("postgres:5432:chat:chat:"));

    stack.run("certificates", "command").await;
    stack.run("migrate", "command").await;
    let mut server = stack.command("chat-service", "command").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = Said::default();
    drop(said.listen(server.stderr.take().unwrap()));
    let (port, admin) = said.ports().await;
    // Where the health check finds it.
    stack.admin = admin;
    stack.run("chat-service", "healthcheck.test").await;

    let token = stack.run("token", "command").await;
    let channel = within(endpoint(&folder.path().join("ca.pem"), port).connect()).await.unwrap();
    let mut alice = with_token(channel, token.trim());
    let chat_id = new_chat(&mut alice, &[]).await;
    alice.get_chat(GetChatRequest { chat_id }).await.unwrap();

    // As docs/operations.md tells to renew certificates.
    let operations = std::fs::read_to_string("docs/operations.md").unwrap();
    let renew = operations.lines().find_map(|line| line.strip_prefix("docker compose run --rm --no-deps certificates ")).unwrap();
    stack.ran("certificates", stack.command_of("certificates", renew.split_whitespace().map(str::to_owned))).await;
    until("the new certificate is taken", || said.text().contains("certificate and key were read anew")).await;
    within(endpoint(&folder.path().join("ca.pem"), port).connect()).await.unwrap();

    let stopped = Command::new("kill").args(["-TERM", &server.id().unwrap().to_string()]).status().await.unwrap();
    assert!(stopped.success() && within(server.wait()).await.unwrap().success());
    drop_database(&stack.database_url).await;
}

#[test]
fn the_stack_is_on_loopback_pinned_and_has_no_passwords_of_its_own() {
    let services = services();
    assert!(services.len() >= 9, "{:?}", services.keys());
    let mut hosts = Vec::new();
    for (name, service) in &services {
        for port in &service.ports {
            let port = defaults(port);
            let host = port.strip_prefix("127.0.0.1:").and_then(|rest| rest.split_once(':')).unwrap_or_else(|| panic!("{name}: {port}")).0;
            hosts.push(host.to_owned());
        }
        if let Some(image) = service.keys.get("image") {
            let tag = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: {image} has no tag")).1;
            assert!(tag.bytes().filter(|byte| *byte == b'.').count() >= 1, "{name}: {image} isn't pinned");
        }
        for bind in service.binds.iter().filter(|bind| bind.starts_with("./")) {
            let source = bind.split(':').next().unwrap();
            assert!(Path::new(source).exists(), "{name} mounts {source}, which isn't there");
        }
        for (variable, value) in &service.environment {
            let named = ["PASSWORD", "TOKEN"].iter().any(|word| variable.contains(word));
            assert!(!named || value.starts_with('/'), "{name}: {variable} holds a password");
        }
        let stays = service.keys.contains_key("restart");
        assert_eq!(stays, service.keys.contains_key("healthcheck.test"), "{name}: what stays has a health check");
        assert_eq!(stays, service.keys.contains_key("logging"), "{name}: what stays has a bound for its log");
    }
    for name in ["migrate", "chat-service"] {
        let environment: Vec<_> = services[name].environment.iter().map(|(name, value)| (name.as_str(), defaults(value))).collect();
        let own = environment.iter().filter(|(name, _)| !OF_LIBRARIES.contains(name));
        settings::accepted(own.map(|(name, value)| (*name, value.as_str())));
    }
    let count = hosts.len();
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), count, "two services want one port: {hosts:?}");
}

#[test]
fn the_image_runs_as_nobody_in_particular_and_stops_cleanly() {
    let dockerfile = std::fs::read_to_string("Dockerfile").unwrap();
    let runtime = dockerfile.rsplit_once("\nFROM ").unwrap().1;
    for line in ["USER 65532:65532", "STOPSIGNAL SIGTERM", "ENTRYPOINT [\"/usr/local/bin/chat-service\"]", "CMD [\"serve\"]"] {
        assert!(runtime.lines().any(|found| found == line), "{line}");
    }
    assert!(runtime.contains("HEALTHCHECK") && runtime.contains("CMD [\"/usr/local/bin/chat-service\", \"health\"]"));
    let rust = std::fs::read_to_string("Cargo.toml").unwrap();
    let version = rust.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"').to_owned();
    assert!(dockerfile.contains(&format!("FROM rust:{version}-trixie AS build")), "the image is built by Rust {version}");
    assert!(runtime.starts_with("gcr.io/distroless/cc-debian13:"), "both stages are of one Debian: trixie is 13");
    let ignored = std::fs::read_to_string(".dockerignore").unwrap();
    for secret in ["certs", "data", "*.env", ".git"] {
        assert!(ignored.lines().any(|line| line == secret), "{secret} would get into a layer");
    }
}

#[test]
fn what_the_image_builds_first_needs_no_file_but_its_stand_ins() {
    // Where a target's file is to be looked for, as it has no path, cargo refuses the manifest without it.
    let manifest: Vec<String> = std::fs::read_to_string("Cargo.toml").unwrap().split("\n[").map(str::to_owned).collect();
    let targets: Vec<&String> = manifest
        .iter()
        .filter(|table| ["[bench]]", "[test]]", "[example]]", "[bin]]"].iter().any(|kind| table.starts_with(kind)))
        .collect();
    assert!(targets.len() >= 4, "{targets:?}");
    for target in targets {
        assert!(target.lines().any(|line| line.starts_with("path = ")), "a target without a path: [{target}");
    }
}
