//! Accepts connections and serves them until the server stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addresses::Addresses;
use super::connection;
use super::limits::ConnectionLimits;
use super::tls::Certificates;
use crate::interceptor::HttpService;
use crate::model::Network;
use crate::observe::metrics::{self, Turned};

/// How long to wait after a failed accept: most often for file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct ListenerOptions {
    /// `None`: plaintext.
    pub tls: Option<Arc<Certificates>>,
    /// 0: no limit.
    pub connections_max: usize,
    /// 0: no limit.
    pub connections_per_address_max: usize,
    /// Proxies' connections are many people's and aren't limited by address.
    pub trusted_proxies: Arc<[Network]>,
    pub limits: ConnectionLimits,
}

/// Accepts until `draining`; from then on connections take no new requests and end with their last one. When `cut` is cancelled, behind
/// `draining`, they end at once. Returns when no connection is left.
pub async fn serve(
    listener: TcpListener,
    service: impl HttpService,
    options: ListenerOptions,
    draining: CancellationToken,
    cut: CancellationToken,
) {
    let limits = Arc::new(options.limits);
    let limit = if options.connections_max == 0 { Semaphore::MAX_PERMITS } else { options.connections_max.min(Semaphore::MAX_PERMITS) };
    let slots = Arc::new(Semaphore::new(limit));
    let addresses = Addresses::new(options.connections_per_address_max);
    let connections = TaskTracker::new();
    loop {
        // At the limit new connections wait in the kernel's queue, whose length is bounded too.
        let Some(Ok(slot)) = draining.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await else { break };
        let (stream, peer) = match draining.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, peer))) => (stream, peer.ip()),
            Some(Err(error)) => {
                tracing::warn!(error = %error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = if options.trusted_proxies.iter().any(|network| network.contains(peer)) {
            None
        } else {
            let Some(place) = addresses.enter(peer) else {
                metrics::connection_refused(Turned::Address);
                continue;
            };
            Some(place)
        };
        // As it is now: connections that are open keep the certificate that they began with.
        let tls = options.tls.as_ref().map(|certificates| certificates.current());
        metrics::CONNECTIONS_ACCEPTED.one();
        let held = (slot, place, metrics::CONNECTIONS_OPEN.hold());
        // Boxed and made here, as the task would keep what it is made of as well.
        let serving = connection::serve(stream, peer, tls, service.clone(), Arc::clone(&limits), draining.clone(), cut.clone());
        let serving = Box::pin(serving);
        connections.spawn(async move {
            serving.await;
            drop(held);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}
