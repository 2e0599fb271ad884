//! The append path over a store that loses answers, loses batches, refuses some and finds chats locked, with many callers
//! that send again what wasn't settled: every answer is true, and the broker gets what was stored.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chat_service::broker::{AccessEnd, Broker, Delivery};
use chat_service::model::{ChatId, ChatRole, MemberChange, Message, NewChat, NewMessage, Sender, SystemRole, Timestamp, UserId};
use chat_service::service::Error;
use chat_service::service::append::{Appender, Reply, SendResult, Settled};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::check::{self, Checked, Script, ensure, equal};
use crate::memory::{Faults, MemoryStore, POISON, chat_id};
use crate::reference::Model;

const CHATS: u64 = 4;
/// An owner, a member, one who only reads, a member whose token only reads, a backend, and one who isn't there.
const SENDERS: [(&str, SystemRole); 6] = [
    ("ann", SystemRole::User),
    ("ben", SystemRole::User),
    ("cat", SystemRole::User),
    ("eli", SystemRole::Reader),
    ("svc", SystemRole::Service),
    ("dan", SystemRole::User),
];

/// One submit and what came of it.
struct Record {
    message: NewMessage,
    /// The first submit of this chat, sender and id.
    is_first: bool,
    result: Option<SendResult>,
}

/// Whether two sends are one to the store: chat, sender and id.
fn is_retry(one: &NewMessage, other: &NewMessage) -> bool {
    one.chat_id == other.chat_id && one.sender.user_id == other.sender.user_id && one.client_message_id == other.client_message_id
}

/// What the broker was given in one call.
struct Publish {
    /// The lane had lost an answer just before.
    after_loss: bool,
    messages: Vec<Message>,
}

struct RecordingBroker {
    store: Arc<MemoryStore>,
    log: Mutex<Vec<Publish>>,
}

#[async_trait]
impl Broker for RecordingBroker {
    async fn publish(&self, messages: Vec<Arc<Delivery>>) {
        let lost = messages.iter().filter(|delivery| self.store.take_lost(delivery.message.chat_id));
        let after_loss = lost.count() > 0;
        let messages = messages.iter().map(|delivery| delivery.message.clone()).collect();
        self.log.lock().unwrap().push(Publish { after_loss, messages });
    }

    async fn announce(&self, _: AccessEnd) {}
}

struct World {
    appender: Appender,
    /// How many ids a sender uses: few, so that callers meet.
    ids: usize,
    /// In the order of submits.
    history: Mutex<Vec<Record>>,
}

impl World {
    fn record(&self, message: &NewMessage) -> usize {
        let mut history = self.history.lock().unwrap();
        let is_first = !history.iter().any(|record| is_retry(&record.message, message));
        history.push(Record { message: message.clone(), is_first, result: None });
        history.len() - 1
    }

    /// Notes an answer; one of a store that is away gives the message back, to be sent again.
    fn settle(&self, at: usize, result: SendResult) -> Checked<Option<NewMessage>> {
        let mut history = self.history.lock().unwrap();
        let record = &mut history[at];
        ensure(record.result.is_none(), || format!("{:?} was answered twice", record.message))?;
        let again = matches!(result, Err(Error::Unavailable | Error::NotStored));
        record.result = Some(result);
        Ok(again.then(|| record.message.clone()))
    }

    fn draw(&self, rng: &mut StdRng) -> NewMessage {
        // The strange senders are rare.
        let at = if rng.random_bool(0.8) { rng.random_range(0..2) } else { rng.random_range(2..SENDERS.len()) };
        let (name, role) = SENDERS[at];
        let number = rng.random_range(0..self.ids);
        let (id, text) = if rng.random_bool(0.05) {
            (format!("bad {number}"), POISON.to_owned())
        } else if rng.random_bool(0.05) {
            (format!("{number}"), "another text".to_owned())
        } else {
            (format!("{number}"), format!("text {number}"))
        };
        let sender = Sender { user_id: UserId::new(name), role };
        NewMessage { chat_id: chat_id(rng.random_range(0..CHATS)), sender, client_message_id: id, text }
    }
}

/// What to send next: now and then one that has to be sent again, else a new one.
fn next(again: &mut VecDeque<NewMessage>, world: &World, rng: &mut StdRng) -> NewMessage {
    let repeated = if rng.random_bool(0.5) { again.pop_front() } else { None };
    repeated.unwrap_or_else(|| world.draw(rng))
}

async fn breathe(rng: &mut StdRng) {
    if rng.random_bool(0.4) {
        sleep(Duration::from_millis(rng.random_range(0..4))).await;
    }
}

