//! One client of the checker: sends, reads, disconnects at random, resumes, tries again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prost_types::Timestamp;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};
use tonic_types::RpcStatusExt;

use super::CheckError;
use super::events::Events;
use super::history::{Message, Record, Via};
use super::shared::{Phase, Shared};
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::connect_chat_request::Frame;
use crate::pb::chat::v1::connect_chat_response::Event;

/// How long a stream's first answer may take.
const OPEN_DUE: Duration = Duration::from_secs(10);
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Frames under way.
const FRAMES_MAX: usize = 64;
/// How often a paced sender looks whether a message is due.
const TICK: Duration = Duration::from_millis(10);
/// Acknowledged messages that are kept for repeats and probes.
const REMEMBERED_MAX: usize = 64;
/// How long a slow reader doesn't read, at most, and how many events it reads in between.
const SLOW_PAUSE_MAX: Duration = Duration::from_millis(1500);
const SLOW_EVENTS: usize = 50;
/// In percent of new messages: sent twice at once, an acknowledged one repeated, a conflicting text tried.
const TWICE_PERCENT: u32 = 3;
const REPEAT_PERCENT: u32 = 3;
const PROBE_PERCENT: u32 = 2;

/// What a client is there for.
#[derive(Clone, Debug)]
pub struct Part {
    pub number: u32,
    pub user: String,
    pub token: MetadataValue<Ascii>,
    pub sends: bool,
    pub reads: bool,
    pub slow: bool,
    pub seed: u64,
}

/// A message that is not settled yet.
#[derive(Clone, Debug)]
struct Unsettled {
    chat: usize,
    id: String,
    text: String,
    /// The server asked for a pause before it is sent again on this connection.
    not_before: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Out {
    chat: usize,
    id: String,
    text: String,
    probe: bool,
}

pub struct Client {
    shared: Arc<Shared>,
    part: Part,
    rng: StdRng,
    connection: u32,
    /// The last sequence seen, by chat.
    seen: Vec<i64>,
    /// In the order of their first attempts.
    unsettled: VecDeque<Unsettled>,
    remembered: VecDeque<Out>,
    made: u64,
    /// When anything was heard of the server last.
    heard: Instant,
    reported: bool,
}

/// One connection's part of a client.
struct Line {
    via: Via,
    frames: Option<mpsc::Sender<pb::ConnectChatRequest>>,
    outgoing: VecDeque<Outgoing>,
    /// Whether the answers to come on an id are to probes, in the order of the attempts: a stream's answers keep it.
    answers: HashMap<String, VecDeque<bool>>,
    /// What the server said of when to come back.
    come_back: Option<Duration>,
    /// The client means to end this connection by closing its side.
    closing: bool,
    /// It does so after the last message of the run was settled: what comes before the end is everything.
    draining: bool,
    events: usize,
}

enum Outgoing {
    Join { chat: usize, after: i64 },
    Send(Out),
}

enum Ended {
    /// Everything the client was there for is done.
    Done,
    Lost(Option<Duration>),
}

impl Client {
    pub fn new(shared: Arc<Shared>, part: Part) -> Self {
        let (rng, seen) = (StdRng::seed_from_u64(part.seed), vec![0; shared.chats.len()]);
        Self {
            shared,
            part,
            rng,
            connection: 0,
            seen,
            unsettled: VecDeque::new(),
            remembered: VecDeque::new(),
            made: 0,
            heard: Instant::now(),
            reported: false,
        }
    }

