//! A client as clients are: it sends, reads or doesn't, vanishes, comes back with the last sequence that it has seen, and sends
//! again what wasn't answered. Whatever it sees that breaks a promise ends its run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chat_service::model::{self, ChatId};
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::{
    AcknowledgedEvent, ConnectChatRequest, FrameKind, JoinFrame, JoinedEvent, LeaveFrame, LeftEvent, LeftReason, Message, RejectedEvent,
    SendFrame,
};
use chat_service::transport::session::{Session, outbox};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use super::{Story, World, identity};
use crate::check::{Checked, ensure, equal};
use crate::wire::{Next, Reading};

/// Virtual time: what takes longer never comes.
pub const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sender,
    Reader,
}

/// What a client has of a chat.
#[derive(Default)]
pub struct Seen {
    /// What the first join began behind; `None`: it asks for what comes from now on, and hasn't been answered.
    pub base: Option<i64>,
    pub messages: Vec<Message>,
    is_joined: bool,
    is_leaving: bool,
}

impl Seen {
    fn last(&self) -> Option<i64> {
        self.base.map(|base| base + self.messages.len() as i64)
    }
}

/// A message that a client wants to be stored. Its id is its index.
pub struct Sent {
    pub chat_id: ChatId,
    pub id: String,
    text: String,
    pub attempts: u32,
    pub acknowledged: Option<(i64, Option<prost_types::Timestamp>)>,
}

/// A stream, and its session.
pub struct Connection {
    /// `None`: the client has closed its side.
    frames: Option<mpsc::UnboundedSender<Result<ConnectChatRequest, Status>>>,
    pub reading: Reading,
    session: JoinHandle<()>,
    /// Sends on this stream that aren't answered, by index: how often.
    open: BTreeMap<usize, u32>,
    /// Nothing has gone wrong with the store since this stream began.
    is_calm: bool,
}

impl Connection {
    pub fn new(world: &World, name: &str) -> Self {
        let (frames, inbound) = mpsc::unbounded_channel();
        let (outbox, body) = outbox::outbox();
        let (options, inbound) = (Arc::clone(&world.options), UnboundedReceiverStream::new(inbound));
        let session = Session::new(options, world.options.draining.clone(), identity(name), inbound, outbox);
        let session = tokio::spawn(session.run());
        Self { frames: Some(frames), reading: Reading::new(body), session, open: BTreeMap::new(), is_calm: world.store.is_calm() }
    }

    pub fn join(&self, chat_id: ChatId, after_sequence: Option<i64>) {
        self.put(Frame::Join(JoinFrame { chat_id: chat_id.to_string(), after_sequence, follow: false }));
    }

    /// The client has nothing more to say.
    pub fn close(&mut self) {
        self.frames = None;
    }

    fn put(&self, frame: Frame) {
        if let Some(frames) = &self.frames {
            drop(frames.send(Ok(ConnectChatRequest { frame: Some(frame) })));
        }
    }
}

/// As when a connection breaks: the stream's task goes, and all that it holds.
impl Drop for Connection {
    fn drop(&mut self) {
        self.session.abort();
    }
}

pub struct Client {
    name: String,
    kind: Kind,
    rng: StdRng,
    world: Arc<World>,
    connection: Connection,
    chats: BTreeMap<ChatId, Seen>,
    sent: Vec<Sent>,
    /// Sends to try again: rejected because their outcome isn't known.
    again: Vec<usize>,
}

impl Client {
    pub fn new(name: String, kind: Kind, seed: u64, world: Arc<World>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut seen = |chat_id: &ChatId| {
            let base = rng.random_bool(0.7).then_some(0);
            (*chat_id, Seen { base, ..Seen::default() })
        };
        let chats = world.chats.iter().map(&mut seen).collect();
        let connection = Connection::new(&world, &name);
        Self { name, kind, rng, world, connection, chats, sent: Vec::new(), again: Vec::new() }
    }

    /// Does its steps, settles all that it sent, waits until it has what all have sent, and ends its stream in peace.
    pub async fn live(mut self, steps: usize) -> Checked<Story> {
        let name = self.name.clone();
        self.try_to_live(steps).await.map_err(|why| format!("{name}: {why}"))?;
        let Self { name, chats, sent, .. } = self;
        Ok(Story { name, chats, sent })
    }

    async fn try_to_live(&mut self, steps: usize) -> Checked {
        self.reconnect();
        for _ in 0..steps {
            self.step().await?;
        }
        self.world.rest();
        let due = Instant::now() + PATIENCE;
        while self.sent.iter().any(|sent| sent.acknowledged.is_none()) {
            ensure(Instant::now() < due, || "a send was never acknowledged".into())?;
            self.read_for(Duration::from_millis(50)).await?;
        }
        self.world.settled.fetch_add(1, Ordering::Relaxed);
        // Without a word from this client: what the broker loses, the sweep finds.
        let due = Instant::now() + PATIENCE;
        while !self.has_everything() {
            ensure(Instant::now() < due, || "a message never came".into())?;
            self.read_for(Duration::from_millis(20)).await?;
        }
        if self.close().await? != Code::Ok {
            // By a message that was sent once more, although it was acknowledged, before the store was calm.
            self.reconnect();
            equal(&self.close().await?, &Code::Ok, "the end of a stream in peace")?;
        }
        Ok(())
    }

