//! Publishes on one server what waits, in pipelines.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::link::{Frame, Link, Waiting};
use super::{KEEPALIVE_INTERVAL, STEADY, Shared};
use crate::client::redis::Backoff;

/// Frames in one pipeline; the next one gathers while it is answered.
const BATCH_FRAMES_MAX: usize = 256;
/// Bytes in one pipeline, but for its last frame: so much goes over a slow line in the time for an answer, or the same would be tried for ever.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// How long what waits may still be published when this node stops.
const FLUSH_DUE: Duration = Duration::from_secs(1);

/// Until the link is stopped. What it has not published then is kept, for whoever has its chats now.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>, mut waiting: Waiting) {
    publish_until_stopped(&shared, &link, &mut waiting).await;
    // Closed first: what is queued meanwhile is given back.
    waiting.announcements.close();
    waiting.messages.close();
    while let Some(frame) = waiting.announcements.recv().await {
        shared.keep(frame);
    }
    while let Some(frame) = waiting.messages.recv().await {
        shared.keep(frame);
    }
}

async fn publish_until_stopped(shared: &Shared, link: &Link, waiting: &mut Waiting) {
    let mut backoff = Backoff::default();
    loop {
        let Some(connected) = link.stop.run_until_cancelled(link.server.connect()).await else { return };
        let failure = match connected {
            Ok(mut connection) => {
                link.publishes.store(true, Ordering::Relaxed);
                shared.came_up();
                let since = Instant::now();
                let mut batch = Vec::new();
                let ended = serve(shared, link, waiting, &mut batch, &mut connection).await;
                link.publishes.store(false, Ordering::Relaxed);
                // Whether it was published isn't known: once more does no harm.
                batch.into_iter().for_each(|frame| shared.keep(frame));
                if since.elapsed() >= STEADY {
                    backoff.reset();
                }
                let Err(error) = ended else { return };
                error
            }
            Err(error) => error,
        };
        shared.went_away(&link.server, &failure);
        // What was queued before the server was known to be away. A chat's newest message is enough by the time that it is back.
        while let Some(frame) = waiting.first() {
            shared.keep(frame);
        }
        if link.stop.run_until_cancelled(sleep(backoff.next_pause())).await.is_none() {
            return;
        }
    }
}

/// Until the link is stopped, which is `Ok`, or the connection fails. What is left in the batch then was perhaps not published.
async fn serve(
    shared: &Shared,
    link: &Link,
    waiting: &mut Waiting,
    batch: &mut Vec<Frame>,
    connection: &mut MultiplexedConnection,
) -> Result<(), RedisError> {
    let mut keepalive = interval(KEEPALIVE_INTERVAL);
    keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = link.stop.cancelled() => break,
            () = waiting.next(batch) => {}
            // A server that is frozen is found by this, where nothing is published.
            _ = keepalive.tick() => ::redis::cmd("PING").exec_async(connection).await?,
        }
        if !batch.is_empty() {
            publish(shared, link, connection, batch).await?;
        }
    }
    // A server that has left the Cluster is not the one to publish what waits.
    if !shared.stop.is_cancelled() {
        return Ok(());
    }
    let rest = async {
        while waiting.take_what_is_there(batch) {
            publish(shared, link, connection, batch).await?;
        }
        Ok::<(), RedisError>(())
    };
    timeout(FLUSH_DUE, rest).await.unwrap_or(Ok(()))
}

/// Publishes a batch and empties it. What the server refuses because its chat is elsewhere, or soon will be, is kept; what it refuses for
/// another reason, which it would give again, is dropped. Where the connection fails, the batch stays as it is.
async fn publish(shared: &Shared, link: &Link, connection: &mut MultiplexedConnection, batch: &mut Vec<Frame>) -> Result<(), RedisError> {
    let command = if link.is_sharded { "SPUBLISH" } else { "PUBLISH" };
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for frame in batch.iter() {
        pipeline.cmd(command).arg(frame.channel.as_str()).arg(frame.payload.as_slice());
    }
    let answers = connection.send_packed_commands(&pipeline, 0, batch.len()).await?;
    let (mut published, mut failure) = (0, None);
    for (frame, answer) in batch.drain(..).zip(answers) {
        let Value::ServerError(error) = answer else {
            published += 1;
            continue;
        };
        let error = RedisError::from(error);
        if is_passing(&error) {
            shared.servers.look_again();
            shared.keep(frame);
        } else {
            shared.stats.count_dropped(1);
            failure = failure.or(Some(error));
        }
    }
    shared.stats.count_published(published);
    failure.map_or(Ok(()), Err)
}

/// Whether a refusal says that the slot is elsewhere, or will soon be: then the connection is good, and the topology old.
pub(super) fn is_passing(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
        )
    )
}

impl Waiting {
    /// Waits for a frame, and takes what is there behind it. Cancel safe.
    async fn next(&mut self, batch: &mut Vec<Frame>) {
        // The link holds the senders, and whoever waits here holds the link.
        tokio::select! {
            biased;
            Some(first) = self.announcements.recv() => batch.push(first),
            Some(first) = self.messages.recv() => batch.push(first),
            else => return,
        }
        self.take_what_is_there(batch);
    }

    /// Returns whether the batch has anything.
    fn take_what_is_there(&mut self, batch: &mut Vec<Frame>) -> bool {
        let mut bytes: usize = batch.iter().map(|frame| frame.payload.len()).sum();
        while batch.len() < BATCH_FRAMES_MAX
            && bytes < BATCH_BYTES_MAX
            && let Some(next) = self.first()
        {
            bytes += next.payload.len();
            batch.push(next);
        }
        !batch.is_empty()
    }

    /// What is to be published next: announcements first.
    fn first(&mut self) -> Option<Frame> {
        self.announcements.try_recv().or_else(|_| self.messages.try_recv()).ok()
    }
}
