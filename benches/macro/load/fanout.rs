//! One chat with many readers, as fast as it goes without a loss: so many messages are under way, and a new one is sent when one has
//! reached every reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chat_service::pb::chat::v1 as pb;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use http::Request;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Count, POLL, Sample, message_id, send_message, text, window};
use crate::Done;
use crate::bench::Bench;
use crate::process::Server;
use crate::site::{Site, users};
use crate::stats::Histogram;
use crate::wire::{Feed, Glance, Link, glance};

/// Messages under way at full rate: below what either server's channel holds.
const UNDER_WAY: usize = 16;
/// Connections that these messages are sent on.
const SENDER_LINKS: usize = 4;
/// When nothing more has come for so long, what is missing is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// The user that made the chat, and sends.
pub const SENDER: &str = "sender";

/// What readers have got.
pub struct Tally {
    pub delivered: Count,
    /// Messages that a reader was not given: those behind a hole came.
    lost: AtomicU64,
    readers: u64,
    /// Sends that may go out at full rate.
    permits: Semaphore,
    /// Moments are counted from here, in texts too.
    epoch: Instant,
    /// Where texts say when they were meant to go out, this far from the epoch or later: how long they took.
    pub latencies: Histogram,
    timed_from_nanos: AtomicU64,
}

/// Nothing is timed.
const NEVER: u64 = u64::MAX;

impl Tally {
    /// Each message goes to so many readers.
    pub fn new(readers: usize) -> Self {
        Self {
            delivered: Count::default(),
            lost: AtomicU64::new(0),
            readers: readers as u64,
            permits: Semaphore::new(UNDER_WAY),
            epoch: Instant::now(),
            latencies: Histogram::new(),
            timed_from_nanos: AtomicU64::new(NEVER),
        }
    }

    /// What was meant to go out at this moment or later is timed.
    pub fn time_from(&self, moment: Instant) {
        self.timed_from_nanos.store(self.nanos(moment), Ordering::Relaxed);
    }

    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub fn nanos(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(NEVER)
    }

    fn got(&self, messages: u64, lost: u64) {
        self.lost.fetch_add(lost, Ordering::Relaxed);
        let before = self.delivered.done.fetch_add(messages + lost, Ordering::Relaxed);
        // What is lost is not waited for.
        let through = (before + messages + lost) / self.readers - before / self.readers;
        if through > 0 {
            self.permits.add_permits(through as usize);
        }
    }

    fn time(&self, event: &[u8], from: u64) {
        let now = self.nanos(Instant::now());
        if let Some(meant) = meant_at(event).filter(|meant| *meant >= from) {
            self.latencies.record(Duration::from_nanos(now.saturating_sub(meant)));
        }
    }

    /// Reads for ever.
    pub async fn read(&self, mut feed: Feed, joined_at: i64) -> Done<()> {
        let mut last = joined_at;
        loop {
            let timed_from = self.timed_from_nanos.load(Ordering::Relaxed);
            let (mut messages, mut lost, mut wrong) = (0, 0, false);
            feed.piece(|event| match glance(event) {
                Glance::Message(sequence) if sequence > last => {
                    lost += (sequence - last - 1).unsigned_abs();
                    messages += 1;
                    last = sequence;
                    if timed_from != NEVER {
                        self.time(event, timed_from);
                    }
                }
                Glance::Message(_) | Glance::Joined | Glance::Acknowledged | Glance::Other => wrong = true,
            })
            .await?;
            if wrong {
                return Err("a reader got a message twice, or something that is none".into());
            }
            self.got(messages, lost);
        }
    }
}

/// A text that says when it was meant to go out.
pub fn text_at(nanos: u64) -> String {
    format!("{nanos:020}{}", "x".repeat(super::TEXT_BYTES - 20))
}

fn meant_at(event: &[u8]) -> Option<u64> {
    match pb::ConnectChatResponse::decode(event).ok()?.event? {
        Event::Message(pb::Message { content: Some(pb::message::Content::Text(text)), .. }) => text.get(..20)?.parse().ok(),
        _ => None,
    }
}

