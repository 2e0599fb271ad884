//! Removes the rows of deleted chats, beside the requests.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::observe::metrics;
use crate::repository::ChatRepository;

/// Rows that one purge transaction removes.
const PURGE_ROWS_MAX: usize = 1_000;
/// How often deleted chats are looked for.
const PURGE_INTERVAL: Duration = Duration::from_secs(30);

/// Removes the rows of deleted chats, in chunks, until `stop`.
pub async fn run_purge(chats: Arc<dyn ChatRepository>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PURGE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        loop {
            match chats.purge_deleted(PURGE_ROWS_MAX).await {
                Ok(0) => break,
                Ok(rows) => {
                    metrics::PURGED_ROWS.add(rows as u64);
                    tracing::debug!(rows, "removed rows of deleted chats");
                    if stop.is_cancelled() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %error, "removing rows of deleted chats failed; it is tried again");
                    break;
                }
            }
        }
    }
}
