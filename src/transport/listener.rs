//! Accepts connections and serves them until the server stops.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::stream_task::StreamExecutor;
use crate::interceptor::HttpService;

/// How long a TLS handshake, or the header of an HTTP/1 request, may take.
const HANDSHAKE_DUE: Duration = Duration::from_secs(10);
/// An idle HTTP/2 connection is asked for a sign of life this often, and must give it in this time.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_DUE: Duration = Duration::from_secs(20);
/// What a client may send ahead on a stream and on a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Header bytes of a request: the largest token, and room.
const HEADER_LIST_BYTES_MAX: u32 = 32 * 1024;
/// How long to wait after a failed accept: most often for file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct ListenerOptions {
    /// `None`: plaintext.
    pub tls: Option<Arc<ServerConfig>>,
    /// 0: no limit.
    pub connections_max: usize,
    /// 0: no limit.
    pub streams_per_connection_max: u32,
}

/// Accepts until `draining`; from then on connections take no new requests and end with their last one. When `cut` is cancelled
/// they end at once. Returns when no connection is left.
pub async fn serve(
    listener: TcpListener,
    service: impl HttpService,
    options: ListenerOptions,
    draining: CancellationToken,
    cut: CancellationToken,
) {
    let builder = Arc::new(builder(&options));
    let limit = if options.connections_max == 0 { Semaphore::MAX_PERMITS } else { options.connections_max.min(Semaphore::MAX_PERMITS) };
    let slots = Arc::new(Semaphore::new(limit));
    let connections = TaskTracker::new();
    let service = TowerToHyperService::new(service.map_request(|request: http::Request<Incoming>| request.map(Body::new)));
    loop {
        // At the limit new connections wait in the kernel's queue, whose length is bounded too.
        let Some(Ok(slot)) = draining.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await else { break };
        let stream = match draining.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                tracing::warn!(error = %error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (service, builder, tls) = (service.clone(), Arc::clone(&builder), options.tls.clone());
        let (draining, cut) = (draining.clone(), cut.clone());
        connections.spawn(async move {
            let _slot = slot;
            cut.run_until_cancelled(connection(stream, tls, &builder, service, &draining)).await;
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn builder(options: &ListenerOptions) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(StreamExecutor);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(Some(options.streams_per_connection_max).filter(|max| *max > 0))
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_DUE);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_DUE);
    builder
}

async fn connection<S>(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    builder: &Builder<StreamExecutor>,
    service: S,
    draining: &CancellationToken,
) where
    S: hyper::service::Service<
            http::Request<Incoming>,
            Response = http::Response<Body>,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        >,
{
    // Small frames go out at once.
    drop(stream.set_nodelay(true));
    match tls {
        None => http(stream, builder, service, draining).await,
        Some(config) => match tokio::time::timeout(HANDSHAKE_DUE, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => http(stream, builder, service, draining).await,
            Ok(Err(error)) => tracing::debug!(error = %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

async fn http<I, S>(io: I, builder: &Builder<StreamExecutor>, service: S, draining: &CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<
            http::Request<Incoming>,
            Response = http::Response<Body>,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        >,
{
    let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "a connection ended with an error");
    }
}
