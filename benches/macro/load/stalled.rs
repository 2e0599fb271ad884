//! One reader that stops reading, among many: what the others notice of it, and what it gets when it reads on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fanout::{Room, Tally};
use super::{POLL, Sample, paced};
use crate::Done;
use crate::bench::Bench;
use crate::process::Server;
use crate::wire::NARROW;

/// The one that stops reading. It has the protocol's own small windows, which full rate fills at once.
const STALLED: &str = "stalled";
/// Deliveries a second while latencies are taken: enough messages for a 99th percentile.
const PACE: f64 = 30_000.0;
/// How long it may take the reader to catch up.
const CATCH_UP_DUE: Duration = Duration::from_secs(60);

/// What the others get.
pub struct Others {
    /// Deliveries in a second, at full rate.
    pub rate: Sample,
    /// Milliseconds, at a pace.
    pub p99: Sample,
}

/// `readers` of which one stalls, or without that one.
pub async fn measure(bench: &Bench, server: &Server, readers: usize, connections: usize, with: bool) -> Done<Others> {
    let others = readers - 1;
    let room = Arc::new(Room::open(bench, server, others, connections, &[STALLED.to_owned()]).await?);
    let stalled = if with {
        let link = room.site.dialer.with(NARROW).connect().await?;
        Some(room.site.join(&link, STALLED, &room.chat_id, None).await?)
    } else {
        None
    };
    let rate = room.full_rate(bench, server).await?;
    let paced = paced::measure_in(&room, bench, server, others, PACE, bench.options.time * 2).await?;
    if let Some((feed, joined_at)) = stalled {
        let tally = Arc::new(Tally::new(1));
        let reading = Arc::clone(&tally);
        let reader = tokio::spawn(async move { reading.read(feed, joined_at).await });
        let began = Instant::now();
        while tally.delivered.get() < room.sent() && !reader.is_finished() && began.elapsed() < CATCH_UP_DUE {
            tokio::time::sleep(POLL).await;
        }
        let (got, lost, sent) = (tally.delivered.get(), tally.lost(), room.sent());
        if reader.is_finished() {
            reader.await??;
        } else {
            reader.abort();
        }
        if got != sent || lost > 0 {
            return Err(format!("the reader that had stalled got {got} of {sent} messages, {lost} of them as holes").into());
        }
    }
    let p99 = paced.latency(paced.p99);
    Ok(Others { rate, p99 })
}
