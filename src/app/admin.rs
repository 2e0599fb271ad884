//! The admin port: metrics and probes in plaintext, and the command that asks whether the server is ready.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::http::header::CONTENT_TYPE as CONTENT_TYPE_HEADER;
use axum::routing::get;
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::probes::Probes;
use crate::observe::text::CONTENT_TYPE;

/// How long `health` waits for an answer.
const ANSWER_DUE: Duration = Duration::from_secs(3);

/// Serves /metrics, /healthz (the process lives) and /readyz (it may be sent requests) until `stop`.
pub async fn serve(listener: TcpListener, probes: Probes, metrics: Metrics, stop: CancellationToken) {
    let metrics = move || async move { ([(CONTENT_TYPE_HEADER, CONTENT_TYPE)], metrics.text()) };
    let router = probes.router().route("/metrics", get(metrics));
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(error = %error, "the admin port failed");
    }
}

#[derive(Args)]
pub struct HealthArgs {
    /// The server's admin address
    #[arg(long, env = "CHAT_ADMIN_LISTEN", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    #[error("no answer from {0} (CHAT_ADMIN_LISTEN): {1}")]
    NoAnswer(SocketAddr, String),
    #[error("not ready: {0}")]
    NotReady(String),
}

/// Asks /readyz.
pub async fn health(args: HealthArgs) -> Result<(), HealthError> {
    let mut admin = args.admin;
    // One that listens on every address is asked on this machine's own.
    if admin.ip().is_unspecified() {
        admin.set_ip(if admin.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let ask = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match tokio::time::timeout(ANSWER_DUE, ask).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(HealthError::NoAnswer(args.admin, error.to_string())),
        Err(_) => return Err(HealthError::NoAnswer(args.admin, "it took too long".into())),
    };
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(HealthError::NotReady(answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned()))
    }
}
