//! Counts in this process, by GCRA: a bucket's whole state is the time at which it will be full again.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter as Governor};

use super::{Check, RateLimiter, RetryAfter};
use crate::model::{Rate, UserId};
use crate::observe::metrics;

/// Keys of one kind that have a bucket of their own. Beyond it, buckets that are full again are dropped, as they are like new ones, and while
/// that gives no room all newcomers share one bucket: a flood of keys costs no more than this much memory, and those who were there
/// before keep their own.
pub(super) const KEYS_MAX: usize = 100_000;
/// How often a full store is looked through for buckets to drop.
const DROP_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time that a bucket may be said to take until it is full again: whoever says more doesn't count right.
const FULL_IN_MAX: Duration = Duration::from_secs(3600);

/// The rate of each kind; `None`: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub user_sends: Option<Rate>,
    pub user_calls: Option<Rate>,
    pub address: Option<Rate>,
}

impl Rates {
    /// The rate that counts for a check.
    pub(super) fn of(&self, check: Check<'_>) -> Option<Rate> {
        match check {
            Check::Send(_) => self.user_sends,
            Check::Call(_) => self.user_calls,
            Check::Address(_) => self.address,
        }
    }
}

pub struct MemoryLimiter<C: Clock = MonotonicClock> {
    clock: C,
    sends: Option<Limit<UserId, C>>,
    calls: Option<Limit<UserId, C>>,
    addresses: Option<Limit<IpAddr, C>>,
}

impl MemoryLimiter {
    pub fn new(rates: Rates) -> Self {
        Self::with_clock(rates, KEYS_MAX, &MonotonicClock)
    }
}

impl<C: Clock + Clone> MemoryLimiter<C> {
    pub(super) fn with_clock(rates: Rates, keys_max: usize, clock: &C) -> Self {
        Self {
            clock: clock.clone(),
            sends: rates.user_sends.map(|rate| Limit::new(rate, keys_max, clock)),
            calls: rates.user_calls.map(|rate| Limit::new(rate, keys_max, clock)),
            addresses: rates.address.map(|rate| Limit::new(rate, keys_max, clock)),
        }
    }
}

impl<C: Clock> MemoryLimiter<C> {
    pub(super) fn now(&self) -> C::Instant {
        self.clock.now()
    }

    /// Notes that a bucket is emptier than is known here: full again only `full_in` after `since`.
    pub(super) fn raise(&self, check: Check<'_>, since: C::Instant, full_in: Duration) {
        match check {
            Check::Send(user) => self.sends.iter().for_each(|limit| limit.raise(user, since, full_in)),
            Check::Call(user) => self.calls.iter().for_each(|limit| limit.raise(user, since, full_in)),
            Check::Address(address) => self.addresses.iter().for_each(|limit| limit.raise(&address, since, full_in)),
        }
    }
}

impl<C> RateLimiter for MemoryLimiter<C>
where
    C: Clock + Send + Sync,
{
    fn check(&self, check: Check<'_>) -> Result<(), RetryAfter> {
        let (checked, limit) = match check {
            Check::Send(user) => (self.sends.as_ref().map_or(Ok(()), |limit| limit.check(user)), metrics::Limit::UserSends),
            Check::Call(user) => (self.calls.as_ref().map_or(Ok(()), |limit| limit.check(user)), metrics::Limit::UserCalls),
            Check::Address(address) => (self.addresses.as_ref().map_or(Ok(()), |limit| limit.check(&address)), metrics::Limit::Address),
        };
        if checked.is_err() {
            metrics::limit_hit(limit);
        }
        checked
    }
}

/// One kind's buckets.
struct Limit<K, C>
where
    K: Hash + Eq + Clone,
    C: Clock,
{
    governor: Governor<K, SharedBuckets<K>, C, NoOpMiddleware<C::Instant>>,
    /// The governor's own.
    buckets: Arc<Buckets<K>>,
    /// When the governor's time began.
    began: C::Instant,
    clock: C,
}

impl<K, C> Limit<K, C>
where
    K: Hash + Eq + Clone,
    C: Clock + Clone,
{
    fn new(rate: Rate, keys_max: usize, clock: &C) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let buckets = Arc::new(Buckets::new(quota, keys_max));
        let governor = Governor::new(quota, SharedBuckets(Arc::clone(&buckets)), clock.clone());
        Self { governor, buckets, began: clock.now(), clock: clock.clone() }
    }
}

impl<K, C> Limit<K, C>
where
    K: Hash + Eq + Clone,
    C: Clock,
{
    fn check(&self, key: &K) -> Result<(), RetryAfter> {
        self.governor.check_key(key).map_err(|not_until| RetryAfter(not_until.wait_time_from(self.clock.now())))
    }

    fn raise(&self, key: &K, since: C::Instant, full_in: Duration) {
        let since = Reference::duration_since(&since, self.began).as_u64();
        let full_in = u64::try_from(full_in.min(FULL_IN_MAX).as_nanos()).unwrap_or(u64::MAX);
        self.buckets.raise(key, since, since.saturating_add(full_in));
    }
}

/// For the governor, which wants its store for itself.
struct SharedBuckets<K>(Arc<Buckets<K>>);

impl<K: Hash + Eq + Clone> StateStore for SharedBuckets<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, measure)
    }
}

/// When each bucket will be full again, in nanoseconds since the start. Bounded.
struct Buckets<K> {
    state: Mutex<State<K>>,
    keys_max: usize,
    /// What one costs, in nanoseconds.
    cost: u64,
}

