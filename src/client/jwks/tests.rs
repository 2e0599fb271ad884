use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;

/// A provider without a network.
struct Provider {
    /// The kids that it publishes; `None`: it is away.
    kids: Mutex<Option<Vec<&'static str>>>,
    max_age: Option<Duration>,
    fetches: AtomicUsize,
}

impl Provider {
    fn with(kids: &[&'static str], max_age_secs: u64) -> Arc<Self> {
        let max_age = Some(Duration::from_secs(max_age_secs));
        Arc::new(Self { kids: Mutex::new(Some(kids.to_vec())), max_age, fetches: AtomicUsize::new(0) })
    }

    fn publish(&self, kids: &[&'static str]) {
        *self.kids.lock().unwrap() = Some(kids.to_vec());
    }

    fn go_away(&self) {
        *self.kids.lock().unwrap() = None;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Source for Provider {
    async fn fetch(&self) -> Result<Fetched, FetchError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(50)).await;
        let kids = self.kids.lock().unwrap().clone().ok_or(FetchError::Late)?;
        let key = |kid| {
            json!({
                "kty": "EC", "crv": "P-256", "kid": kid,
                "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
            })
        };
        let body = json!({ "keys": kids.into_iter().map(key).collect::<Vec<_>>() }).to_string();
        Ok(Fetched { body: body.into(), max_age: self.max_age })
    }
}

fn knows(jwks: &Jwks, kid: &str) -> bool {
    jwks.current().is_some_and(|set| set.knows(kid))
}

#[tokio::test(start_paused = true)]
async fn a_set_is_fetched_again_ahead_of_its_end() {
    let provider = Provider::with(&["a"], 600);
    let jwks = Jwks::start(provider.clone()).await.unwrap();
    provider.publish(&["a", "b"]);
    sleep(Duration::from_secs(400)).await;
    assert!(!knows(&jwks, "b"));
    sleep(Duration::from_secs(100)).await;
    assert!(knows(&jwks, "a") && knows(&jwks, "b"), "600 s had not passed");
    provider.publish(&["b"]);
    sleep(Duration::from_secs(500)).await;
    assert!(!knows(&jwks, "a"), "what its provider has taken away is gone");
}

#[tokio::test(start_paused = true)]
async fn what_the_provider_says_of_its_age_is_bounded() {
    for (max_age_secs, least, most) in [(0, 5, 90), (7 * 86_400, 5, 9)] {
        let provider = Provider::with(&["a"], max_age_secs);
        let _jwks = Jwks::start(provider.clone()).await.unwrap();
        let hours = if max_age_secs == 0 { 1 } else { 6 };
        sleep(Duration::from_secs(hours * 3600)).await;
        assert!((least..=most).contains(&provider.fetches()), "{} fetches", provider.fetches());
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_when_it_is_met_and_all_who_wait_share_the_fetch() {
    let provider = Provider::with(&["a"], 600);
    let jwks = Arc::new(Jwks::start(provider.clone()).await.unwrap());
    provider.publish(&["a", "b"]);
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let jwks = Arc::clone(&jwks);
            tokio::spawn(async move { matches!(jwks.await_key("b").await, Awaited::Known(set) if set.knows("a")) })
        })
        .collect();
    for waiting in waiting {
        assert!(waiting.await.unwrap());
    }
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_costs_one_fetch_in_two_seconds() {
    let provider = Provider::with(&["a"], 3600);
    let jwks = Arc::new(Jwks::start(provider.clone()).await.unwrap());
    let flood: Vec<_> = (0..50)
        .map(|number| {
            let jwks = Arc::clone(&jwks);
            tokio::spawn(async move {
                for again in 0..5 {
                    assert!(matches!(jwks.await_key(&format!("{number} {again}")).await, Awaited::Unknown));
                }
            })
        })
        .collect();
    let began = Instant::now();
    for one in flood {
        one.await.unwrap();
    }
    let pauses = began.elapsed().as_secs() / FETCH_PAUSE.as_secs();
    assert!(provider.fetches() as u64 <= pauses + 2, "{} fetches in {:?}", provider.fetches(), began.elapsed());
    assert!(knows(&jwks, "a"), "and harms nobody");
}

#[tokio::test(start_paused = true)]
async fn beyond_a_bound_nobody_waits() {
    let provider = Provider::with(&["a"], 3600);
    let jwks = Arc::new(Jwks::start(provider.clone()).await.unwrap());
    let _taken = jwks.waiting.acquire_many(WAITING_MAX as u32).await.unwrap();
    assert!(matches!(jwks.await_key("b").await, Awaited::Unavailable));
    assert_eq!(provider.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_set_survives_an_outage_for_a_day_and_no_longer() {
    let provider = Provider::with(&["a"], 600);
    let jwks = Jwks::start(provider.clone()).await.unwrap();
    provider.go_away();
    sleep(Duration::from_secs(23 * 3600)).await;
    assert!(knows(&jwks, "a"));
    assert!(matches!(jwks.await_key("b").await, Awaited::Unavailable), "whether there is such a key can't be known");
    // The last fetch that went well was the first one.
    sleep(Duration::from_secs(3600)).await;
    assert!(jwks.current().is_none());
    provider.publish(&["b"]);
    sleep(FAILURE_PAUSE_MAX + Duration::from_secs(1)).await;
    assert!(knows(&jwks, "b") && !knows(&jwks, "a"));
}

#[tokio::test(start_paused = true)]
async fn a_set_without_keys_does_not_replace_a_good_one() {
    let provider = Provider::with(&["a"], 60);
    let jwks = Jwks::start(provider.clone()).await.unwrap();
    provider.publish(&[]);
    sleep(Duration::from_secs(600)).await;
    assert!(knows(&jwks, "a"));
}

#[tokio::test(start_paused = true)]
async fn a_start_without_keys_fails_after_a_few_tries() {
    let provider = Provider::with(&["a"], 600);
    provider.go_away();
    assert!(Jwks::start(provider.clone()).await.is_err());
    assert_eq!(provider.fetches(), START_TRIES as usize);
}

#[tokio::test(start_paused = true)]
async fn the_same_document_is_the_same_generation() {
    let provider = Provider::with(&["a"], 60);
    let jwks = Jwks::start(provider.clone()).await.unwrap();
    let before = jwks.current().unwrap().generation();
    sleep(Duration::from_secs(120)).await;
    assert!(provider.fetches() > 1);
    assert_eq!(jwks.current().unwrap().generation(), before);
    provider.publish(&["b"]);
    sleep(Duration::from_secs(120)).await;
    assert_ne!(jwks.current().unwrap().generation(), before);
}
