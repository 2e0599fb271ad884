//! The broker of several nodes: by Redis, whose channels carry what one node committed to the streams of the others.
//!
//! A node takes its own messages into its own registry at once, and publishes them beside. It listens only to chats that have streams
//! here. In a Cluster chats are spread over its servers by sharded channels; a server by itself has plain ones. Nothing waits for Redis
//! and nothing depends on it: what it loses is read from the repository, by the sweep or before.
//!
//! - [`wire`], [`channels`]: what is said, and where.
//! - [`subscriptions`]: which chats are listened to.
//! - [`link`]: one server, with its [`publisher`] and its [`listener`].
//! - [`kept`]: what couldn't be published, until it can.

mod channels;
mod kept;
mod link;
mod listener;
mod publisher;
mod subscriptions;
mod wire;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::channels::Channels;
use self::kept::Kept;
use self::link::{Frame, Link};
use self::subscriptions::{Owner, Subscriptions};
use super::channel::lock;
use super::{AccessEnd, Backlog, Broker, BrokerState, BrokerStats, Delivery, FrameCounts, Holes, Registry};
use crate::client::redis::{Server, Servers, Topology, View};
use crate::model::{ChatId, Message};
use crate::observe::trace::Origin;

/// How often a server must show that it lives. With the time that an answer may take, a frozen one is found within 3 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that lasted so long was a good one: after it, pauses begin anew.
const STEADY: Duration = Duration::from_secs(5);
/// How long a join waits until its chat is listened to.
const CONFIRMATION_DUE: Duration = Duration::from_millis(250);
/// How long a starting node waits for Redis.
const START_DUE: Duration = Duration::from_secs(2);

pub struct RedisBroker {
    shared: Arc<Shared>,
}

