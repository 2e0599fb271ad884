//! The examples in deploy/, held against the code's options and against each other, and read by their own programs where those are here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chat_service::config::duration::parse_duration;

use crate::common::skipped;
use crate::settings::{self, OF_LIBRARIES, declared};

/// What docker-compose.yml is told, and the service isn't.
const OF_COMPOSE: [&str; 4] = ["CHAT_VERSION", "CHAT_REVISION", "CHAT_PORT", "CHAT_ADMIN_PORT"];
const UNIT: &str = "deploy/systemd/chat-service.service";

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands behind the first occurrence of a key.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no {key}"));
    let end = |c: char| c.is_whitespace() || c == '}' || c == ',';
    rest.trim_start().split(end).next().unwrap().trim_matches('"')
}

/// The same as a time; a bare number is seconds.
fn time(text: &str, key: &str) -> Duration {
    parse_duration(value(text, key)).unwrap()
}

/// The settings of the nodes in Kubernetes.
fn config_map() -> BTreeMap<String, String> {
    let text = read("deploy/kubernetes/config.yaml");
    let (_, data) = text.split_once("\ndata:\n").unwrap();
    let lines = data.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').unwrap().1
}

#[test]
fn the_examples_name_variables_that_the_code_reads() {
    let mut files: Vec<String> = ["docker-compose.yml", "Dockerfile", UNIT].map(str::to_owned).into();
    files.extend(std::fs::read_dir("deploy/kubernetes").unwrap().map(|entry| entry.unwrap().path().display().to_string()));
    let declared = declared();
    let mut named = 0;
    for file in &files {
        let text = read(file);
        let words = text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
        let ours = |word: &&str| {
            let begins = ["CHAT_", "OTEL_"].iter().any(|begin| word.starts_with(begin)) && !word.ends_with('_');
            begins || ["DATABASE_URL", "REDIS_URL", "RUST_LOG"].contains(word)
        };
        for word in words.filter(ours).filter(|word| !OF_COMPOSE.contains(word)) {
            assert!(declared.contains_key(word) || OF_LIBRARIES.contains(&word), "{file}: no code reads {word}");
            named += 1;
        }
    }
    assert!(named > 30, "the examples are read: {named}");
}

#[test]
fn serve_takes_the_examples_values() {
    settings::accepted(config_map().iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let unit = read(UNIT);
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/chat-service serve ")).unwrap();
    settings::accepted_flags(command.split_whitespace());
}

#[test]
fn who_stops_a_server_waits_longer_than_its_stop_may_take() {
    let by_default = parse_duration(declared()["CHAT_SHUTDOWN_TIMEOUT"].as_ref().unwrap()).unwrap();
    assert!(time(&read(UNIT), "TimeoutStopSec=") > by_default);

    let (deployment, config) = (read("deploy/kubernetes/deployment.yaml"), config_map());
    let stop = time(&deployment, "preStop: {sleep: {seconds: ") + parse_duration(&config["CHAT_SHUTDOWN_TIMEOUT"]).unwrap();
    assert!(stop < time(&deployment, "terminationGracePeriodSeconds: "));

    let compose = read("docker-compose.yml");
    let (_, service) = compose.split_once("\n  chat-service:\n").unwrap();
    assert!(time(service, "stop_grace_period: ") > time(service, "CHAT_SHUTDOWN_TIMEOUT: "));
}

#[test]
fn probes_ask_for_what_there_is_and_give_the_start_its_time() {
    let (deployment, config) = (read("deploy/kubernetes/deployment.yaml"), config_map());
    for (probe, path) in [("startupProbe:", "/readyz"), ("livenessProbe:", "/healthz"), ("readinessProbe:", "/readyz")] {
        let (_, probe) = deployment.split_once(probe).unwrap();
        assert_eq!((value(probe, "path: "), value(probe, "port: ")), (path, "admin"));
    }
    assert_eq!(value(&deployment, "{name: admin, containerPort: "), port(&config["CHAT_ADMIN_LISTEN"]));
    assert_eq!(value(&deployment, "prometheus.io/port: "), port(&config["CHAT_ADMIN_LISTEN"]));
    assert_eq!(value(&deployment, "{name: grpc, containerPort: "), port(&config["CHAT_LISTEN"]));
    assert_eq!(value(&read("deploy/kubernetes/service.yaml"), "targetPort: "), "grpc");

    let (_, startup) = deployment.split_once("startupProbe:").unwrap();
    let tries: u32 = value(startup, "failureThreshold: ").parse().unwrap();
    assert!(time(startup, "periodSeconds: ") * tries > parse_duration(&config["CHAT_DATABASE_WAIT"]).unwrap());
}

#[test]
fn a_copied_local_env_takes_nothing_away_from_the_unit() {
    let (unit, example) = (read(UNIT), read("local.env.example"));
    for line in unit.lines().filter_map(|line| line.strip_prefix("Environment=")) {
        for (name, _) in line.split_whitespace().filter_map(|setting| setting.split_once('=')) {
            assert!(!example.lines().any(|line| line.starts_with(&format!("{name}="))), "local.env overrides {name}");
        }
    }
    for credential in unit.split("%d/").skip(1).filter_map(|rest| rest.split_whitespace().next()) {
        assert!(unit.contains(&format!("\nLoadCredential={credential}:/etc/chat-service/{credential}\n")), "{credential}");
    }
}

#[test]
fn a_release_by_the_documents_commands_finds_what_they_name() {
    let (operations, job) = (read("docs/operations.md"), read("deploy/kubernetes/migrate.yaml"));
    let (metadata, _) = job.split_once("\nspec:").unwrap();
    let release = ["app.kubernetes.io/component=migrate", "job/chat-migrate", "deployment/chat-service", "kubectl -n chat "];
    assert!(release.iter().all(|named| operations.contains(named)));
    assert!(metadata.contains("name: chat-migrate") && metadata.contains("app.kubernetes.io/component: migrate"));
    assert!(read("deploy/kubernetes/deployment.yaml").contains("kind: Deployment\nmetadata:\n  name: chat-service\n"));
    assert!(read("deploy/kubernetes/kustomization.yaml").contains("\nnamespace: chat\n"));
}

#[test]
fn kustomize_builds_the_kubernetes_example() {
    let Ok(built) = Command::new("kubectl").args(["kustomize", "deploy/kubernetes"]).output() else {
        return skipped("kustomize's look at deploy/kubernetes (kubectl is not here)");
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let built = String::from_utf8(built.stdout).unwrap();
    for kind in ["ConfigMap", "Deployment", "Job", "PodDisruptionBudget", "Service"] {
        assert!(built.contains(&format!("kind: {kind}\n")), "{kind}");
    }
    assert_eq!(built.matches("namespace: chat\n").count(), 5);
    assert!(built.lines().all(|line| line.trim() != "image: chat-service"), "each image has its registry and its tag");
}

#[test]
fn systemd_accepts_the_unit() {
    // The binary that it starts must be there.
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join(Path::new(UNIT).file_name().unwrap());
    std::fs::write(&unit, read(UNIT).replace("/usr/local/bin/chat-service", env!("CARGO_BIN_EXE_chat-service"))).unwrap();
    let Ok(verified) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output() else {
        return skipped("systemd's look at deploy/systemd (systemd-analyze is not here)");
    };
    let said = String::from_utf8(verified.stderr).unwrap();
    assert!(verified.status.success() && !said.contains("chat-service.service"), "{said}");
}
