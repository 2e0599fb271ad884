//! Traces through an OpenTelemetry Collector, the one that operators run. What it took it hands on to the stub, which tells what that was.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::collector::Collector;
use crate::common::process::{Process, Said, binary};
use crate::common::{Ground, On, until};
use crate::traces::{assert_followed, frames_are_traces_of_their_own, send_to_a_subscriber};
use crate::{metric, until_metric};

const READY: &str = "Everything is ready";

/// A Collector that hands on to `to`: it ends with its process's handle. And what it says.
async fn start(otelcol: &str, to: &Collector) -> (Child, Said) {
    let mut command = Command::new(otelcol);
    command.args(["--config", "file:tests/foreign/otelcol/config.yaml"]).env("SPANS_TO", to.url());
    let mut child = command.kill_on_drop(true).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = Said::default();
    let listener = said.listen(child.stderr.take().unwrap());
    until("the collector is ready, or has ended", || said.text().contains(READY) || listener.is_finished()).await;
    assert!(said.text().contains(READY), "{}", said.text());
    (child, said)
}

/// Where its GRPC or HTTP server is, as its log says.
fn url(said: &Said, server: &str) -> String {
    let (text, starting) = (said.text(), format!("Starting {server} server"));
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.find(|line| line["msg"] == starting).unwrap_or_else(|| panic!("no {server} server: {text}"));
    format!("http://{}", line["endpoint"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opentelemetry_collector_takes_a_messages_trace_over_grpc_and_over_http() {
    let Ok(otelcol) = std::env::var("TEST_OTELCOL") else { return eprintln!("skipped: TEST_OTELCOL is not set") };
    for (protocol, listener) in [("grpc", "GRPC"), ("http/protobuf", "HTTP")] {
        let (ground, stub) = (Ground::new(On::Sqlite).await, Collector::http().await);
        let (_otelcol, said) = start(&otelcol, &stub).await;
        let mut command = binary();
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", url(&said, listener)).env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        command.env("OTEL_SERVICE_NAME", "chat-test").env("OTEL_BSP_SCHEDULE_DELAY", "100");
        let mut server = Process::serve_by(command, &ground, 0, &[]).await;
        let (traceparent, _) = send_to_a_subscriber(&server, &ground).await;
        until_metric(&server, "chat_trace_spans_exported_total", &[], |exported| exported > 0.0).await;
        assert_eq!(metric(&server, "chat_trace_spans_lost_total", &[]).await, 0.0, "{protocol}: {}", said.text());
        assert!(server.stop().await.success());

        let spans = stub.spans();
        println!("over {protocol}:\n{}", spans.tree());
        assert_followed(&spans, &traceparent, "sqlite");
        frames_are_traces_of_their_own(&spans);
    }
}