/// Sends as unary calls do, some at once.
async fn call(world: Arc<World>, mut rng: StdRng, steps: usize) -> Checked {
    let mut waiting: Vec<(usize, oneshot::Receiver<SendResult>)> = Vec::new();
    let mut again = VecDeque::new();
    for step in 1..=steps {
        let message = next(&mut again, &world, &mut rng);
        let at = world.record(&message);
        let (reply, outcome) = Reply::call();
        world.appender.submit(message, reply);
        waiting.push((at, outcome));
        breathe(&mut rng).await;
        if step == steps || rng.random_bool(0.3) {
            for (at, outcome) in waiting.drain(..) {
                let result = outcome.await.map_err(|_| "a reply was dropped without an answer")?;
                again.extend(world.settle(at, result)?);
            }
        }
    }
    Ok(())
}

/// Sends as a stream does: without waiting, and settled in order.
async fn stream(world: Arc<World>, mut rng: StdRng, steps: usize) -> Checked {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let (mut in_flight, mut again) = (VecDeque::new(), VecDeque::new());
    for step in 1..=steps {
        let message = next(&mut again, &world, &mut rng);
        let at = world.record(&message);
        in_flight.push_back((at, message.chat_id, message.client_message_id.clone()));
        let reply = Reply::stream(sender.clone(), message.chat_id, message.client_message_id.clone());
        world.appender.submit(message, reply);
        breathe(&mut rng).await;
        while let Some(settled) = settlement(&mut receiver, step == steps && !in_flight.is_empty()).await {
            again.extend(settle_in_order(&world, &mut in_flight, settled)?);
        }
    }
    Ok(())
}

/// The next one: what is there, or what comes.
async fn settlement(receiver: &mut mpsc::UnboundedReceiver<Settled>, is_waited_for: bool) -> Option<Settled> {
    if is_waited_for { receiver.recv().await } else { receiver.try_recv().ok() }
}

/// A chat's sends are settled in their order.
fn settle_in_order(world: &World, in_flight: &mut VecDeque<(usize, ChatId, String)>, settled: Settled) -> Checked<Option<NewMessage>> {
    let Settled { chat_id, client_message_id, result } = settled;
    let oldest = in_flight.iter().position(|(_, chat, _)| *chat == chat_id).ok_or("a settlement of nothing")?;
    let (at, chat, id) = in_flight.remove(oldest).ok_or("a settlement of nothing")?;
    equal(&(chat_id, client_message_id), &(chat, id), "what of a chat was settled next")?;
    world.settle(at, result)
}

fn chats() -> Model {
    let mut model = Model::default();
    for number in 0..CHATS {
        let new = NewChat {
            id: chat_id(number),
            title: "Tea".into(),
            created_by: UserId::new("ann"),
            members: ["ben", "cat", "eli"].map(UserId::new).to_vec(),
            created_at: Timestamp::from_micros(1),
            request: None,
        };
        model.create(&new);
        let cat = MemberChange::Set(UserId::new("cat"), ChatRole::Reader);
        model.change_members(new.id, &[], new.created_at, &|_| Ok(vec![cat.clone()])).unwrap();
    }
    model
}

async fn run(script: Script) -> Checked {
    let mut rng = StdRng::seed_from_u64(script.seed);
    let pause_millis = rng.random_range(0..4);
    // A third of the runs has a store without faults: there the broker must get exactly what was stored.
    let faults = if rng.random_bool(0.33) {
        Faults { pause_millis, ..Faults::NONE }
    } else {
        let mut often = || rng.random_range(0.0..0.3_f64);
        Faults { reads: 0.0, answers_lost: often(), never_arrived: often(), busy: often(), pause_millis }
    };
    let lanes = rng.random_range(1..=3);
    let store = MemoryStore::new(chats(), rng.random(), faults);
    let recording = Arc::new(RecordingBroker { store: Arc::clone(&store), log: Mutex::default() });
    let broker: Arc<dyn Broker> = recording.clone();
    let (appender, tasks) = Appender::start(store.lanes(lanes), &broker);
    let world = Arc::new(World { appender, ids: script.steps / 2 + 2, history: Mutex::default() });
    let mut callers = Vec::new();
    for number in 0..rng.random_range(2..7) {
        let (world, rng) = (Arc::clone(&world), StdRng::seed_from_u64(rng.random()));
        callers.push(if number % 2 == 0 {
            tokio::spawn(call(world, rng, script.steps))
        } else {
            tokio::spawn(stream(world, rng, script.steps))
        });
    }
    for caller in callers {
        caller.await.map_err(|error| format!("a caller failed: {error}"))??;
    }
    let World { appender, history, .. } = Arc::into_inner(world).ok_or("a caller is left")?;
    drop(appender);
    for task in tasks {
        task.await.map_err(|error| format!("a lane failed: {error}"))?;
    }
    equal(&store.take_wrong(), &Vec::new(), "what the lanes saw")?;
    let history = history.into_inner().unwrap();
    answers_are_true(&history, &store)?;
    nothing_is_stored_in_secret(&history, &store.model())?;
    senders_keep_their_order(&history)?;
    the_broker_got_what_was_stored(&history, &recording.log.lock().unwrap(), &store)
}

