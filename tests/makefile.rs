//! The Makefile's targets, as far as they run without containers and without building: each has its help and a recipe that make accepts,
//! and those that are quick are run. scripts/walk.sh, a step of CI, runs the others.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long `make run` may take until it serves, and until it has stopped.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the README and the documents tell people to run.
const PROMISED: [&str; 20] = [
    "setup",
    "install-deps",
    "generate",
    "generate-chat-api",
    "vendor-proto",
    "up",
    "down",
    "run",
    "lint",
    "test",
    "test-coverage",
    "test-faults",
    "test-model",
    "gen-cert",
    "grpc-load-test",
    "bench",
    "check",
    "build",
    "fmt",
    "clean",
];

/// Without what an outer make hands down.
fn make(arguments: &[&str]) -> Output {
    let mut make = Command::new("make");
    make.args(arguments).env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS").env_remove("ADDR");
    make.output().expect("make is not installed")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The targets that the Makefile declares, by name.
fn declared() -> Vec<String> {
    let makefile = std::fs::read_to_string("Makefile").unwrap();
    makefile.lines().filter_map(|line| line.strip_prefix(".PHONY: ")).flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn every_target_has_its_help_and_help_is_what_make_alone_says() {
    let help = said(&make(&[]));
    let helped: Vec<&str> = help.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for target in declared() {
        assert!(helped.contains(&target.as_str()), "{target} has no ## help");
    }
    for target in PROMISED {
        assert!(helped.contains(&target), "the target {target} is missing");
    }
}

#[test]
fn make_accepts_every_recipe_and_the_scripts_that_it_names_are_there() {
    for target in declared() {
        let recipe = said(&make(&["-n", &target]));
        for word in recipe.split(|c: char| c.is_whitespace() || c == ';').filter(|word| word.starts_with("scripts/")) {
            assert!(Path::new(word).is_file(), "{target} runs {word}, which isn't there");
        }
    }
}

#[test]
fn profiles_and_addresses_get_through() {
    let up = said(&make(&["-n", "up", "PROFILES=tracing monitoring"]));
    assert!(up.contains("--profile tracing --profile monitoring") && up.contains("OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4318"), "{up}");
    assert!(!said(&make(&["-n", "up"])).contains("OTEL_"));
    assert!(said(&make(&["-n", "grpc-load-test", "ADDR=https://localhost:1"])).contains("ADDR=https://localhost:1 scripts/load-test.sh"));
    assert!(!said(&make(&["-n", "grpc-load-test"])).contains("ADDR="));
}

#[test]
fn gen_cert_makes_certificates_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (bin, out) = (format!("BIN={}", env!("CARGO_BIN_EXE_chat-service")), format!("ARGS=--out {}", folder.path().display()));
    // `build` counts as done: this test's binary is it.
    said(&make(&["-o", "build", "gen-cert", &bin, &out]));
    assert!(folder.path().join("server.pem").is_file() && folder.path().join("ca.pem").is_file());
}

/// Make in a folder of its own, with this test's binary as what was built, and nothing of what this shell has set for the service.
fn make_in(folder: &Path, arguments: &[&str]) -> Command {
    let mut make = Command::new("make");
    make.current_dir(folder).args(["-f", concat!(env!("CARGO_MANIFEST_DIR"), "/Makefile"), "-o", "build"]);
    make.arg(concat!("BIN=", env!("CARGO_BIN_EXE_chat-service"))).args(arguments);
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS").env_remove("ADDR");
    let ours = |name: &str| {
        let begins = ["CHAT_", "OTEL_"].iter().any(|begin| name.starts_with(begin));
        begins || ["DATABASE_URL", "REDIS_URL", "RUST_LOG"].contains(&name)
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        make.env_remove(name);
    }
    make
}

/// `make run`, as if in the foreground of a terminal.
struct Run {
    make: Child,
    port: u16,
    log: PathBuf,
}

impl Run {
    /// Returns when it serves.
    fn begin(folder: &Path) -> Self {
        let log = folder.join("log");
        let mut make = make_in(folder, &["run"]);
        make.env("CHAT_LISTEN", "127.0.0.1:0").env("CHAT_ADMIN_LISTEN", "127.0.0.1:0").env("NO_COLOR", "1");
        make.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut make = make.spawn().unwrap();
        let output = BufReader::new(make.stdout.take().unwrap());
        let mut run = Self { make, port: 0, log };
        let (found, port) = mpsc::channel();
        // To its end: a server whose output nobody takes would wait.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix("Serving on 127.0.0.1:") {
                    drop(found.send(rest.chars().take_while(char::is_ascii_digit).collect::<String>()));
                }
            }
        });
        let port = port.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("make run did not serve: {}", run.said()));
        run.port = port.parse().unwrap();
        run
    }

    /// To everyone in its foreground.
    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        drop(kill.arg(format!("-{signal}")).arg("--").arg(format!("-{}", self.make.id())).stderr(Stdio::null()).status());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Run {
    /// Leaves nothing behind, whatever failed.
    fn drop(&mut self) {
        self.signal("KILL");
        drop(self.make.wait());
    }
}

#[test]
fn run_serves_check_proves_it_and_ctrl_c_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::begin(folder.path());
    for made in ["certs/ca.pem", "certs/dev.secret", "data/chat.db"] {
        assert!(folder.path().join(made).is_file(), "{made}");
    }
    let address = format!("ADDR=https://localhost:{}", run.port);
    let verdict = said(&make_in(folder.path(), &["check", &address, "ARGS=--duration 2s"]).output().unwrap());
    assert!(verdict.lines().last().is_some_and(|line| line.starts_with("check: ok acked=")), "{verdict}");

    run.signal("INT");
    let began = Instant::now();
    while run.make.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "make run did not end: {}", run.said());
        std::thread::yield_now();
    }
    // Make's shell may be gone before the server is.
    while !run.said().lines().any(|line| line.ends_with("stopped")) {
        assert!(began.elapsed() < PATIENCE, "the server did not stop in order: {}", run.said());
        std::thread::yield_now();
    }
    assert!(TcpStream::connect(("127.0.0.1", run.port)).is_err(), "the port is still served");
}

#[test]
fn every_target_is_walked_by_ci_or_it_is_said_where_it_is_run() {
    let listed = Command::new("scripts/walk.sh").arg("list").output().unwrap();
    assert_eq!(said(&listed).lines().count(), declared().len());
}

#[test]
fn every_script_is_valid_bash_and_may_be_run() {
    use std::os::unix::fs::PermissionsExt;
    for script in
        std::fs::read_dir("scripts").unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "sh"))
    {
        let checked = Command::new("bash").arg("-n").arg(&script).output().unwrap();
        assert!(checked.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&checked.stderr));
        assert!(std::fs::metadata(&script).unwrap().permissions().mode() & 0o100 != 0, "{} can't be run", script.display());
    }
}

#[test]
fn the_load_test_is_for_this_machine_only_and_bounded() {
    let run = |name: &str, value: &str| {
        let mut script = Command::new("scripts/load-test.sh");
        let output = script.env("BIN", env!("CARGO_BIN_EXE_chat-service")).env(name, value).env("LOAD_CHECK_ONLY", "1").output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    for (name, value) in
        [("ADDR", "https://chat.example:443"), ("ADDR", "https://localhost.example:1"), ("LOAD_SECONDS", "60"), ("LOAD_SECONDS", "0")]
    {
        let (good, said) = run(name, value);
        assert!(!good && said.contains(name) && said.lines().count() == 1, "{name}={value}: {said}");
    }
    assert!(run("ADDR", "https://localhost:50051").0);
}
