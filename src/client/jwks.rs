//! The keys of an identity provider, kept up to date.
//!
//! One task fetches, so that however many wait, one fetch runs. It fetches ahead of the set's expiry, and when somebody meets a
//! `kid` that isn't in the set. When the provider is away the last good set stays in use, for a day at most.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use rand::Rng;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fetch::FetchError;
use super::keys::KeySet;

/// How long a set is good whose answer doesn't say, and the bounds of what an answer may say: a key that its provider has taken
/// away is gone here within the longest.
const AGE_DEFAULT: Duration = Duration::from_secs(5 * 60);
const AGE_MIN: Duration = Duration::from_secs(60);
const AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// How long the last good set is used while the provider is away.
const KEPT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Between the beginnings of two fetches, whoever asks.
const FETCH_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause between fetches that fail.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Tries at the start, with growing pauses between them: about 2 s beside the fetches themselves.
const START_TRIES: u32 = 4;
const START_PAUSE: Duration = Duration::from_millis(250);
/// How long a call waits for a key that isn't known yet.
const WAIT_DUE: Duration = Duration::from_secs(5);
/// Calls that may wait at once. Beyond: told to come back.
const WAITING_MAX: usize = 1024;

/// A key set's document.
#[derive(Clone)]
pub struct Fetched {
    pub body: Bytes,
    /// How long the provider says that it is good.
    pub max_age: Option<Duration>,
}

/// Where key sets come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// Bounded in time and size.
    async fn fetch(&self) -> Result<Fetched, FetchError>;
}

/// What came of waiting for a key.
pub enum Awaited {
    /// A set that has it.
    Known(Arc<KeySet>),
    /// A set fetched since doesn't have it.
    Unknown,
    /// The provider can't be asked now.
    Unavailable,
}

/// A key set and its refreshing, which ends when this is dropped.
pub struct Jwks {
    shared: Arc<Shared>,
    waiting: Semaphore,
    _refreshing: DropGuard,
}

struct Shared {
    source: Arc<dyn Source>,
    held: ArcSwap<Held>,
    /// Somebody has met a key that isn't in the set.
    asked: Notify,
    fetches: watch::Sender<Fetches>,
}

/// The last good set.
struct Held {
    set: Arc<KeySet>,
    digest: [u8; 32],
    /// Not used from then on.
    until: Instant,
}

/// Fetches so far; one is under way where fewer have ended than begun.
#[derive(Clone, Copy, Default)]
struct Fetches {
    begun: u64,
    ended: u64,
    /// Of the last one that ended.
    failed: bool,
}

impl Jwks {
    /// Fetches the set, trying a few times, and keeps it up to date from then on.
    pub async fn start(source: Arc<dyn Source>) -> Result<Self, FetchError> {
        let mut pause = START_PAUSE;
        let mut tries = 1;
        let (held, age) = loop {
            match load(source.as_ref(), None).await {
                Ok(loaded) => break loaded,
                Err(error) if tries == START_TRIES => return Err(error),
                Err(error) => tracing::warn!(error = %error, "no key set yet; trying again"),
            }
            sleep(pause).await;
            tries += 1;
            pause *= 2;
        };
        let (fetches, _) = watch::channel(Fetches::default());
        let shared = Arc::new(Shared { source, held: ArcSwap::from_pointee(held), asked: Notify::new(), fetches });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(refresh(Arc::clone(&shared), ahead_of(age))));
        Ok(Self { shared, waiting: Semaphore::new(WAITING_MAX), _refreshing: stop.drop_guard() })
    }

    /// The set in use. `None`: the provider has been away for so long that it isn't believed any more.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        let held = self.shared.held.load();
        (Instant::now() < held.until).then(|| Arc::clone(&held.set))
    }

    /// Waits, for a bounded time, until a set has this key, or a fetch that began after the call shows that none does.
    pub async fn await_key(&self, kid: &str) -> Awaited {
        let Ok(_waiting) = self.waiting.try_acquire() else { return Awaited::Unavailable };
        let mut fetches = self.shared.fetches.subscribe();
        let enough = fetches.borrow_and_update().begun + 1;
        self.shared.asked.notify_one();
        let wait = async {
            loop {
                // In this order: a fetch has put its set in place before it is counted as ended.
                let seen = *fetches.borrow_and_update();
                match self.current() {
                    Some(set) if set.knows(kid) => return Awaited::Known(set),
                    _ if seen.ended < enough => {}
                    _ if seen.failed => return Awaited::Unavailable,
                    _ => return Awaited::Unknown,
                }
                if fetches.changed().await.is_err() {
                    return Awaited::Unavailable;
                }
            }
        };
        timeout(WAIT_DUE, wait).await.unwrap_or(Awaited::Unavailable)
    }
}

/// Fetches a set; `before` is kept where nothing has changed.
async fn load(source: &dyn Source, before: Option<&Held>) -> Result<(Held, Duration), FetchError> {
    let Fetched { body, max_age } = source.fetch().await?;
    let digest: [u8; 32] = Sha256::digest(&body).into();
    let set = match before {
        Some(before) if before.digest == digest => Arc::clone(&before.set),
        _ => Arc::new(KeySet::parse(&body, before.map_or(0, |before| before.set.generation() + 1))?),
    };
    Ok((Held { set, digest, until: Instant::now() + KEPT_MAX }, max_age.unwrap_or(AGE_DEFAULT).clamp(AGE_MIN, AGE_MAX)))
}

async fn refresh(shared: Arc<Shared>, first: Duration) {
    let mut begun = Instant::now();
    let mut due = begun + first;
    let mut failure_pause = FETCH_PAUSE;
    loop {
        tokio::select! {
            () = shared.asked.notified() => sleep_until(begun + FETCH_PAUSE).await,
            () = sleep_until(due) => {}
        }
        begun = Instant::now();
        shared.fetches.send_modify(|fetches| fetches.begun += 1);
        let before = shared.held.load_full();
        let loaded = load(shared.source.as_ref(), Some(before.as_ref())).await;
        let failed = loaded.is_err();
        match loaded {
            Ok((held, age)) => {
                if held.digest != before.digest {
                    tracing::info!("the key set has changed");
                }
                shared.held.store(Arc::new(held));
                due = Instant::now() + ahead_of(age);
                failure_pause = FETCH_PAUSE;
            }
            Err(error) => {
                let kept = before.until.saturating_duration_since(Instant::now());
                tracing::warn!(error = %error, kept_s = kept.as_secs(), "can't fetch the key set (CHAT_AUTH_JWKS_URL); the last one stays");
                due = Instant::now() + failure_pause;
                failure_pause = (failure_pause * 2).min(FAILURE_PAUSE_MAX);
            }
        }
        shared.fetches.send_modify(|fetches| {
            fetches.ended += 1;
            fetches.failed = failed;
        });
    }
}

/// When to fetch a set that is good for this long: ahead of its end, and not all servers at once.
fn ahead_of(age: Duration) -> Duration {
    age.mul_f64(rand::rng().random_range(0.7..0.8))
}

#[cfg(test)]
mod tests;
