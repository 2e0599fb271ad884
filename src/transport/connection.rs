//! A connection's life: the handshake, its requests, and its end: by its client, by a limit, or by the server's stop.

use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::Either;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rand::Rng;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::frames::{FrameGuard, Protocol, Spoken};
use super::gather::Gather;
use super::limits::ConnectionLimits;
use super::rarely::either;
use super::stall::StallGuard;
use super::stream_task::{Activity, Companion, StreamExecutor};
use crate::interceptor::HttpService;
use crate::interceptor::address::Peer;
use crate::observe::metrics::{self, Turned};

/// In every request's extensions: cancelled when the request's connection, or the whole server, takes its leave. Streams end then, with a reason.
#[derive(Clone, Debug)]
pub struct Leaving(pub CancellationToken);

/// In every request's extensions: cancelled by what must be rid of the request's connection at once.
#[derive(Clone, Debug)]
pub struct Cut(pub CancellationToken);

/// In every request's extensions: what an upgrade makes of its connection. It lives as the connection did: in its task, with its place and
/// its age, and drained and cut with it.
#[derive(Clone, Default)]
pub struct Successor(Arc<Mutex<Option<Companion>>>);

impl Successor {
    /// It begins when HTTP has ended.
    pub fn put(&self, successor: Companion) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(successor);
    }

    fn take(&self) -> Option<Companion> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves a connection to its end. When `draining` is cancelled it takes no new requests and ends with its last one.
pub async fn serve(
    stream: TcpStream,
    peer: IpAddr,
    tls: Option<Arc<ServerConfig>>,
    service: impl HttpService,
    limits: &ConnectionLimits,
    draining: &CancellationToken,
) {
    // Small frames go out at once.
    drop(stream.set_nodelay(true));
    let stream = StallGuard::new(stream, limits.send_due);
    match tls {
        None => until_cut(stream, peer, service, limits, draining).await,
        // Behind pointers: a task keeps room for all that is passed on in it, at each place that it is passed through.
        Some(config) => match in_time(limits.handshake_due, draining, Box::pin(handshake(config, stream))).await {
            Ok(Ok(stream)) => until_cut(stream, peer, service, limits, draining).await,
            Ok(Err(error)) => {
                metrics::connection_refused(Turned::HandshakeFailed);
                tracing::debug!(error = %error, "a TLS handshake failed");
            }
            Err(_) => {
                metrics::connection_refused(Turned::HandshakeLate);
                tracing::debug!("a TLS handshake took too long");
            }
        },
    }
}

async fn handshake<I: AsyncRead + AsyncWrite + Unpin>(config: Arc<ServerConfig>, stream: I) -> io::Result<Box<TlsStream<I>>> {
    TlsAcceptor::from(config).accept(stream).await.map(Box::new)
}

/// A handshake, which a stop doesn't wait for.
async fn in_time<F: Future>(due: Duration, draining: &CancellationToken, handshake: F) -> Result<F::Output, Late> {
    let handshake = timeout(due, handshake);
    draining.run_until_cancelled(handshake).await.and_then(Result::ok).ok_or(Late)
}

/// A handshake took too long, or the server stops.
struct Late;

/// Why a connection is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Stop,
    /// It never said which protocol it speaks.
    Silent,
    Idle,
    Age,
}

/// Serves HTTP, and what comes of it, until somebody cuts the connection.
async fn until_cut<I>(io: I, peer: IpAddr, service: impl HttpService, limits: &ConnectionLimits, draining: &CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let cut = Cut(CancellationToken::new());
    // Boxed, as it is kept twice otherwise: as what is passed on, and as what is run.
    let mut http = Box::pin(http(io, peer, service, limits, draining, &cut));
    if let Either::Right(()) = either(&mut http, pin!(cut.0.cancelled())).await {
        tracing::debug!("a connection is cut: its client took nothing for too long");
    }
}