struct State<K> {
    full_at: HashMap<K, u64>,
    /// Of the newcomers' shared bucket.
    shared_full_at: Option<u64>,
    /// When the store was looked through for the last time.
    dropped_at: Option<u64>,
}

impl<K> Buckets<K> {
    fn new(quota: Quota, keys_max: usize) -> Self {
        let state = State { full_at: HashMap::new(), shared_full_at: None, dropped_at: None };
        let cost = u64::try_from(quota.replenish_interval().as_nanos()).unwrap_or(u64::MAX).max(1);
        Self { state: Mutex::new(state), keys_max, cost }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut state = self.state();
        if let Some(full_at) = state.full_at.get_mut(key) {
            let (outcome, next) = measure(Some(Nanos::from(*full_at)))?;
            *full_at = next.as_u64();
            return Ok(outcome);
        }
        // A new bucket is full, and so tells the time: it will be full again one cost from now.
        let (outcome, next) = measure(None)?;
        let now = next.as_u64().saturating_sub(self.cost);
        if state.has_room(self.keys_max, now) {
            state.full_at.insert(key.clone(), next.as_u64());
            return Ok(outcome);
        }
        let (outcome, next) = measure(state.shared_full_at.map(Nanos::from))?;
        state.shared_full_at = Some(next.as_u64());
        Ok(outcome)
    }

    fn raise(&self, key: &K, now: u64, full_at: u64) {
        let mut state = self.state();
        if let Some(known) = state.full_at.get_mut(key) {
            *known = full_at.max(*known);
        } else if state.has_room(self.keys_max, now) {
            state.full_at.insert(key.clone(), full_at);
        }
    }
}

impl<K: Hash + Eq> State<K> {
    /// Whether one more key fits, after buckets that are full again were dropped where that may help.
    fn has_room(&mut self, keys_max: usize, now: u64) -> bool {
        let interval = u64::try_from(DROP_INTERVAL.as_nanos()).unwrap_or(u64::MAX);
        if self.full_at.len() >= keys_max && self.dropped_at.is_none_or(|at| now.saturating_sub(at) >= interval) {
            self.dropped_at = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < keys_max
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> Option<Rate> {
        Some(Rate { per_second: NonZeroU32::new(per_second).unwrap(), burst: NonZeroU32::new(burst).unwrap() })
    }

    fn limiter(rates: Rates, keys_max: usize) -> (MemoryLimiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (MemoryLimiter::with_clock(rates, keys_max, &clock), clock)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_and_the_stated_wait_is_true() {
        let (limiter, clock) = limiter(Rates { user_sends: rate(10, 3), ..Rates::default() }, 10);
        let alice = UserId::new("alice");
        for _ in 0..3 {
            assert_eq!(limiter.check(Check::Send(&alice)), Ok(()));
        }
        let RetryAfter(wait) = limiter.check(Check::Send(&alice)).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        clock.advance(wait - Duration::from_nanos(1));
        assert!(limiter.check(Check::Send(&alice)).is_err(), "before the stated time");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(limiter.check(Check::Send(&alice)), Ok(()), "after it");
    }

    #[test]
    fn users_kinds_and_addresses_have_buckets_of_their_own() {
        let (limiter, _clock) = limiter(Rates { user_sends: rate(1, 1), user_calls: rate(1, 1), address: rate(1, 1) }, 10);
        let (alice, bob) = (UserId::new("alice"), UserId::new("bob"));
        for check in [Check::Send(&alice), Check::Send(&bob), Check::Call(&alice), Check::Address(address(1)), Check::Address(address(2))] {
            assert_eq!(limiter.check(check), Ok(()));
            assert!(limiter.check(check).is_err(), "{check:?}");
        }
    }

    #[test]
    fn what_others_took_counts_and_never_less_than_what_was_known() {
        let (limiter, clock) = limiter(Rates { user_sends: rate(10, 3), ..Rates::default() }, 10);
        let alice = UserId::new("alice");
        clock.advance(Duration::from_secs(1));
        limiter.raise(Check::Send(&alice), limiter.now(), Duration::from_millis(200));
        assert_eq!(limiter.check(Check::Send(&alice)), Ok(()), "two of three are taken");
        assert_eq!(limiter.check(Check::Send(&alice)), Err(RetryAfter(Duration::from_millis(100))));
        limiter.raise(Check::Send(&alice), limiter.now(), Duration::ZERO);
        assert!(limiter.check(Check::Send(&alice)).is_err());
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let (limiter, _clock) = limiter(Rates::default(), 10);
        let alice = UserId::new("alice");
        assert!((0..10_000).all(|_| limiter.check(Check::Send(&alice)).is_ok() && limiter.check(Check::Address(address(1))).is_ok()));
    }

    #[test]
    fn a_flood_of_keys_is_held_in_bounded_memory_and_shares_one_bucket() {
        const KEYS: usize = 100;
        let (limiter, clock) = limiter(Rates { address: rate(1, 2), ..Rates::default() }, KEYS);
        let passed = (0..10_000).filter(|number| limiter.check(Check::Address(address(*number))).is_ok()).count();
        assert_eq!(passed, KEYS + 2, "each of the first, and a burst of all others together");
        assert_eq!(limiter.check(Check::Address(address(0))), Ok(()), "who was there before has its own bucket");
        assert!(limiter.check(Check::Address(address(0))).is_err());
        // Full again, so as good as new: their places are free.
        clock.advance(Duration::from_secs(2));
        assert!((10_000..10_050).all(|number| limiter.check(Check::Address(address(number))).is_ok()));
        assert!(limiter.addresses.unwrap().buckets.state().full_at.len() <= KEYS);
    }
}
