//! A connection's life: the handshake, its requests, and its end: by its client, by a limit, or by the server's stop.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::common::{Common, Protocol};
use super::driver::Driver;
use super::frames::FrameGuard;
use super::gather::Gather;
use super::limits::ConnectionLimits;
use super::rare_timer::RareTimer;
use super::rarely::either;
use super::stall::StallGuard;
use super::stream_task::{Companion, StreamExecutor};
use crate::interceptor::HttpService;
use crate::interceptor::address::Peer;
use crate::observe::metrics::{self, Turned};

/// What a request knows of its connection; in an `Arc` in every request's extensions.
pub struct Carrier {
    /// `None`: the request is made in this process.
    peer: Option<IpAddr>,
    /// Cancelled when the connection, or the whole server, takes its leave. Streams end then, with a reason.
    pub leaving: CancellationToken,
    /// Cancelled by what must be rid of the connection at once.
    pub cut: CancellationToken,
    successor: Mutex<Option<Companion>>,
}

impl Carrier {
    pub fn new(peer: Option<IpAddr>, leaving: CancellationToken, cut: CancellationToken) -> Self {
        Self { peer, leaving, cut, successor: Mutex::default() }
    }

    /// What an upgrade makes of the connection; it begins when HTTP has ended. It lives as the connection did: in its task, with its place
    /// and its age, and drained and cut with it. It must not hold the carrier, which holds it.
    pub fn succeed(&self, successor: Companion) {
        *self.lock() = Some(successor);
    }

