//! What operators see: traces at a collector, metrics at the admin port, lines in the log.

mod collector;
#[path = "../common/mod.rs"]
mod common;
mod logs;
mod metrics;
mod otelcol;
mod recent;
mod traces;

use common::process::Process;
use common::{PATIENCE, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a server's admin port answers to a GET: the head and the body.
async fn get(process: &Process, path: &str) -> (String, String) {
    let port = admin_port(process);
    let answer = within(async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn admin_port(process: &Process) -> u16 {
    let log = process.log.lock().unwrap();
    let line = log.iter().find(|line| line.contains("serving")).unwrap();
    let (_, rest) = line.split_once("admin=Some(127.0.0.1:").unwrap();
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// A metric's value: the sum of its samples whose labels hold each of these texts.
async fn metric(process: &Process, name: &str, labels: &[&str]) -> f64 {
    let (_, text) = get(process, "/metrics").await;
    let of = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let samples = of.filter(|(sample, _)| sample.split('{').next() == Some(name) && labels.iter().all(|label| sample.contains(label)));
    samples.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// Waits until a metric's value is right. Between looks others get their turn.
async fn until_metric(process: &Process, name: &str, labels: &[&str], right: impl Fn(f64) -> bool) {
    let waiting = async {
        while !right(metric(process, name, labels).await) {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{name}{labels:?} never became right");
}
