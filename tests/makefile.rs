//! The Makefile's targets, as far as they run without containers and without building: each has its help and a recipe that make accepts,
//! and those that are quick are run.

use std::path::Path;
use std::process::{Command, Output};

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
