//! Listens on one server to the chats that have streams here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, Pipeline, PushInfo, PushKind, RedisError, ServerError, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::publisher::is_passing;
use super::subscriptions::{Change, LinkId};
use super::wire::{self, Told, WireError};
use super::{KEEPALIVE_INTERVAL, STEADY, Shared};
use crate::broker::Delivery;
use crate::client::redis::Backoff;
use crate::observe::trace::Origin;

/// Chats in one pipeline: what is subscribed after a reconnection comes in pieces of this.
const CHANGES_MAX: usize = 256;
/// How long to wait before a server that has refused is asked again.
const REFUSAL_PAUSE: Duration = Duration::from_millis(250);

/// Until the link is stopped.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) {
    let mut backoff = Backoff::default();
    loop {
        let lost = CancellationToken::new();
        let inbox = Inbox { shared: Arc::clone(&shared), link: link.id, lost: lost.clone() };
        let connecting = link.server.connect_and_take(move |push| inbox.take(push));
        let Some(connected) = link.stop.run_until_cancelled(connecting).await else { return };
        let failure = match connected {
            Ok(mut connection) => {
                shared.subscriptions.connected(link.id);
                let since = Instant::now();
                let ended = link.stop.run_until_cancelled(serve(&shared, &link, &mut connection, &lost)).await;
                link.listens.store(false, Ordering::Relaxed);
                shared.subscriptions.lost(link.id);
                if since.elapsed() >= STEADY {
                    backoff.reset();
                }
                let Some(Err(error)) = ended else { return };
                error
            }
            Err(error) => error,
        };
        shared.went_away(&link.server, &failure);
        if link.stop.run_until_cancelled(sleep(backoff.next_pause())).await.is_none() {
            return;
        }
    }
}

/// Until the connection fails.
async fn serve(shared: &Shared, link: &Link, connection: &mut MultiplexedConnection, lost: &CancellationToken) -> Result<(), RedisError> {
    let changed = shared.subscriptions.changed(link.id);
    let mut keepalive = interval(KEEPALIVE_INTERVAL);
    keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut changes = shared.subscriptions.take(link.id, CHANGES_MAX);
        while !changes.is_empty() {
            if !apply(shared, link, connection, &changes).await? {
                shared.servers.look_again();
                sleep(REFUSAL_PAUSE).await;
            }
            changes = shared.subscriptions.take(link.id, CHANGES_MAX);
        }
        if shared.subscriptions.caught_up(link.id) {
            shared.registry.may_have_missed();
        }
        if !link.listens.swap(true, Ordering::Relaxed) {
            shared.came_up();
        }
        tokio::select! {
            biased;
            () = lost.cancelled() => return Err(RedisError::from((ErrorKind::Io, "the connection was lost"))),
            () = changed.notified() => {}
            _ = keepalive.tick() => ::redis::cmd("PING").exec_async(connection).await?,
        }
    }
}

/// Tells the server, and waits for its confirmations. Returns whether it has done everything; what it refused is tried again.
async fn apply(shared: &Shared, link: &Link, connection: &mut MultiplexedConnection, changes: &[Change]) -> Result<bool, RedisError> {
    let mut pipeline = Pipeline::with_capacity(changes.len());
    for change in changes {
        let (command, chat_id) = match (change, link.is_sharded) {
            (Change::Subscribe(chat_id), false) => ("SUBSCRIBE", chat_id),
            (Change::Subscribe(chat_id), true) => ("SSUBSCRIBE", chat_id),
            (Change::Unsubscribe(chat_id), false) => ("UNSUBSCRIBE", chat_id),
            (Change::Unsubscribe(chat_id), true) => ("SUNSUBSCRIBE", chat_id),
        };
        pipeline.cmd(command).arg(shared.channels.name(*chat_id));
    }
    let answers = connection.send_packed_commands(&pipeline, 0, changes.len()).await?;
    let mut is_complete = true;
    for (change, answer) in changes.iter().zip(answers) {
        match confirms(shared, *change, answer) {
            Confirmed::Yes => shared.subscriptions.settled(link.id, *change, true),
            Confirmed::Refused(error) => {
                let error = RedisError::from(error);
                if !is_passing(&error) {
                    return Err(error);
                }
                shared.subscriptions.settled(link.id, *change, false);
                is_complete = false;
            }
            // An answer to something else, as when the server ends a subscription by itself: what follows can't be told apart.
            Confirmed::No => return Err(RedisError::from((ErrorKind::UnexpectedReturnType, "answers came out of step"))),
        }
    }
    Ok(is_complete)
}

enum Confirmed {
    Yes,
    Refused(ServerError),
    No,
}

fn confirms(shared: &Shared, change: Change, answer: Value) -> Confirmed {
    let (kind, data) = match answer {
        Value::ServerError(error) => return Confirmed::Refused(error),
        Value::Push { kind, data } => (kind, data),
        _ => return Confirmed::No,
    };
    let meant = match kind {
        PushKind::Subscribe | PushKind::SSubscribe => shared.chat(&data).map(Change::Subscribe),
        PushKind::Unsubscribe | PushKind::SUnsubscribe => shared.chat(&data).map(Change::Unsubscribe),
        _ => None,
    };
    if meant == Some(change) { Confirmed::Yes } else { Confirmed::No }
}

/// Takes what the server pushes, in the task that reads the connection.
struct Inbox {
    shared: Arc<Shared>,
    link: LinkId,
    lost: CancellationToken,
}

impl Inbox {
    fn take(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message | PushKind::SMessage => self.frame(&push.data),
            PushKind::Disconnection => self.lost.cancel(),
            // Whether this node asked for it, or the slot has moved.
            PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                let is_unasked = self.shared.chat(&push.data).is_some_and(|chat| self.shared.subscriptions.is_subscribed(self.link, chat));
                if is_unasked {
                    self.shared.servers.look_again();
                    self.lost.cancel();
                }
            }
            _ => {}
        }
    }

    fn frame(&self, data: &[Value]) {
        let stats = &self.shared.stats;
        let (Some(chat_id), Some(Value::BulkString(frame))) = (self.shared.chat(data), data.get(1)) else {
            return stats.count_malformed();
        };
        match wire::read(self.shared.origin, chat_id, frame) {
            Ok(Told::Own) => {}
            Ok(Told::Message(message, traceparent)) => {
                stats.count_received();
                let origin = traceparent.as_deref().and_then(Origin::parse);
                self.shared.registry.deliver(Delivery::traced(message, origin));
            }
            Ok(Told::End(end)) => {
                stats.count_received();
                self.shared.registry.evict(&end);
            }
            Err(WireError::UnknownVersion) => stats.count_unknown_version(),
            Err(WireError::Malformed) => stats.count_malformed(),
        }
    }
}