/// What the links share.
struct Shared {
    channels: Arc<Channels>,
    /// This node, in what it publishes.
    origin: u64,
    registry: Arc<Registry>,
    subscriptions: Arc<Subscriptions>,
    servers: Arc<Servers>,
    routes: ArcSwap<Routes>,
    kept: Kept,
    stats: Arc<BrokerStats>,
    /// Held while the state is found out and told.
    telling: Mutex<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Which link a channel belongs to.
#[derive(Default)]
struct Routes {
    topology: Arc<Topology>,
    /// As the topology's servers.
    links: Vec<Arc<Link>>,
}

impl Routes {
    fn owner(&self, channel: &str) -> Option<&Arc<Link>> {
        self.topology.owner(channel.as_bytes()).and_then(|at| self.links.get(at))
    }
}

impl RedisBroker {
    /// Starts to connect. Returns the registry whose chats it listens to, and the holes that are to be looked after.
    pub fn start(servers: Arc<Servers>, prefix: &str, stats: Arc<BrokerStats>) -> (Arc<Self>, Arc<Registry>, Holes) {
        let subscriptions = Subscriptions::new();
        let (registry, holes) = Registry::shared(subscriptions.clone());
        stats.turn(BrokerState::Starting);
        let shared = Arc::new(Shared {
            channels: Arc::new(Channels::new(prefix)),
            origin: rand::random(),
            registry: Arc::clone(&registry),
            subscriptions,
            servers,
            routes: ArcSwap::default(),
            kept: Kept::default(),
            stats,
            telling: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        shared.tasks.spawn(supervise(Arc::clone(&shared)));
        shared.tasks.spawn(publish_kept(Arc::clone(&shared)));
        (Arc::new(Self { shared }), registry, holes)
    }

    /// Waits until it is known whether Redis is there; not for long.
    pub async fn started(&self) {
        let mut states = self.shared.stats.states();
        drop(timeout(START_DUE, states.wait_for(|state| *state != BrokerState::Starting)).await);
    }

    /// Publishes what waits, and ends.
    pub async fn stop(&self) {
        // What is kept has a way again, perhaps, and no later turn.
        self.shared.publish_what_has_a_way();
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn frame(&self, chat_id: ChatId, sequence: Option<i64>, payload: Vec<u8>) -> Frame {
        Frame { channel: self.shared.channels.name(chat_id), payload, sequence }
    }
}

impl Drop for RedisBroker {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn publish(&self, messages: Vec<Arc<Delivery>>) {
        let routes = self.shared.routes.load_full();
        for delivery in messages {
            let Message { chat_id, sequence, .. } = delivery.message;
            let traceparent = delivery.origin.as_ref().map(Origin::traceparent);
            let payload = wire::of_message(self.shared.origin, &delivery.message, traceparent.as_deref());
            self.shared.publish(&routes, self.frame(chat_id, Some(sequence), payload));
            self.shared.registry.deliver(delivery);
        }
    }

    async fn announce(&self, end: AccessEnd) {
        let (AccessEnd::Removed { chat_id, .. } | AccessEnd::Deleted { chat_id }) = &end;
        self.shared.registry.evict(&end);
        let routes = self.shared.routes.load_full();
        self.shared.publish(&routes, self.frame(*chat_id, None, wire::of_end(self.shared.origin, &end)));
    }

    async fn listening(&self, chat_id: ChatId) {
        if let Some(confirmation) = self.shared.subscriptions.confirmation(chat_id) {
            drop(timeout(CONFIRMATION_DUE, confirmation).await);
        }
    }

    fn backlog(&self) -> Backlog {
        let mut queued = FrameCounts::default();
        for of_link in self.shared.routes.load().links.iter().map(|link| link.queued()) {
            queued.messages += of_link.messages;
            queued.announcements += of_link.announcements;
        }
        Backlog { queued, kept: self.shared.kept.frames() }
    }
}

impl Shared {
    /// Queues a frame at the server that its channel belongs to, or keeps it.
    fn publish(&self, routes: &Routes, frame: Frame) {
        let queued = match routes.owner(&frame.channel) {
            Some(link) => link.publish(frame),
            None => Err(frame),
        };
        if let Err(frame) = queued {
            self.keep(frame);
        }
    }

    /// Publishes what is kept, where its link takes it now.
    fn publish_what_has_a_way(&self) {
        let routes = self.routes.load_full();
        let has_way = |channel: &str| routes.owner(channel).is_some_and(|link| link.takes_frames());
        for frame in self.kept.take(has_way) {
            self.publish(&routes, frame);
        }
    }

    /// Keeps what couldn't be published, until there is a way for it.
    fn keep(&self, frame: Frame) {
        self.stats.count_dropped(self.kept.put(frame));
    }

    /// The chat whose channel a push is about.
    fn chat(&self, data: &[::redis::Value]) -> Option<ChatId> {
        match data.first()? {
            ::redis::Value::BulkString(channel) => self.channels.chat(channel),
            _ => None,
        }
    }

    /// Something has come up: perhaps all is well now.
    fn came_up(&self) {
        let _telling = lock(&self.telling);
        let routes = self.routes.load();
        let is_up = !routes.links.is_empty() && routes.links.iter().all(|link| link.is_up());
        if is_up && self.stats.turn(BrokerState::Up) {
            let servers = routes.links.len();
            tracing::info!(servers, cluster = routes.topology.is_cluster(), "Redis is there: messages go between nodes at once");
        }
    }

    fn went_away(&self, server: &Server, error: &dyn Display) {
        self.servers.look_again();
        tracing::debug!(server = server.name(), error = %error, "a connection to Redis failed");
        self.is_away(&format_args!("{}: {error}", server.name()));
    }

    fn is_away(&self, why: &dyn Display) {
        let _telling = lock(&self.telling);
        if self.stats.turn(BrokerState::Degraded) {
            tracing::warn!(error = %why, "Redis is away: messages go between nodes when the sweep finds them");
        }
    }
}

/// Publishes what was kept, as soon as it has a way.
async fn publish_kept(shared: Arc<Shared>) {
    while shared.stop.run_until_cancelled(shared.kept.due()).await.is_some() {
        shared.publish_what_has_a_way();
        if !shared.kept.is_empty() {
            // Perhaps somebody else has its slots by now.
            shared.servers.look_again();
        }
    }
}

/// Makes and ends links as servers come and go.
async fn supervise(shared: Arc<Shared>) {
    let mut views = shared.servers.views();
    let mut next_id = 1;
    loop {
        let view = views.borrow_and_update().clone();
        if let Some(failure) = view.failure.as_ref().filter(|_| view.topology.servers().is_empty()) {
            shared.is_away(failure);
        }
        reroute(&shared, &view, &mut next_id);
        match shared.stop.run_until_cancelled(views.changed()).await {
            Some(Ok(())) => {}
            // The servers' task never ends before this one.
            Some(Err(_)) | None => return,
        }
    }
}

fn reroute(shared: &Arc<Shared>, view: &View, next_id: &mut u64) {
    let before = shared.routes.load_full();
    if before.topology == view.topology {
        return;
    }
    let is_sharded = view.topology.is_cluster();
    let mut known: HashMap<&str, &Arc<Link>> =
        before.links.iter().filter(|link| link.is_sharded == is_sharded).map(|link| (link.server.name(), link)).collect();
    let (mut links, mut new) = (Vec::new(), Vec::new());
    for server in view.topology.servers() {
        let link = known.remove(server.name()).cloned().unwrap_or_else(|| {
            *next_id += 1;
            let (link, waiting) = Link::new(shared, *next_id, server.clone(), is_sharded);
            new.push((Arc::clone(&link), waiting));
            link
        });
        links.push(link);
    }
    for gone in before.links.iter().filter(|link| !links.iter().any(|kept: &Arc<Link>| kept.id == link.id)) {
        gone.stop.cancel();
    }
    let ids: Vec<u64> = links.iter().map(|link| link.id).collect();
    let routes = Arc::new(Routes { topology: Arc::clone(&view.topology), links });
    shared.routes.store(Arc::clone(&routes));
    let channels = Arc::clone(&shared.channels);
    let owner: Owner = Arc::new(move |chat_id| routes.owner(&channels.name(chat_id)).map(|link| link.id));
    shared.subscriptions.reroute(&ids, owner);
    for (link, waiting) in new {
        link.start(shared, waiting);
    }
    // One that was away may be gone now.
    shared.came_up();
}