    fn successor(&self) -> Option<Companion> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Companion>> {
        self.successor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection to its end. When `draining` is cancelled it takes no new requests and ends with its last one. When `cut` is, behind
/// `draining`, it ends at once.
pub async fn serve(
    stream: TcpStream,
    peer: IpAddr,
    tls: Option<Arc<ServerConfig>>,
    service: impl HttpService,
    limits: Arc<ConnectionLimits>,
    draining: CancellationToken,
    cut: CancellationToken,
) {
    let (limits, draining, cut) = (&*limits, &draining, &cut);
    // Small frames go out at once.
    drop(stream.set_nodelay(true));
    let stream = StallGuard::new(stream, limits.send_due);
    match tls {
        None => http(stream, peer, service, limits, draining, cut).await,
        // Behind pointers: a task keeps room for all that is passed on in it, at each place that it is passed through.
        Some(config) => match in_time(limits.handshake_due, draining, Box::pin(handshake(config, stream))).await {
            Ok(Ok(stream)) => http(stream, peer, service, limits, draining, cut).await,
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
    /// What must be rid of it at once says so.
    Cut,
    Stop,
    /// It never said which protocol it speaks.
    Silent,
    Idle,
    Age,
}

/// Serves HTTP, and what comes of it, until somebody cuts the connection.
async fn http<I>(
    io: I,
    peer: IpAddr,
    service: impl HttpService,
    limits: &ConnectionLimits,
    draining: &CancellationToken,
    cut: &CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Children are cancelled with their parents, too.
    let carrier = Arc::new(Carrier::new(Some(peer), draining.child_token(), cut.child_token()));
    let common = Common::new();
    let io = Gather::new(FrameGuard::new(io, limits.control_frames_per_second_max, common.clone()), common.clone());
    let carries = Arc::clone(&carrier);
    let service = TowerToHyperService::new(service.map_request(move |mut request: http::Request<Incoming>| {
        let extensions = request.extensions_mut();
        if let Some(peer) = carries.peer {
            extensions.insert(Peer(peer));
        }
        extensions.insert(Arc::clone(&carries));
        request.map(Body::new)
    }));
    // Owned: the builder needn't stay for it.
    // The socket is boxed: in the connection it would make that take the allocator's next class of sizes.
    let io = TokioIo::new(Box::new(io));
    let connection = builder(limits, &common).serve_connection_with_upgrades(io, service).into_owned();
    let mut connection = Driver::new(Box::pin(connection), common.clone());
    let ends_at = limits.age_max.map(end_of_age);
    let ended = {
        let told = pin!(async {
            tokio::select! {
                biased;
                () = carrier.cut.cancelled() => Reason::Cut,
                () = draining.cancelled() => Reason::Stop,
                reason = over(limits, ends_at, &common) => reason,
            }
        });
        either(common.rarely(), &mut connection, told).await
    };
    // Boxed where it begins: most connections have no need of its room for most of their lives.
    let rest = Box::pin(async {
        let reason = match ended {
            Either::Left(ended) => {
                ended_by_itself(ended);
                let Some(successor) = carrier.successor() else { return };
                // Where the upgrade has failed, this tells the successor.
                drop(connection);
                return upgraded(successor, ends_at, limits, &carrier.leaving, draining).await;
            }
            Either::Right(Reason::Silent) => {
                metrics::connection_refused(Turned::Silent);
                tracing::debug!("a connection said nothing");
                return;
            }
            Either::Right(reason) => reason,
        };
        carrier.leaving.cancel();
        connection.driven().graceful_shutdown();
        let rest = async {
            ended_by_itself(connection.await);
            // A request for an upgrade was answered meanwhile.
            if let Some(successor) = carrier.successor() {
                successor.await;
            }
        };
        drain(reason, limits, rest).await;
    });
    if carrier.cut.run_until_cancelled(rest).await.is_none() {
        tracing::debug!("a connection is cut: its client took nothing for too long, or the server stops");
    }
}

/// What an upgrade has made of a connection, to its end.
async fn upgraded(
    mut successor: Companion,
    ends_at: Option<Instant>,
    limits: &ConnectionLimits,
    leaving: &CancellationToken,
    draining: &CancellationToken,
) {
    let reason = tokio::select! {
        biased;
        () = successor.as_mut() => return,
        () = draining.cancelled() => Reason::Stop,
        () = until(ends_at) => Reason::Age,
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

fn builder(limits: &ConnectionLimits, common: &Common) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(StreamExecutor::new(common.clone()));
    let streams_max = limits.streams_max;
    builder
        .http2()
        .timer(RareTimer::new(common.clone()))
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

/// Returns when there is a reason to end a connection: it never said which protocol it speaks, or had no stream for too long (HTTP/1 has its
/// header's time-out), or has its greatest age. One timer for all of them.
async fn over(limits: &ConnectionLimits, ends_at: Option<Instant>, common: &Common) -> Reason {
    let began = Instant::now();
    let (speaks_by, mut idle_at) = (began + limits.handshake_due, began + limits.idle_due);
    let mut has_spoken = false;
    loop {
        let look_at = if has_spoken { idle_at } else { idle_at.min(speaks_by) };
        sleep_until(ends_at.map_or(look_at, |ends_at| ends_at.min(look_at))).await;
        let now = Instant::now();
        if !has_spoken && speaks_by <= now {
            has_spoken = common.protocol() != Protocol::Unknown;
            if !has_spoken {
                return Reason::Silent;
            }
        }
        if idle_at <= now {
            idle_at = match common.idle_since() {
                Some(since) if since + limits.idle_due <= now && common.protocol() == Protocol::Http2 => return Reason::Idle,
                Some(since) if since + limits.idle_due > now => since + limits.idle_due,
                _ => now + limits.idle_due,
            };
        }
        if ends_at.is_some_and(|ends_at| ends_at <= now) {
            return Reason::Age;
        }
    }
}

/// When a connection has its greatest age, give or take a tenth: connections that began together don't all come back together.
fn end_of_age(age_max: Duration) -> Instant {
    Instant::now() + age_max.mul_f64(rand::rng().random_range(0.9..1.1))
}

/// Returns then, if ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ConnectionLimits {
        ConnectionLimits { handshake_due: Duration::from_secs(10), idle_due: Duration::from_secs(60), ..ConnectionLimits::default() }
    }

    /// Why a connection is over, and behind how many seconds; `None`: it isn't within an hour.
    async fn over_by(protocol: Protocol, common: &Common, age: Option<u64>) -> Option<(Reason, u64)> {
        let began = Instant::now();
        common.speaks(protocol);
        let ends_at = age.map(|age| began + Duration::from_secs(age));
        let over = timeout(Duration::from_secs(3_600), over(&limits(), ends_at, common)).await.ok()?;
        Some((over, began.elapsed().as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_by_what_comes_first() {
        let busy = Common::new();
        let _stream = busy.begin_stream();
        for (protocol, is_busy, age, expected) in [
            (Protocol::Unknown, false, None, Some((Reason::Silent, 10))),
            (Protocol::Unknown, false, Some(5), Some((Reason::Age, 5))),
            (Protocol::Http2, false, None, Some((Reason::Idle, 60))),
            (Protocol::Http2, false, Some(70), Some((Reason::Idle, 60))),
            (Protocol::Http2, false, Some(50), Some((Reason::Age, 50))),
            (Protocol::Http2, true, None, None),
            (Protocol::Http2, true, Some(500), Some((Reason::Age, 500))),
            // HTTP/1 has its header's time-out.
            (Protocol::Http1, false, None, None),
            (Protocol::Http1, false, Some(500), Some((Reason::Age, 500))),
        ] {
            let common = if is_busy { busy.clone() } else { Common::new() };
            assert_eq!(over_by(protocol, &common, age).await, expected, "{protocol:?}, busy: {is_busy}, age: {age:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_stream() {
        let common = Common::new();
        let stream = common.begin_stream();
        let ends = async {
            sleep_until(Instant::now() + Duration::from_secs(50)).await;
            drop(stream);
        };
        let (over, ()) = tokio::join!(over_by(Protocol::Http2, &common, None), ends);
        assert_eq!(over, Some((Reason::Idle, 110)));
    }
}
