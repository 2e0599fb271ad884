//! One chat with many readers, at a fixed pace: messages go out when they are due, whether or not the ones before were answered, and
//! a delivery's latency counts from when its message was due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::fanout::{Room, text_at};
use super::{Sample, Window};
use crate::Done;
use crate::bench::Bench;
use crate::process::{Clocks, Server};

/// What a paced time gave.
pub struct Paced {
    pub window: Window,
    pub p50: Duration,
    pub p99: Duration,
}

impl Paced {
    /// Milliseconds.
    pub fn latency(&self, latency: Duration) -> Sample {
        Sample { value: latency.as_secs_f64() * 1e3, spent: self.window.spent }
    }
}

/// A clock that tells when messages are due. A thread of its own: the runtime's timers go by milliseconds, more than a delivery takes.
pub fn metronome(interval: Duration, start: Instant, beats: u32) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for beat in 0..beats {
            let due = start + interval * beat;
            wait_until(due);
            if sender.send(due).is_err() {
                return;
            }
        }
    });
    receiver
}

#[expect(clippy::disallowed_methods, reason = "it is no thread of a runtime")]
fn wait_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// So many deliveries a second for a while, after a warm-up.
pub async fn measure_in(room: &Arc<Room>, bench: &Bench, server: &Server, readers: usize, per_second: f64, time: Duration) -> Done<Paced> {
    let interval = Duration::from_secs_f64(readers as f64 / per_second);
    let start = Instant::now();
    let from = start + bench.options.warm_up;
    let beats = ((bench.options.warm_up + time).as_secs_f64() / interval.as_secs_f64()).ceil() as u32;
    room.tally.time_from(from);
    let mut due = metronome(interval, start, beats);
    let sending = tokio::spawn({
        let room = Arc::clone(room);
        async move {
            let mut sends = JoinSet::new();
            while let Some(due) = due.recv().await {
                sends.spawn(room.send(text_at(room.tally.nanos(due))));
            }
            while let Some(sent) = sends.join_next().await {
                sent??;
            }
            Ok::<(), crate::Failure>(())
        }
    });
    tokio::time::sleep_until(from.into()).await;
    let (before, clocks) = (room.tally.delivered.get(), Clocks::read(bench, server));
    tokio::time::sleep_until((from + time).into()).await;
    let (after, spent) = (room.tally.delivered.get(), Clocks::read(bench, server).since(&clocks));
    sending.await??;
    let lost = room.drain(server).await?;
    if lost > 0 || after == before {
        return Err(format!("{} lost {lost} deliveries at a pace that it should hold", server.kind.name()).into());
    }
    let latencies = &room.tally.latencies;
    Ok(Paced { window: Window { count: after - before, spent }, p50: latencies.quantile(0.5), p99: latencies.quantile(0.99) })
}

pub async fn measure(bench: &Bench, server: &Server, readers: usize, connections: usize, per_second: f64, time: Duration) -> Done<Paced> {
    let room = Arc::new(Room::open(bench, server, readers, connections, &[]).await?);
    measure_in(&room, bench, server, readers, per_second, time).await
}
