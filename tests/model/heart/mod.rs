//! Service, append path, registry, sweep and sessions together: whatever store, broker and clients do, each reader ends with
//! 1, 2, 3, … each once and in order, equal to the store, and each acknowledged message is where its sender was told. One who
//! is removed loses the chat. Who reads a history gets all of it and then the end.

mod broker;
mod client;
mod guest;
mod historian;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chat_service::broker::{Broker, Interest, Registry};
use chat_service::converter::message;
use chat_service::interceptor::token::{Demands, Key, Verifier};
use chat_service::model::{ChatId, ChatRole, Identity, MemberChange, NewChat, SystemClock, SystemRole, Timestamp, UserId};
use chat_service::ratelimiter::memory::{MemoryLimiter, Rates};
use chat_service::service::append::Appender;
use chat_service::service::{ChatService, Parts, run_healer, run_sweep};
use chat_service::transport::session::SessionOptions;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::check::{self, Checked, Script, ensure, equal};
use crate::memory::{Faults, MemoryStore, chat_id};
use crate::reference::Model;
use broker::ChaosBroker;
use client::{Client, Kind};

const SWEEP_INTERVAL: Duration = Duration::from_millis(200);
/// A member of every chat, who is removed from the first.
const GUEST: &str = "guest";

/// What the clients of a run share.
pub struct World {
    options: Arc<SessionOptions>,
    store: Arc<MemoryStore>,
    chats: Vec<ChatId>,
    clients: usize,
    /// Clients that have done their steps, and clients whose sends are all settled.
    weary: AtomicUsize,
    settled: AtomicUsize,
}

impl World {
    fn last_sequence(&self, chat_id: ChatId) -> i64 {
        self.store.model().last_sequence(chat_id)
    }

    /// A client is done with its steps; behind the last one nothing goes wrong any more but with the broker.
    fn rest(&self) {
        if self.weary.fetch_add(1, Ordering::Relaxed) + 1 == self.clients {
            self.store.calm_down();
        }
    }

    /// Whether no client sends any more.
    fn is_silent(&self) -> bool {
        self.settled.load(Ordering::Relaxed) == self.clients
    }
}

fn identity(name: &str) -> Identity {
    // Far beyond any run.
    let expires_at = Timestamp::from_secs(i64::MAX / 4_000_000);
    Identity { user_id: UserId::new(name), role: SystemRole::User, expires_at }
}

/// What a reader has at the end.
pub struct Story {
    name: String,
    chats: BTreeMap<ChatId, client::Seen>,
    sent: Vec<client::Sent>,
}

fn chats(count: u64, names: &[String]) -> Model {
    let mut model = Model::default();
    for number in 0..count {
        let members: Vec<UserId> = names[1..].iter().map(String::as_str).chain([GUEST]).map(UserId::new).collect();
        let created_at = Timestamp::from_micros(1);
        let owner = UserId::new(names[0].as_str());
        model.create(&NewChat { id: chat_id(number), title: "Tea".into(), created_by: owner, members, created_at, request: None });
        // One who only reads chats: its sends would be refused, so it sends nothing.
        if let Some(last) = names.last() {
            let reader = MemberChange::Set(UserId::new(last.as_str()), ChatRole::Reader);
            model.change_members(chat_id(number), &[], created_at, &|_| Ok(vec![reader.clone()])).unwrap();
        }
    }
    model
}