fn answers_are_true(history: &[Record], store: &MemoryStore) -> Checked {
    let model = store.model();
    for record in history {
        let message = &record.message;
        let (name, poison) = (message.sender.user_id.as_str(), message.text == POISON);
        let stored = model.messages(message.chat_id).iter().find(|old| same_id(old, message));
        let true_answer = match record.result.as_ref().ok_or_else(|| format!("{message:?} was never answered"))? {
            Ok(placed) => {
                let there = model.at(message.chat_id, placed.sequence);
                there.is_some_and(|there| is_of(there, message) && there.created_at == placed.created_at) && !poison
            }
            Err(Error::Unavailable) => store.was_disturbed(message.chat_id),
            // Also what wasn't tried of a batch, behind a part of it that was disturbed.
            Err(Error::NotStored) => store.was_ever_disturbed(),
            Err(Error::Internal) => poison,
            Err(Error::MessageIdTaken) => stored.is_some_and(|old| old.text != message.text),
            Err(Error::ChatNotFound) => name == "dan" && stored.is_none(),
            Err(Error::Denied) => (name == "cat" || name == "eli") && stored.is_none(),
            Err(_) => false,
        };
        ensure(true_answer, || format!("{message:?} was answered {:?}, stored is {stored:?}", record.result))?;
    }
    Ok(())
}

fn same_id(stored: &Message, sent: &NewMessage) -> bool {
    stored.sender_id == sent.sender.user_id && stored.client_message_id == sent.client_message_id
}

fn is_of(stored: &Message, sent: &NewMessage) -> bool {
    stored.chat_id == sent.chat_id && same_id(stored, sent) && stored.text == sent.text
}

/// Of a stored message at least one caller knows that it is, or that it may be.
fn nothing_is_stored_in_secret(history: &[Record], model: &Model) -> Checked {
    for message in (0..CHATS).flat_map(|number| model.messages(chat_id(number))) {
        let told = history.iter().filter(|record| is_of(message, &record.message));
        let mut results = told.map(|record| record.result.as_ref());
        ensure(results.any(|result| matches!(result, Some(Ok(_) | Err(Error::Unavailable)))), || {
            format!("{message:?} is stored, and everyone who sent it was told that it isn't")
        })?;
    }
    Ok(())
}

/// First submits that were accepted are numbered in the order of the submits.
fn senders_keep_their_order(history: &[Record]) -> Checked {
    let mut last: BTreeMap<ChatId, i64> = BTreeMap::new();
    for record in history.iter().filter(|record| record.is_first) {
        if let Some(Ok(placed)) = &record.result {
            let before = last.insert(record.message.chat_id, placed.sequence).unwrap_or(0);
            ensure(before < placed.sequence, || format!("{:?} is at {}, behind it {before} was given", record.message, placed.sequence))?;
        }
    }
    Ok(())
}

fn the_broker_got_what_was_stored(history: &[Record], log: &[Publish], store: &MemoryStore) -> Checked {
    let model = store.model();
    let mut published: HashSet<(ChatId, i64)> = HashSet::new();
    let mut heads: BTreeMap<ChatId, i64> = BTreeMap::new();
    for Publish { after_loss, messages } in log {
        let mut before: BTreeMap<ChatId, i64> = BTreeMap::new();
        for message in messages {
            let (chat_id, sequence) = (message.chat_id, message.sequence);
            equal(&Some(message), &model.at(chat_id, sequence), "a published message")?;
            let previous = before.insert(chat_id, sequence).unwrap_or(0);
            ensure(previous < sequence, || format!("{sequence} was published behind {previous}, in one go"))?;
            // Behind a lost answer a retry of an older message can't be told from the first try: it may go out late, or again.
            let head = heads.entry(chat_id).or_insert(0);
            ensure(*head < sequence || *after_loss, || format!("{sequence} was published after {head}, and no answer was lost"))?;
            *head = sequence.max(*head);
            published.insert((chat_id, sequence));
        }
    }
    for message in (0..CHATS).flat_map(|number| model.messages(chat_id(number))) {
        // Where the outcome stayed unknown, the sweep finds the message.
        let unknown = |record: &Record| is_of(message, &record.message) && record.result == Some(Err(Error::Unavailable));
        let excused = store.was_disturbed(message.chat_id) && history.iter().any(unknown);
        ensure(excused || published.contains(&(message.chat_id, message.sequence)), || format!("{message:?} was never published"))?;
    }
    Ok(())
}

#[test]
fn every_answer_of_the_append_path_is_true_whatever_the_store_loses() {
    check::scripts(96, 2..40, |script| check::paused_runtime().block_on(run(script)));
}
