//! schemathesis reads the served description and tries to get an answer that it doesn't state, or a server error.

use std::process::Stdio;

use tokio::process::Command;

use crate::common::*;

/// Requests for each operation and phase, at most. The seed keeps runs alike.
const EXAMPLES_MAX: &str = "30";
const SEED: &str = "1";
const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_no_server_error_and_no_undocumented_answer() {
    let Some(program) = std::env::var_os("TEST_SCHEMATHESIS") else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "TEST_SCHEMATHESIS is not set: run `make test`");
        return;
    };
    let server = started(&[]).await;
    // Chats of the examples' kind, so that not everything ends in 404.
    new_chat(&mut server.client("alice").await, &["bob"]).await;
    let output = Command::new(program)
        .arg("run")
        .arg(format!("https://localhost:{}/swagger/openapi.json", server.port))
        .args(["--header", &format!("Authorization: Bearer {}", mint("alice", &["user"]))])
        .args(["--tls-verify", server.ground.path("certs/ca.pem").to_str().unwrap()])
        .args(["--phases", "examples,coverage,fuzzing", "--checks", CHECKS, "--max-examples", EXAMPLES_MAX, "--seed", SEED])
        .args(["--workers", "2", "--request-timeout", "30", "--no-color", "--continue-on-failure", "--generation-database", "none"])
        .args(["--suppress-health-check", "all", "--warnings", "off"])
        // Nothing of a user's own settings, and no files left in the project.
        .current_dir(server.ground.path(""))
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("8 selected"), "not every operation was tried:\n{told}");
}