/// A chat, its readers at work, and those who send into it.
pub struct Room {
    pub site: Site,
    pub chat_id: String,
    pub tally: Arc<Tally>,
    senders: Vec<Link>,
    request: Request<()>,
    next_id: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    _readers: JoinSet<()>,
}

impl Room {
    /// `readers` on so many connections; `guests` are members who aren't there yet.
    pub async fn open(bench: &Bench, server: &Server, readers: usize, connections: usize, guests: &[String]) -> Done<Self> {
        bench.need_files(connections + 200)?;
        let site = Site::of(bench, server)?;
        let names = users("reader", readers);
        let senders = site.links(SENDER_LINKS).await?;
        let members: Vec<String> = names.iter().chain(guests).cloned().collect();
        let chat_id = site.create_chat(&senders[0], SENDER, &members).await?;
        let links = site.links(connections).await?;
        let feeds = site.streams(&links, &names, std::slice::from_ref(&chat_id)).await?;
        let (tally, mut tasks) = (Arc::new(Tally::new(readers)), JoinSet::new());
        for (feed, joined_at) in feeds {
            let tally = Arc::clone(&tally);
            tasks.spawn(async move {
                if let Err(error) = tally.read(feed, joined_at).await {
                    tally.delivered.fail(error);
                }
            });
        }
        let request = site.request("SendMessage", SENDER)?;
        server.quiet().await;
        let (next_id, sent) = (Arc::default(), Arc::default());
        Ok(Self { site, chat_id, tally, senders, request, next_id, sent, _readers: tasks })
    }

    /// Sends one message, and counts it; which of the senders' connections takes it is of no account.
    pub fn send(&self, text: String) -> impl Future<Output = Done<()>> + Send + use<> {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let link = self.senders[number as usize % self.senders.len()].clone();
        let (request, sent) = (self.request.clone(), Arc::clone(&self.sent));
        let send = send_message(&self.chat_id, message_id(0, number), text);
        async move {
            link.call(&request, &send).await?;
            sent.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until every reader has all that was sent; the messages that readers lack, of all deliveries. Fails where a server
    /// that promises them all loses one.
    pub async fn drain(&self, server: &Server) -> Done<u64> {
        let expected = self.sent() * self.tally.readers;
        let (mut before, mut since) = (self.tally.delivered.get(), Instant::now());
        while before < expected && since.elapsed() < LOST_AFTER {
            self.tally.delivered.check()?;
            tokio::time::sleep(POLL).await;
            let now = self.tally.delivered.get();
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        let lost = expected.saturating_sub(before) + self.tally.lost();
        if lost > 0 && server.kind != crate::process::Kind::Bare {
            return Err(format!("{lost} of {expected} deliveries were lost").into());
        }
        Ok(lost)
    }

    /// Deliveries in a second, at full rate, without a loss.
    pub async fn full_rate(self: &Arc<Self>, bench: &Bench, server: &Server) -> Done<Sample> {
        let (stop, mut senders) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for _ in 0..UNDER_WAY {
            let (room, stop) = (Arc::clone(self), Arc::clone(&stop));
            senders.spawn(async move {
                loop {
                    // Nobody closes it; given back when a message has reached all readers.
                    let Ok(permit) = room.tally.permits.acquire().await else { return };
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    permit.forget();
                    if let Err(error) = room.send(text()).await {
                        return room.tally.delivered.fail(error);
                    }
                }
            });
        }
        let window = window(bench, server, &self.tally.delivered, bench.options.time).await?;
        stop.store(true, Ordering::Relaxed);
        let ended = async { while senders.join_next().await.is_some() {} };
        if tokio::time::timeout(LOST_AFTER, ended).await.is_err() {
            return Err("deliveries stand still".into());
        }
        let lost = self.drain(server).await?;
        if lost > 0 {
            eprintln!("  {} lost {lost} deliveries", server.kind.name());
        }
        Ok(window.rate())
    }
}

/// Deliveries in a second, at full rate, without a loss.
pub async fn measure(bench: &Bench, server: &Server, readers: usize, connections: usize) -> Done<Sample> {
    let room = Arc::new(Room::open(bench, server, readers, connections, &[]).await?);
    room.full_rate(bench, server).await
}