    fn has_everything(&self) -> bool {
        self.world.is_silent() && self.chats.iter().all(|(id, seen)| seen.last() == Some(self.world.last_sequence(*id)))
    }

    async fn step(&mut self) -> Checked {
        match self.rng.random_range(0..100_u8) {
            0..40 => self.send_new(1),
            40..46 => {
                let burst = self.rng.random_range(2..40);
                self.send_new(burst);
            }
            46..52 => self.repeat_one(),
            52..58 => sleep(Duration::from_millis(self.rng.random_range(0..4_000))).await,
            58..64 => {
                self.connection.session.abort();
                sleep(Duration::from_millis(self.rng.random_range(0..1_000))).await;
                self.reconnect();
            }
            64..69 => {
                self.close().await?;
                self.reconnect();
            }
            69..75 => self.leave_one(),
            _ => {}
        }
        let millis = self.rng.random_range(0..40);
        self.read_for(Duration::from_millis(millis)).await
    }

    fn pick(&mut self) -> ChatId {
        let at = self.rng.random_range(0..self.world.chats.len());
        self.world.chats[at]
    }

    fn send_new(&mut self, count: usize) {
        if self.kind == Kind::Reader {
            return;
        }
        for _ in 0..count {
            let at = self.sent.len();
            // Long texts fill the outbox of a reader that doesn't read.
            let length = if self.rng.random_bool(0.3) { self.rng.random_range(3_000..4_000) } else { self.rng.random_range(0..20) };
            let text = format!("{at} of {} {}", self.name, "x".repeat(length));
            let chat_id = self.pick();
            self.sent.push(Sent { chat_id, id: at.to_string(), text, attempts: 0, acknowledged: None });
            self.send(at);
        }
    }

    /// A message goes out once more, whether or not it needs to.
    fn repeat_one(&mut self) {
        if !self.sent.is_empty() {
            let at = self.rng.random_range(0..self.sent.len());
            self.send(at);
        }
    }

    fn leave_one(&mut self) {
        let chat_id = self.pick();
        if let Some(seen) = self.chats.get_mut(&chat_id)
            && seen.is_joined
            && !seen.is_leaving
        {
            seen.is_leaving = true;
            self.connection.put(Frame::Leave(LeaveFrame { chat_id: chat_id.to_string() }));
        }
    }

    fn send(&mut self, at: usize) {
        let sent = &mut self.sent[at];
        sent.attempts += 1;
        *self.connection.open.entry(at).or_default() += 1;
        let (chat_id, client_message_id, text) = (sent.chat_id.to_string(), sent.id.clone(), sent.text.clone());
        self.connection.put(Frame::Send(SendFrame { chat_id, client_message_id, text }));
    }

    fn join(&self, chat_id: ChatId) {
        let after_sequence = self.chats.get(&chat_id).and_then(Seen::last);
        self.connection.join(chat_id, after_sequence);
    }

    /// A new stream, behind what was seen, with what wasn't acknowledged.
    fn reconnect(&mut self) {
        self.connection = Connection::new(&self.world, &self.name);
        for seen in self.chats.values_mut() {
            (seen.is_joined, seen.is_leaving) = (false, false);
        }
        for chat_id in self.world.chats.clone() {
            self.join(chat_id);
        }
        self.again = (0..self.sent.len()).filter(|at| self.sent[*at].acknowledged.is_none()).collect();
        self.send_again();
    }

    fn send_again(&mut self) {
        for at in std::mem::take(&mut self.again) {
            if self.sent[at].acknowledged.is_none() {
                self.send(at);
            }
        }
    }

    /// Reads for so long; where the stream ends for a fault of the store, the client comes back.
    async fn read_for(&mut self, time: Duration) -> Checked {
        self.send_again();
        let until = Instant::now() + time;
        while let Ok(next) = timeout_at(until, self.connection.reading.next()).await {
            match next? {
                Next::Event(event) => self.event(event)?,
                Next::End(code) => {
                    self.may_end_with(code)?;
                    self.reconnect();
                }
            }
        }
        Ok(())
    }

    fn may_end_with(&self, code: Code) -> Checked {
        let store_is_away = code == Code::Unavailable && !self.connection.is_calm;
        ensure(store_is_away, || format!("the stream ended with {code:?}"))
    }