async fn http<I>(io: I, peer: IpAddr, service: impl HttpService, limits: &ConnectionLimits, draining: &CancellationToken, cut: &Cut)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, spoken) = FrameGuard::new(io, limits.control_frames_per_second_max);
    let activity = Activity::new();
    let (io, turns) = Gather::new(io, activity.clone());
    // Also cancelled with its parent.
    let leaving = draining.child_token();
    let successor = Successor::default();
    let marks = (Peer(peer), Leaving(leaving.clone()), cut.clone(), successor.clone());
    let service = TowerToHyperService::new(service.map_request(move |mut request: http::Request<Incoming>| {
        let (peer, leaving, cut, successor) = marks.clone();
        let extensions = request.extensions_mut();
        extensions.insert(peer);
        extensions.insert(leaving);
        extensions.insert(cut);
        extensions.insert(successor);
        request.map(Body::new)
    }));
    // Owned: the builder needn't stay for it.
    let connection = builder(limits, &activity).serve_connection_with_upgrades(TokioIo::new(io), service).into_owned();
    let mut connection = turns.of(Box::pin(connection));
    let mut age = pin!(aged(limits.age_max));
    let ended = {
        let told = pin!(async {
            tokio::select! {
                biased;
                () = draining.cancelled() => Reason::Stop,
                () = silent(limits.handshake_due, &spoken) => Reason::Silent,
                () = idle(limits.idle_due, &activity, &spoken) => Reason::Idle,
                () = age.as_mut() => Reason::Age,
            }
        });
        either(&mut connection, told).await
    };
    let reason = match ended {
        Either::Left(ended) => {
            ended_by_itself(ended);
            let Some(successor) = successor.take() else { return };
            // Where the upgrade has failed, this tells the successor.
            drop(connection);
            return upgraded(successor, age, limits, &leaving, draining).await;
        }
        Either::Right(Reason::Silent) => {
            metrics::connection_refused(Turned::Silent);
            tracing::debug!("a connection said nothing");
            return;
        }
        Either::Right(reason) => reason,
    };
    leaving.cancel();
    connection.driven().graceful_shutdown();
    let rest = async {
        ended_by_itself(connection.await);
        // A request for an upgrade was answered meanwhile.
        if let Some(successor) = successor.take() {
            successor.await;
        }
    };
    drain(reason, limits, rest).await;
}

/// What an upgrade has made of a connection, to its end.
async fn upgraded(
    mut successor: Companion,
    age: Pin<&mut impl Future<Output = ()>>,
    limits: &ConnectionLimits,
    leaving: &CancellationToken,
    draining: &CancellationToken,
) {
    let reason = tokio::select! {
        biased;
        () = successor.as_mut() => return,
        () = draining.cancelled() => Reason::Stop,
        () = age => Reason::Age,
    };
    leaving.cancel();
    drain(reason, limits, successor).await;
}

/// Waits for what a connection has still to do.
async fn drain(reason: Reason, limits: &ConnectionLimits, rest: impl Future<Output = ()>) {
    tracing::debug!(?reason, "a connection is drained");
    if reason == Reason::Stop {
        // The server's stop has a time of its own.
        return rest.await;
    }
    if timeout(limits.drain_due, rest).await.is_err() {
        tracing::debug!(?reason, "a connection was drained for too long, and is cut");
    }
}

fn ended_by_itself(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(error = %error, "a connection ended with an error");
    }
}

fn builder(limits: &ConnectionLimits, activity: &Activity) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(StreamExecutor::new(activity.clone()));
    let streams_max = limits.streams_max;
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams((streams_max > 0).then_some(streams_max))
        .max_header_list_size(limits.header_list_bytes_max)
        .max_frame_size(limits.frame_bytes_max)
        .max_send_buf_size(limits.send_buffer_bytes_max)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_pending_accept_reset_streams(limits.pending_resets_max)
        .max_local_error_reset_streams(limits.local_resets_max)
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_due);
    builder
        .http1()
        .timer(TokioTimer::new())
        // From the end of one request to the end of the next one's header, so idle connections end by it as well.
        .header_read_timeout(limits.handshake_due)
        .max_buf_size(limits.http1_buffer_bytes_max);
    builder
}

/// Returns when it is overdue for the client to say which protocol it speaks; never where it has said it.
async fn silent(due: Duration, spoken: &Spoken) {
    sleep(due).await;
    if spoken.protocol() != Protocol::Unknown {
        std::future::pending::<()>().await;
    }
}

/// Returns when an HTTP/2 connection had no stream for `due`. HTTP/1 has its header's time-out.
async fn idle(due: Duration, activity: &Activity, spoken: &Spoken) {
    let mut look_at = Instant::now() + due;
    loop {
        tokio::time::sleep_until(look_at).await;
        look_at = match activity.idle_since() {
            Some(since) if since + due <= Instant::now() && spoken.protocol() == Protocol::Http2 => return,
            Some(since) if since + due > Instant::now() => since + due,
            _ => Instant::now() + due,
        };
    }
}

/// Returns at the connection's greatest age, give or take a tenth: connections that began together don't all come back together.
async fn aged(age_max: Option<Duration>) {
    let Some(age_max) = age_max else { return std::future::pending().await };
    let age = age_max.mul_f64(rand::rng().random_range(0.9..1.1));
    sleep(age).await;
}