async fn run(script: Script) -> Checked {
    let mut rng = StdRng::seed_from_u64(script.seed);
    let names: Vec<String> = (0..rng.random_range(2..6)).map(|number| format!("client {number}")).collect();
    let chat_count = rng.random_range(1..4);
    let faults = Faults {
        reads: rng.random_range(0.0..0.15),
        answers_lost: rng.random_range(0.0..0.15),
        never_arrived: rng.random_range(0.0..0.1),
        busy: rng.random_range(0.0..0.1),
        pause_millis: rng.random_range(0..20),
    };
    let store = MemoryStore::new(chats(chat_count, &names), rng.random(), faults);
    // Half of the runs as a node among several: what comes early is held, and holes are looked after.
    let (registry, holes) = if rng.random_bool(0.5) {
        let (registry, holes) = Registry::shared(Arc::new(Nobody));
        (registry, Some(holes))
    } else {
        (Registry::new(), None)
    };
    let drops = [0.0, 0.15, 0.5, 1.0][rng.random_range(0..4_usize)];
    let chaos = ChaosBroker::new(Arc::clone(&registry), rng.random(), drops, rng.random_range(0.0..0.3));
    let broker: Arc<dyn Broker> = Arc::new(chaos);
    let (appender, lanes) = Appender::start(store.lanes(rng.random_range(1..=3)), &broker);
    let parts = Parts {
        chats: store.clone(),
        messages: store.clone(),
        broker,
        registry: Arc::clone(&registry),
        appender,
        clock: Arc::new(SystemClock),
    };
    let verifier = Verifier::new(&Key::Secret(vec![7; 32]), &Demands::default()).ok_or("no verifier")?;
    let options = Arc::new(SessionOptions {
        service: Arc::new(ChatService::new(parts)),
        verifier: Arc::new(verifier),
        clock: Arc::new(SystemClock),
        limiter: Arc::new(MemoryLimiter::new(Rates::default())),
        send_due: None,
        draining: CancellationToken::new(),
    });
    let stop = CancellationToken::new();
    let sweep = tokio::spawn(run_sweep(store.clone(), store.clone(), Arc::clone(&registry), SWEEP_INTERVAL, stop.clone()));
    let healer = holes.map(|holes| tokio::spawn(run_healer(store.clone(), Arc::clone(&registry), holes, stop.clone())));

    let world = Arc::new(World {
        options,
        store: Arc::clone(&store),
        chats: (0..chat_count).map(chat_id).collect(),
        clients: names.len(),
        weary: AtomicUsize::new(0),
        settled: AtomicUsize::new(0),
    });
    let mut clients = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let kind = if at + 1 == names.len() { Kind::Reader } else { Kind::Sender };
        let client = Client::new(name.clone(), kind, rng.random(), Arc::clone(&world));
        clients.push(tokio::spawn(client.live(script.steps)));
    }
    let visit = tokio::spawn(guest::visit(Arc::clone(&world), GUEST, chat_id(0)));
    let (service, wait) = (Arc::clone(&world.options.service), Duration::from_millis(rng.random_range(0..5_000)));
    let owner = identity(&names[0]);
    let removal = tokio::spawn(async move {
        sleep(wait).await;
        service.remove_member(&owner, chat_id(0), UserId::new(GUEST)).await
    });
    let mut stories = Vec::new();
    for client in clients {
        stories.push(client.await.map_err(|error| format!("a client failed: {error}"))??);
    }
    removal.await.map_err(|error| format!("the removal failed: {error}"))?.map_err(|error| format!("the removal failed: {error}"))?;
    visit.await.map_err(|error| format!("the guest failed: {error}"))?.map_err(|why| format!("the guest: {why}"))?;
    let historians: Vec<_> = names.iter().map(|name| tokio::spawn(historian::read(Arc::clone(&world), name.clone(), chat_id(0)))).collect();
    for historian in historians {
        historian.await.map_err(|error| format!("a historian failed: {error}"))?.map_err(|why| format!("a historian: {why}"))?;
    }
    stop.cancel();
    sweep.await.map_err(|error| format!("the sweep failed: {error}"))?;
    if let Some(healer) = healer {
        healer.await.map_err(|error| format!("the healer failed: {error}"))?;
    }
    drop(world);
    for lane in lanes {
        lane.await.map_err(|error| format!("a lane failed: {error}"))?;
    }
    equal(&registry.subscription_count(), &0, "subscriptions that are left")?;
    equal(&store.take_wrong(), &Vec::new(), "what the lanes saw")?;
    let model = store.model();
    for story in &stories {
        told_true(story, &model).map_err(|why| format!("{}: {why}", story.name))?;
    }
    everything_was_sent(&stories, &model)
}

/// The chaos sends everything to everybody.
struct Nobody;

impl Interest for Nobody {
    fn begins(&self, _: ChatId) {}
    fn ends(&self, _: ChatId) {}
}

fn told_true(story: &Story, model: &Model) -> Checked {
    for (chat_id, seen) in &story.chats {
        let from = seen.base.ok_or("a chat was never joined")?;
        let expected: Vec<_> = model.messages(*chat_id).iter().filter(|stored| stored.sequence > from).cloned().map(message).collect();
        equal(&seen.messages, &expected, "what was delivered")?;
    }
    let mut last: BTreeMap<ChatId, i64> = BTreeMap::new();
    for sent in &story.sent {
        let (sequence, created_at) = sent.acknowledged.ok_or_else(|| format!("{} was never settled", sent.id))?;
        let stored = model.at(sent.chat_id, sequence).cloned().map(message).ok_or_else(|| format!("{} isn't at {sequence}", sent.id))?;
        let there = stored.client_message_id == sent.id && stored.sender_id == story.name && stored.created_at == created_at;
        ensure(there, || format!("{} was acknowledged at {sequence}, {created_at:?}; there is {stored:?}", sent.id))?;
        if sent.attempts == 1 {
            let before = last.insert(sent.chat_id, sequence).unwrap_or(0);
            ensure(before < sequence, || format!("{} is at {sequence}, one sent before is at {before}", sent.id))?;
        }
    }
    Ok(())
}

/// Nothing is stored that nobody sent, and nothing twice.
fn everything_was_sent(stories: &[Story], model: &Model) -> Checked {
    let sent: usize = stories.iter().map(|story| story.sent.len()).sum();
    let chats = stories.first().map(|story| story.chats.keys()).into_iter().flatten();
    let stored: usize = chats.map(|chat_id| model.messages(*chat_id).len()).sum();
    equal(&stored, &sent, "messages that are stored, of those that were sent")
}

#[test]
fn every_reader_ends_with_every_message_once_and_in_order_whatever_goes_wrong() {
    check::scripts(48, 4..60, |script| check::paused_runtime().block_on(run(script)));
}