    /// Closes its side and reads to the end.
    async fn close(&mut self) -> Checked<Code> {
        let due: Vec<(ChatId, i64)> = self.world.chats.iter().map(|id| (*id, self.world.last_sequence(*id))).collect();
        self.connection.frames = None;
        let code = timeout(PATIENCE, self.read_to_the_end()).await.map_err(|_| "a stream that was half-closed never ended")??;
        if code != Code::Ok {
            self.may_end_with(code)?;
            return Ok(code);
        }
        equal(&self.connection.open, &BTreeMap::new(), "sends that weren't settled when the stream ended")?;
        for (chat_id, due) in due {
            let seen = &self.chats[&chat_id];
            let last = seen.last();
            ensure(!seen.is_joined || last >= Some(due), || format!("half-closed at {due}, delivered up to {last:?}"))?;
        }
        Ok(code)
    }

    async fn read_to_the_end(&mut self) -> Checked<Code> {
        loop {
            match self.connection.reading.next().await? {
                Next::Event(event) => self.event(event)?,
                Next::End(code) => return Ok(code),
            }
        }
    }

    fn event(&mut self, event: Event) -> Checked {
        match event {
            Event::Joined(joined) => self.joined(joined),
            Event::Message(message) => self.message(message),
            Event::Acknowledged(acknowledged) => self.acknowledged(acknowledged),
            Event::Rejected(rejected) => self.rejected(&rejected),
            Event::Left(left) => self.left(&left),
            Event::TokenRefreshed(_) | Event::GoingAway(_) => Err(format!("nobody asked for {event:?}")),
        }
    }

    fn seen(&mut self, chat_id: &str) -> Checked<(ChatId, &mut Seen)> {
        let id = ChatId::parse(chat_id).ok_or_else(|| format!("no chat's id: {chat_id}"))?;
        let seen = self.chats.get_mut(&id).ok_or_else(|| format!("an unknown chat: {chat_id}"))?;
        Ok((id, seen))
    }

    fn joined(&mut self, joined: JoinedEvent) -> Checked {
        let chat = joined.chat.ok_or("joined without its chat")?;
        let (_, seen) = self.seen(&chat.chat_id)?;
        ensure(!seen.is_joined, || "joined twice".into())?;
        seen.is_joined = true;
        let base = *seen.base.get_or_insert(joined.last_sequence);
        let last = base + seen.messages.len() as i64;
        ensure(last <= joined.last_sequence, || format!("joined at {}, having seen {last}", joined.last_sequence))
    }

    fn message(&mut self, message: Message) -> Checked {
        let (_, seen) = self.seen(&message.chat_id)?;
        ensure(seen.is_joined, || format!("a message of a chat that isn't joined: {}", message.sequence))?;
        equal(&Some(message.sequence), &seen.last().map(|last| last + 1), "the next message's sequence")?;
        seen.messages.push(message);
        Ok(())
    }

    /// Takes an answer to a send of this stream.
    fn answered(&mut self, id: &str) -> Checked<usize> {
        let at: usize = id.parse().map_err(|_| format!("an answer to {id}"))?;
        let open = self.connection.open.get_mut(&at).ok_or_else(|| format!("{id} was answered too often"))?;
        *open -= 1;
        if *open == 0 {
            self.connection.open.remove(&at);
        }
        Ok(at)
    }

    fn acknowledged(&mut self, acknowledged: AcknowledgedEvent) -> Checked {
        let at = self.answered(&acknowledged.client_message_id)?;
        let sent = &mut self.sent[at];
        equal(&acknowledged.chat_id, &sent.chat_id.to_string(), "the chat of an acknowledgement")?;
        let place = (acknowledged.sequence, acknowledged.created_at);
        equal(sent.acknowledged.get_or_insert(place), &place, "the place of a message that was acknowledged before")
    }

    fn rejected(&mut self, rejected: &RejectedEvent) -> Checked {
        let code = rejected.status.as_ref().map_or(Code::Unknown, |status| Code::from_i32(status.code));
        match (rejected.frame(), code) {
            (FrameKind::Send, Code::Unavailable) => {
                let at = self.answered(&rejected.client_message_id)?;
                let sent = &self.sent[at];
                let is_it = |stored: &model::Message| stored.sender_id.as_str() == self.name && stored.client_message_id == sent.id;
                let is_stored = self.world.store.model().messages(sent.chat_id).iter().any(is_it);
                ensure(sent.attempts > 1 || !is_stored, || format!("{} was rejected, and it is stored", sent.id))?;
                self.again.push(at);
                Ok(())
            }
            (FrameKind::Join, Code::Unavailable) => {
                let (chat_id, _) = self.seen(&rejected.chat_id)?;
                self.join(chat_id);
                Ok(())
            }
            _ => Err(format!("{rejected:?}")),
        }
    }

    fn left(&mut self, left: &LeftEvent) -> Checked {
        let (chat_id, seen) = self.seen(&left.chat_id)?;
        ensure(seen.is_leaving && left.reason() == LeftReason::Asked, || format!("{left:?}, which wasn't asked for"))?;
        (seen.is_joined, seen.is_leaving) = (false, false);
        self.join(chat_id);
        Ok(())
    }
}
