//! The servers as they are now: asked for again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::discover::{DiscoverError, discover};
use super::{Backoff, Seeds, Server, Topology};

/// How often a Cluster is asked whose the slots are, although nothing seems wrong.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest time between two looks, however often something seems wrong.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// What was found at the last look.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Without servers until one has answered; afterwards as it was last seen.
    pub topology: Arc<Topology>,
    /// Why nobody answered the last time.
    pub failure: Option<Arc<str>>,
}

/// Shared by all that use Redis.
pub struct Servers {
    view: watch::Sender<View>,
    again: Notify,
}

impl Servers {
    /// Starts to look, until `stop`.
    pub fn start(seeds: Seeds, stop: CancellationToken) -> Arc<Self> {
        let servers = Arc::new(Self { view: watch::Sender::default(), again: Notify::new() });
        let looking = Arc::clone(&servers);
        tokio::spawn(async move { stop.run_until_cancelled(looking.look(seeds)).await });
        servers
    }

    pub fn views(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Says that the last look seems to be out of date.
    pub fn look_again(&self) {
        self.again.notify_one();
    }

    async fn look(self: Arc<Self>, seeds: Seeds) {
        let seeds: Vec<Server> = seeds.0.into_iter().map(Server::new).collect();
        let mut backoff = Backoff::default();
        let mut answered: Option<Server> = None;
        loop {
            let known = self.view.borrow().topology.servers().to_vec();
            let mut candidates: Vec<&Server> = Vec::new();
            for server in answered.iter().chain(&seeds).chain(&known) {
                if !candidates.contains(&server) {
                    candidates.push(server);
                }
            }
            let found = discover(&candidates, seeds.len() > 1).await;
            match found {
                Ok((server, topology)) => {
                    answered = Some(server);
                    backoff.reset();
                    self.found(topology);
                    // Either something seems wrong, or it is time.
                    drop(timeout(LOOK_INTERVAL, self.again.notified()).await);
                    sleep(LOOK_PAUSE).await;
                }
                Err(error) => {
                    self.failed(&error);
                    sleep(backoff.next_pause()).await;
                }
            }
        }
    }

    fn found(&self, topology: Topology) {
        self.view.send_if_modified(|view| {
            let is_new = view.failure.is_some() || *view.topology != topology;
            if is_new {
                *view = View { topology: Arc::new(topology), failure: None };
            }
            is_new
        });
    }

    fn failed(&self, error: &DiscoverError) {
        tracing::debug!(error = %error, "no Redis server answers");
        self.view.send_if_modified(|view| {
            let is_new = view.failure.is_none();
            view.failure = Some(error.to_string().into());
            is_new
        });
    }
}
