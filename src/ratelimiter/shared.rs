//! Counts that several nodes share.
//!
//! A node decides by its own buckets at once, and settles up beside: when it has let through a sixteenth of a bucket it charges that to the
//! shared ledger, which answers how empty the bucket is for all nodes together, and that counts here from then on. What one does at
//! several nodes is so bounded in any time t, for N nodes, by
//!
//! > rate × t + burst + N × burst / 16
//!
//! and by what a node lets through until the ledger has answered, which is no more than one burst. That is not given away but lent: it
//! is on the ledger, and keeps the bucket empty for longer. A node doesn't charge what comes so slowly that it isn't a sixteenth in
//! twice the time in which the bucket fills: less than 1/32 of the rate. Where the ledger is away each node goes on by its own buckets.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use governor::clock::{Clock, MonotonicClock, Reference};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::memory::{KEYS_MAX, MemoryLimiter, Rates};
use super::{Check, RateLimiter, RetryAfter};
use crate::model::{Rate, UserId};

/// Keys of which something isn't charged yet. What comes beyond is counted by this node only.
const OPEN_KEYS_MAX: usize = 100_000;
/// Part of a burst that is charged at once.
const BURST_PART: u32 = 16;
/// Charges that go to the ledger together.
const CHARGES_MAX: usize = 256;
/// How often is looked for what came too slowly to be charged.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// What is taken from a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    pub key: String,
    /// By how much longer the bucket takes to be full again.
    pub cost: Duration,
}

/// What all nodes took.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Takes from buckets, each at once or not at all. Answers in the order of the charges when each will be full again; `None`: it isn't
    /// known. Doesn't wait for long.
    async fn charge(&self, charges: &[Charge]) -> Vec<Option<Duration>>;
}

pub struct SharedLimiter<C: Clock = MonotonicClock> {
    local: MemoryLimiter<C>,
    rates: Rates,
    open: Mutex<Open<C::Instant>>,
    is_due: Notify,
}

struct Open<I> {
    counts: HashMap<Key, Count<I>>,
    /// What is to be charged, each key once.
    due: VecDeque<Key>,
}

struct Count<I> {
    taken: u32,
    since: I,
    is_due: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Send(UserId),
    Call(UserId),
    Address(IpAddr),
}

impl SharedLimiter {
    pub fn new(rates: Rates) -> Arc<Self> {
        Arc::new(Self::with_clock(rates, &MonotonicClock))
    }
}

impl<C: Clock + Clone> SharedLimiter<C> {
    fn with_clock(rates: Rates, clock: &C) -> Self {
        let open = Open { counts: HashMap::new(), due: VecDeque::new() };
        Self { local: MemoryLimiter::with_clock(rates, KEYS_MAX, clock), rates, open: Mutex::new(open), is_due: Notify::new() }
    }
}

impl<C: Clock> SharedLimiter<C> {
    /// Settles up with the ledger until `stop`.
    pub async fn run(self: Arc<Self>, ledger: Arc<dyn Ledger>, stop: CancellationToken)
    where
        C: Send + Sync,
    {
        let mut forgetting = interval(FORGET_INTERVAL);
        forgetting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match stop.run_until_cancelled(self.settle(ledger.as_ref())).await {
                None => return,
                // The next ones have gathered meanwhile.
                Some(true) => continue,
                Some(false) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.is_due.notified() => {}
                _ = forgetting.tick() => self.forget(),
            }
        }
    }

    /// Charges what is due, or the first part of it. Returns whether there was anything.
    async fn settle(&self, ledger: &dyn Ledger) -> bool {
        let due = self.take_due();
        if due.is_empty() {
            return false;
        }
        let (keys, charges): (Vec<Key>, Vec<Charge>) = due.into_iter().unzip();
        // The bucket has been filling since then, so the answer isn't taken for newer than this.
        let since = self.local.now();
        let answers = ledger.charge(&charges).await;
        for (key, full_in) in keys.iter().zip(answers) {
            if let Some(full_in) = full_in {
                self.local.raise(key.check(), since, full_in);
            }
        }
        true
    }

    fn take_due(&self) -> Vec<(Key, Charge)> {
        let open = &mut *self.open();
        let mut due = Vec::new();
        while due.len() < CHARGES_MAX
            && let Some(key) = open.due.pop_front()
        {
            let (Some(count), Some(rate)) = (open.counts.remove(&key), self.rates.of(key.check())) else { continue };
            let cost = time_for(rate, count.taken);
            due.push((key.clone(), Charge { key: key.name(), cost }));
        }
        due
    }

    fn note(&self, check: Check<'_>, rate: Rate) {
        let open = &mut *self.open();
        let has_room = open.counts.len() < OPEN_KEYS_MAX;
        let count = match open.counts.entry(Key::of(check)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if has_room => new.insert(Count { taken: 0, since: self.local.now(), is_due: false }),
            Entry::Vacant(_) => return,
        };
        count.taken = count.taken.saturating_add(1);
        if count.taken >= part_of(rate) && !count.is_due {
            count.is_due = true;
            open.due.push_back(Key::of(check));
            self.is_due.notify_one();
        }
    }

    /// What comes as slowly as this is no matter for other nodes.
    fn forget(&self) {
        let now = self.local.now();
        let open = &mut *self.open();
        open.counts.retain(|key, count| {
            let is_young = self
                .rates
                .of(key.check())
                .is_some_and(|rate| Duration::from(Reference::duration_since(&now, count.since)) < 2 * time_for(rate, rate.burst.get()));
            count.is_due || is_young
        });
    }

    fn open(&self) -> MutexGuard<'_, Open<C::Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Clock + Send + Sync> RateLimiter for SharedLimiter<C> {
    fn check(&self, check: Check<'_>) -> Result<(), RetryAfter> {
        self.local.check(check)?;
        if let Some(rate) = self.rates.of(check) {
            self.note(check, rate);
        }
        Ok(())
    }
}

impl Key {
    fn of(check: Check<'_>) -> Self {
        match check {
            Check::Send(user) => Self::Send(user.clone()),
            Check::Call(user) => Self::Call(user.clone()),
            Check::Address(address) => Self::Address(address),
        }
    }

    fn check(&self) -> Check<'_> {
        match self {
            Self::Send(user) => Check::Send(user),
            Self::Call(user) => Check::Call(user),
            Self::Address(address) => Check::Address(*address),
        }
    }

    /// On the ledger.
    fn name(&self) -> String {
        match self {
            Self::Send(user) => format!("send:{user}"),
            Self::Call(user) => format!("call:{user}"),
            Self::Address(address) => format!("address:{address}"),
        }
    }
}

/// How many are charged at once.
fn part_of(rate: Rate) -> u32 {
    (rate.burst.get() / BURST_PART).max(1)
}

/// The time in which so many come back.
fn time_for(rate: Rate, count: u32) -> Duration {
    Duration::from_secs(count.into()) / rate.per_second.get()
}

#[cfg(test)]
mod tests;
