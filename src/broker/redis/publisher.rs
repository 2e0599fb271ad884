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
/// How long what waits may still be published when this node stops.
const FLUSH_DUE: Duration = Duration::from_secs(1);

/// Until the link is stopped.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>, mut waiting: Waiting) {
    let mut backoff = Backoff::default();
    // Announcements of which it isn't known whether they were published: once more does no harm.
    let mut unsure = Vec::new();
    loop {
        let Some(connected) = link.stop.run_until_cancelled(link.server.connect()).await else { return };
        let failure = match connected {
            Ok(mut connection) => {
                link.publishes.store(true, Ordering::Relaxed);
                shared.came_up();
                let since = Instant::now();
                let ended = serve(&shared, &link, &mut waiting, &mut unsure, &mut connection).await;
                link.publishes.store(false, Ordering::Relaxed);
                if since.elapsed() >= STEADY {
                    backoff.reset();
                }
                let Err(error) = ended else { return };
                error
            }
            Err(error) => error,
        };
        shared.went_away(&link.server, &failure);
        // By the time that these could be published, the other nodes have read them.
        shared.stats.count_dropped(waiting.drop_messages());
        if link.stop.run_until_cancelled(sleep(backoff.next_pause())).await.is_none() {
            return;
        }
    }
}

/// Until the link is stopped, which is `Ok`, or the connection fails.
async fn serve(
    shared: &Shared,
    link: &Link,
    waiting: &mut Waiting,
    unsure: &mut Vec<Frame>,
    connection: &mut MultiplexedConnection,
) -> Result<(), RedisError> {
    let mut keepalive = interval(KEEPALIVE_INTERVAL);
    keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = std::mem::take(unsure);
    loop {
        if !batch.is_empty() {
            publish(shared, link, connection, &mut batch, unsure).await?;
        }
        tokio::select! {
            biased;
            () = link.stop.cancelled() => break,
            () = waiting.next(&mut batch) => {}
            // A server that is frozen is found by this, where nothing is published.
            _ = keepalive.tick() => ::redis::cmd("PING").exec_async(connection).await?,
        }
    }
    let rest = async {
        while waiting.take_what_is_there(&mut batch) {
            publish(shared, link, connection, &mut batch, unsure).await?;
        }
        Ok::<(), RedisError>(())
    };
    timeout(FLUSH_DUE, rest).await.unwrap_or(Ok(()))
}

/// Publishes a batch and empties it. Where the connection fails, its announcements become `unsure`.
async fn publish(
    shared: &Shared,
    link: &Link,
    connection: &mut MultiplexedConnection,
    batch: &mut Vec<Frame>,
    unsure: &mut Vec<Frame>,
) -> Result<(), RedisError> {
    let command = if link.is_sharded { "SPUBLISH" } else { "PUBLISH" };
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for frame in batch.iter() {
        pipeline.cmd(command).arg(frame.channel.as_str()).arg(frame.payload.as_slice());
    }
    let answered = connection.send_packed_commands(&pipeline, 0, batch.len()).await;
    let sent = batch.len();
    match answered {
        Ok(answers) => {
            batch.clear();
            let mut refusals = answers.into_iter().filter_map(|answer| match answer {
                Value::ServerError(error) => Some(error),
                _ => None,
            });
            let Some(first) = refusals.next() else {
                shared.stats.count_published(sent);
                return Ok(());
            };
            let refused = 1 + refusals.count();
            shared.stats.count_published(sent - refused.min(sent));
            shared.stats.count_dropped(refused);
            let error = RedisError::from(first);
            if is_passing(&error) {
                shared.servers.look_again();
                Ok(())
            } else {
                Err(error)
            }
        }
        Err(error) => {
            shared.stats.count_dropped(sent);
            unsure.extend(batch.drain(..).filter(|frame| frame.is_announcement));
            Err(error)
        }
    }
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

    /// Announcements first. Returns whether the batch has anything.
    fn take_what_is_there(&mut self, batch: &mut Vec<Frame>) -> bool {
        while batch.len() < BATCH_FRAMES_MAX
            && let Some(next) = self.announcements.try_recv().or_else(|_| self.messages.try_recv()).ok()
        {
            batch.push(next);
        }
        !batch.is_empty()
    }

    /// Returns how many there were.
    fn drop_messages(&mut self) -> usize {
        std::iter::from_fn(|| self.messages.try_recv().ok()).count()
    }
}