    /// Runs until the client has done its part. A server that can't be reached is waited for, within the patience.
    pub async fn run(mut self) -> Result<(), CheckError> {
        let mut backoff = BACKOFF;
        loop {
            let heard = self.heard;
            let pause = match self.connect().await? {
                Ended::Done => return Ok(()),
                Ended::Lost(pause) => pause,
            };
            if self.heard > heard {
                backoff = BACKOFF;
            }
            if self.heard.elapsed() > self.shared.patience {
                return Err(CheckError::Patience { patience: self.shared.patience, unsettled: self.unsettled.len() });
            }
            sleep(pause.unwrap_or_else(|| self.rng.random_range(Duration::ZERO..backoff)).min(BACKOFF_MAX)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// One connection, until it ends.
    async fn connect(&mut self) -> Result<Ended, CheckError> {
        let node = self.rng.random_range(0..self.shared.endpoints.len().max(1));
        let Some(endpoint) = self.shared.endpoints.get(node) else { return Ok(Ended::Lost(None)) };
        let Ok(Ok(channel)) = timeout(OPEN_DUE, endpoint.connect()).await else { return Ok(Ended::Lost(None)) };
        let (frames, receiver) = mpsc::channel(FRAMES_MAX);
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("authorization", self.part.token.clone());
        let mut events = Events::open(channel, request, OPEN_DUE);
        self.connection += 1;
        let via = Via { client: self.part.number, connection: self.connection };
        self.shared.connected(via, node);
        let mut line = Line {
            via,
            frames: Some(frames),
            outgoing: self.opening(),
            answers: HashMap::new(),
            come_back: None,
            closing: false,
            draining: false,
            events: 0,
        };
        let ended = self.stay(&mut line, &mut events).await?;
        if let Ended::Lost(_) = ended {
            self.shared.history.write(Record::Disconnected { via, why: if line.closing { "closed".into() } else { "lost".into() } });
        }
        Ok(ended)
    }

    /// What a connection begins with: joins behind what was seen, and again what has no answer, in its order.
    fn opening(&mut self) -> VecDeque<Outgoing> {
        let joins = self.seen.iter().enumerate().filter(|_| self.part.reads);
        let mut opening: VecDeque<Outgoing> = joins.map(|(chat, after)| Outgoing::Join { chat, after: *after }).collect();
        for message in &mut self.unsettled {
            message.not_before = None;
            let Unsettled { chat, id, text, .. } = message.clone();
            opening.push_back(Outgoing::Send(Out { chat, id, text, probe: false }));
        }
        opening
    }

    async fn stay(&mut self, line: &mut Line, events: &mut Events) -> Result<Ended, CheckError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut phase = self.shared.phase.subscribe();
        let until = self.next_disconnection();
        let mut credit = 0.0;
        loop {
            let now = *phase.borrow_and_update();
            self.report_when_settled(now);
            if self.close_when_done(line, now) {
                return Ok(Ended::Done);
            }
            if line.closing && line.outgoing.is_empty() {
                line.frames = None;
            }
            tokio::select! {
                event = events.next() => match event {
                    Ok(Some(pb::ConnectChatResponse { event: Some(event) })) => {
                        self.heard = Instant::now();
                        if let Some(ended) = self.event(line, event)? {
                            return Ok(ended);
                        }
                        self.dawdle(line, now).await;
                    }
                    Ok(Some(_)) => self.heard = Instant::now(),
                    Ok(None) if line.draining => return Ok(Ended::Done),
                    Ok(None) => return Ok(Ended::Lost(line.come_back)),
                    Err(status) => return lost(&status, line.come_back),
                },
                permit = reserve(line.frames.clone()), if line.frames.is_some() && !line.outgoing.is_empty() => match permit {
                    Some(permit) => if let Some(out) = line.outgoing.pop_front() { drop(permit.send(self.frame(line.via, &mut line.answers, out))); },
                    None => line.frames = None,
                },
                _ = ticks.tick(), if self.part.sends => {
                    self.again(line);
                    if now == Phase::Sending && !line.closing {
                        credit = (credit + self.shared.rate_per_sender * TICK.as_secs_f64()).min(self.shared.window as f64);
                        self.make(line, &mut credit);
                    }
                }
                _ = phase.changed() => {}
                () = sleep_until(until), if !line.closing && now == Phase::Sending => {
                    if self.rng.random_bool(0.5) {
                        return Ok(Ended::Lost(None));
                    }
                    line.closing = true;
                }
            }
        }
    }

    /// Times between disconnections are exponential: they come at any moment.
    fn next_disconnection(&mut self) -> Instant {
        let mean = self.shared.disconnect_every.as_secs_f64();
        let after = if mean > 0.0 { -mean * (1.0 - self.rng.random::<f64>()).ln() } else { 86_400.0 };
        Instant::now() + Duration::from_secs_f64(after.min(86_400.0))
    }

    fn report_when_settled(&mut self, phase: Phase) {
        if !self.reported && phase != Phase::Sending && self.unsettled.is_empty() {
            self.reported = true;
            // The run has ended where nobody hears it.
            self.shared.settled.send(()).ok();
        }
    }

    /// In the end a reader closes its side, and is delivered everything; who only sends is done at once.
    fn close_when_done(&self, line: &mut Line, phase: Phase) -> bool {
        if phase == Phase::Draining && !line.closing {
            (line.closing, line.draining) = (true, true);
        }
        phase == Phase::Draining && !self.part.reads
    }

    /// A slow reader stops reading now and then.
    async fn dawdle(&mut self, line: &mut Line, phase: Phase) {
        line.events += 1;
        if self.part.slow && phase == Phase::Sending && line.events.is_multiple_of(SLOW_EVENTS) {
            sleep(self.rng.random_range(Duration::ZERO..SLOW_PAUSE_MAX)).await;
        }
    }

    /// Makes the messages that are due, as far as the window allows.
    fn make(&mut self, line: &mut Line, credit: &mut f64) {
        while *credit >= 1.0 && self.unsettled.len() < self.shared.window && self.shared.take_turn() {
            *credit -= 1.0;
            self.made += 1;
            let id = format!("{}-{}", self.part.number, self.made);
            let words = self.rng.random_range(1..12_usize);
            let text = format!("{id} {}", "μήνυμα ".repeat(words));
            let chat = self.rng.random_range(0..self.shared.chats.len());
            self.unsettled.push_back(Unsettled { chat, id: id.clone(), text: text.clone(), not_before: None });
            let out = Out { chat, id, text, probe: false };
            let dice = self.rng.random_range(0..100);
            let other = self.remembered.iter().collect::<Vec<_>>().choose(&mut self.rng).map(|out| (*out).clone());
            line.outgoing.push_back(Outgoing::Send(out.clone()));
            match other {
                _ if dice < TWICE_PERCENT => line.outgoing.push_back(Outgoing::Send(out)),
                Some(other) if dice < TWICE_PERCENT + REPEAT_PERCENT => line.outgoing.push_back(Outgoing::Send(other)),
                Some(other) if dice < TWICE_PERCENT + REPEAT_PERCENT + PROBE_PERCENT => {
                    let text = format!("{} and something else", other.text);
                    line.outgoing.push_back(Outgoing::Send(Out { text, probe: true, ..other }));
                }
                _ => {}
            }
        }
    }

    /// Sends again what the server asked to send later.
    fn again(&mut self, line: &mut Line) {
        for message in self.unsettled.iter_mut().filter(|message| message.not_before.is_some_and(|due| due <= Instant::now())) {
            message.not_before = None;
            let Unsettled { chat, id, text, .. } = message.clone();
            line.outgoing.push_back(Outgoing::Send(Out { chat, id, text, probe: false }));
        }
    }

    fn frame(&self, via: Via, answers: &mut HashMap<String, VecDeque<bool>>, out: Outgoing) -> pb::ConnectChatRequest {
        let chats = &self.shared.chats;
        let frame = match out {
            Outgoing::Join { chat, after } => {
                Frame::Join(pb::JoinFrame { chat_id: chats[chat].clone(), after_sequence: Some(after), follow: false })
            }
            Outgoing::Send(Out { chat, id, text, probe }) => {
                answers.entry(id.clone()).or_default().push_back(probe);
                let sender = self.part.user.clone();
                self.shared.history.write(Record::Attempt { via, chat, sender, id: id.clone(), text: text.clone() });
                Frame::Send(pb::SendFrame { chat_id: chats[chat].clone(), client_message_id: id, text })
            }
        };
        pb::ConnectChatRequest { frame: Some(frame) }
    }

    fn event(&mut self, line: &mut Line, event: Event) -> Result<Option<Ended>, CheckError> {
        match event {
            Event::Joined(joined) => {
                let chat = self.chat(&joined.chat.unwrap_or_default().chat_id)?;
                self.shared.history.write(Record::Joined { via: line.via, chat, after: self.seen[chat] });
            }
            Event::Message(message) => {
                let chat = self.chat(&message.chat_id)?;
                self.seen[chat] = self.seen[chat].max(message.sequence);
                self.shared.delivered();
                self.shared.history.write(Record::Delivered { via: line.via, chat, message: plain(message) });
            }
            Event::Acknowledged(acknowledged) => self.acknowledged(line, acknowledged)?,
            Event::Rejected(rejected) => return self.rejected(line, rejected),
            Event::GoingAway(going) => line.come_back = going.reconnect_after.and_then(|pause| pause.try_into().ok()),
            Event::Left(left) => {
                return Err(CheckError::Unexpected(format!("the server ended client {}'s chat: {:?}", self.part.number, left.reason())));
            }
            Event::TokenRefreshed(_) => {}
        }
        Ok(None)
    }

    fn acknowledged(&mut self, line: &mut Line, acknowledged: pb::AcknowledgedEvent) -> Result<(), CheckError> {
        let chat = self.chat(&acknowledged.chat_id)?;
        let pb::AcknowledgedEvent { client_message_id: id, sequence, created_at, .. } = acknowledged;
        let probe = answered(line, &id);
        if let Some(at) = self.unsettled.iter().position(|message| message.id == id).filter(|_| !probe) {
            if let Some(Unsettled { chat, id, text, .. }) = self.unsettled.remove(at) {
                self.remembered.push_back(Out { chat, id, text, probe: false });
                self.remembered.drain(..self.remembered.len().saturating_sub(REMEMBERED_MAX));
            }
            self.shared.acked();
        }
        let sender = self.part.user.clone();
        let created_at_us = micros(created_at);
        self.shared.history.write(Record::Acknowledged { via: line.via, chat, sender, id, sequence, created_at_us, probe });
        Ok(())
    }

    fn rejected(&mut self, line: &mut Line, rejected: pb::RejectedEvent) -> Result<Option<Ended>, CheckError> {
        let kind = rejected.frame();
        let chat = self.chat(&rejected.chat_id)?;
        let status = rejected.status.unwrap_or_default();
        let code = Code::from_i32(status.code);
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        let pause = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let id = (kind == pb::FrameKind::Send).then_some(rejected.client_message_id);
        let probe = id.as_ref().is_some_and(|id| answered(line, id));
        let retried = matches!(code, Code::Unavailable | Code::ResourceExhausted);
        let record = Record::Rejected { via: line.via, chat, id: id.clone(), code: format!("{code:?}"), reason: reason.clone(), probe };
        self.shared.history.write(record);
        self.shared.rejected();
        match id {
            None if retried => Ok(Some(Ended::Lost(pause))),
            None if reason == "SEQUENCE_AHEAD" => {
                // The server has lost what this client was delivered: a violation, and this client can read no more.
                self.part.reads = false;
                self.shared.broken(self.part.number);
                Ok(None)
            }
            None => Err(CheckError::Unexpected(format!("the server refuses a join: {code:?} {reason}"))),
            Some(id) if retried => {
                if let Some(message) = self.unsettled.iter_mut().find(|message| message.id == id).filter(|_| !probe) {
                    message.not_before = Some(Instant::now() + pause.unwrap_or(BACKOFF));
                }
                Ok(None)
            }
            Some(_) if probe && code == Code::AlreadyExists => Ok(None),
            Some(id) => Err(CheckError::Unexpected(format!("the server refuses {id}: {code:?} {reason}"))),
        }
    }

    fn chat(&self, id: &str) -> Result<usize, CheckError> {
        let unknown =
            || CheckError::Unexpected(format!("the server speaks of chat {id}, which client {} has nothing to do with", self.part.number));
        self.shared.chats.iter().position(|chat| chat == id).ok_or_else(unknown)
    }
}

/// Whether the next answer on an id is a probe's.
fn answered(line: &mut Line, id: &str) -> bool {
    let Some(waiting) = line.answers.get_mut(id) else { return false };
    let probe = waiting.pop_front().unwrap_or(false);
    if waiting.is_empty() {
        line.answers.remove(id);
    }
    probe
}

async fn reserve(frames: Option<mpsc::Sender<pb::ConnectChatRequest>>) -> Option<mpsc::OwnedPermit<pb::ConnectChatRequest>> {
    match frames {
        Some(frames) => frames.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

/// Whether it is worth coming back.
fn lost(status: &Status, come_back: Option<Duration>) -> Result<Ended, CheckError> {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented | Code::DataLoss => {
            Err(CheckError::Unexpected(format!("the server ends a stream: {:?}: {}", status.code(), status.message())))
        }
        _ => Ok(Ended::Lost(come_back)),
    }
}

pub fn plain(message: pb::Message) -> Message {
    let text = match message.content {
        Some(pb::message::Content::Text(text)) => text,
        None => String::new(),
    };
    let created_at_us = micros(message.created_at);
    Message { sequence: message.sequence, sender: message.sender_id, id: message.client_message_id, text, created_at_us }
}

fn micros(at: Option<Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000)
}
