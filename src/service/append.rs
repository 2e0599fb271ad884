//! The append path: group commit.
//!
//! Lanes, each with a connection of its own, append what waits in one bounded queue. A lane takes a part of what is under way as one batch,
//! up to [`BATCH_MESSAGES_MAX`]; while it commits, the next one gathers. So batches grow with load and nobody waits for a timer. A chat's
//! messages are in one batch at a time, so what is queued first is numbered first. [`queue`] tells who takes what.

mod queue;

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

use self::queue::{Queue, Refused};
use super::Error;
use crate::broker::{Broker, Delivery};
use crate::model::{AppendOutcome, ChatId, Message, NewMessage, Timestamp};
use crate::observe::metrics::{self, Appended, Limit};
use crate::observe::trace::{self, Origin, TARGET, child_span};
use crate::repository::{AppendLane, StoreError};

/// Messages that wait for the lanes; a send beyond is refused as [`Error::Overloaded`].
pub const QUEUE_MESSAGES_MAX: usize = 4_096;
/// Messages in one transaction.
pub const BATCH_MESSAGES_MAX: usize = 256;
/// Traced requests that a batch's span is linked to; more of them are in it unnamed.
const BATCH_LINKS_MAX: usize = 32;

/// Where a sent message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub sequence: i64,
    pub created_at: Timestamp,
}

/// What became of a send.
pub type SendResult = Result<Placed, Error>;

/// A settled send of a stream.
#[derive(Debug)]
pub struct Settled {
    pub chat_id: ChatId,
    pub client_message_id: String,
    pub result: SendResult,
}

/// Whoever waits for an outcome. Dropped without one, it answers [`Error::Unavailable`], so nobody waits for ever.
pub struct Reply(Option<Waiting>);

enum Waiting {
    Call(oneshot::Sender<SendResult>),
    /// Bounded by the stream's window of unsettled sends.
    Stream {
        settled: mpsc::UnboundedSender<Settled>,
        chat_id: ChatId,
        client_message_id: String,
        /// The frame's, which ends with the answer. A span is large, and seldom there.
        span: Option<Box<Span>>,
    },
}

impl Reply {
    pub fn call() -> (Self, oneshot::Receiver<SendResult>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(Waiting::Call(sender))), receiver)
    }

    pub fn stream(settled: mpsc::UnboundedSender<Settled>, chat_id: ChatId, client_message_id: String) -> Self {
        let span = trace::on().then(trace::current).filter(|span| !span.is_disabled()).map(Box::new);
        Self(Some(Waiting::Stream { settled, chat_id, client_message_id, span }))
    }

    /// Whether a call that waited has gone away, by its deadline or its connection. A stream's sends never count as abandoned: a client
    /// may send and close.
    fn is_abandoned(&self) -> bool {
        match &self.0 {
            Some(Waiting::Call(sender)) => sender.is_closed(),
            Some(Waiting::Stream { .. }) | None => false,
        }
    }

    /// Answers. Whoever has gone away doesn't need it: the message is stored all the same.
    pub fn answer(mut self, result: SendResult) {
        self.send(result);
    }

    fn send(&mut self, result: SendResult) {
        match self.0.take() {
            None => {}
            Some(Waiting::Call(sender)) => drop(sender.send(result)),
            Some(Waiting::Stream { settled, chat_id, client_message_id, span }) => {
                if let Some(span) = span {
                    trace::end(*span);
                }
                drop(settled.send(Settled { chat_id, client_message_id, result }));
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(Err(Error::Unavailable));
    }
}

struct Job {
    message: NewMessage,
    reply: Reply,
    origin: Option<Origin>,
}

/// The way in. When it is dropped the lanes finish what is queued and end.
pub struct Appender {
    queue: Arc<Queue>,
}

impl Appender {
    /// Starts each lane, on a task or, where it blocks, on a thread.
    pub fn start(lanes: Vec<Box<dyn AppendLane>>, broker: &Arc<dyn Broker>) -> (Self, Vec<JoinHandle<()>>) {
        let queue = Arc::new(Queue::new(lanes.len()));
        let start = |(number, lane): (usize, Box<dyn AppendLane>)| {
            let blocks = lane.blocks();
            let work = run_lane(number, lane, Arc::clone(&queue), Arc::clone(broker));
            if blocks { on_a_thread(work) } else { tokio::spawn(work) }
        };
        let tasks = lanes.into_iter().enumerate().map(start).collect();
        (Self { queue }, tasks)
    }

    /// Queues a message behind those of its chat that were queued before. Never waits.
    pub fn submit(&self, message: NewMessage, reply: Reply) {
        match self.queue.put(Job { message, reply, origin: Origin::current() }) {
            Ok(()) => {}
            Err(Refused::Full(reply)) => {
                metrics::limit_hit(Limit::AppendQueue);
                reply.answer(Err(Error::Overloaded));
            }
            Err(Refused::Closed(reply)) => reply.answer(Err(Error::GoingAway)),
        }
    }

    /// Messages that wait.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Runs a lane that blocks. The task ends with the thread.
fn on_a_thread(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let (running, ended) = oneshot::channel::<()>();
    let runtime = Handle::current();
    let run = move || {
        runtime.block_on(work);
        drop(running);
    };
    std::thread::Builder::new().name("append".to_owned()).spawn(run).expect("a lane needs a thread");
    tokio::spawn(async { drop(ended.await) })
}

async fn run_lane(number: usize, mut lane: Box<dyn AppendLane>, queue: Arc<Queue>, broker: Arc<dyn Broker>) {
    let mut alive = Alive { queue: &queue, ended: false };
    while let Some(mut batch) = queue.take(number).await {
        let jobs = &mut batch.jobs;
        // Under overload callers give up while they wait: storing for them would take the place of those who still wait.
        let taken = jobs.len();
        jobs.retain(|job| !job.reply.is_abandoned());
        if jobs.len() < taken {
            metrics::appended(Appended::Abandoned, (taken - jobs.len()) as u64);
        }
        if jobs.is_empty() {
            continue;
        }
        metrics::APPEND_BATCH_MESSAGES.observe(jobs.len() as u64);
        let span = batch_span(jobs);
        let work = run_batch(lane.as_mut(), jobs, broker.as_ref());
        work.instrument(span.clone()).await;
        trace::end(span);
    }
    alive.ended = true;
}

/// A lane that runs. One that goes before its end, by a panic, takes the queue along: nobody waits for ever.
struct Alive<'a> {
    queue: &'a Queue,
    ended: bool,
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.queue.fail();
        }
    }
}

/// Appends the jobs, answers, and publishes.
async fn run_batch(lane: &mut dyn AppendLane, jobs: &mut Vec<Job>, broker: &dyn Broker) {
    let (messages, rest): (Vec<_>, Vec<_>) = jobs.drain(..).map(|job| (job.message, (job.reply, job.origin))).unzip();
    let outcomes = append_all(lane, &messages).await;
    let mut deliveries = Vec::with_capacity(messages.len());
    let mut counts = Counts::default();
    for ((message, (reply, origin)), outcome) in messages.into_iter().zip(rest).zip(outcomes) {
        counts.count(&outcome);
        if let Some(placed) = outcome.to_deliver() {
            deliveries.push(Delivery::traced(stored(message, placed), origin));
        }
        reply.answer(outcome.result);
    }
    counts.tell();
    if !deliveries.is_empty() {
        in_order(&mut deliveries);
        let span = child_span!("broker.publish", otel.kind = "producer", messaging.batch.message_count = deliveries.len() as i64);
        broker.publish(deliveries).instrument(span).await;
    }
}

/// A batch belongs to each request that it carries: it is in the trace of the first that is traced, and linked to them all.
fn batch_span(jobs: &[Job]) -> Span {
    let mut origins = jobs.iter().filter_map(|job| job.origin.as_ref());
    let Some(first) = origins.next() else { return Span::none() };
    let span = tracing::info_span!(target: TARGET, parent: None, "append.batch", chat.batch.messages = jobs.len() as i64);
    for origin in std::iter::once(first).chain(origins).take(BATCH_LINKS_MAX) {
        trace::link(&span, origin);
    }
    trace::continues(span, first)
}

/// What became of a batch's messages.
#[derive(Default)]
struct Counts {
    stored: u64,
    duplicate: u64,
    refused: u64,
    failed: u64,
}

impl Counts {
    fn count(&mut self, outcome: &Outcome) {
        let of = match &outcome.result {
            Ok(_) if outcome.deliver => &mut self.stored,
            Ok(_) => &mut self.duplicate,
            Err(Error::Unavailable | Error::NotStored | Error::Internal) => &mut self.failed,
            Err(_) => &mut self.refused,
        };
        *of += 1;
    }

    fn tell(&self) {
        let counts = [
            (Appended::Stored, self.stored),
            (Appended::Duplicate, self.duplicate),
            (Appended::Refused, self.refused),
            (Appended::Failed, self.failed),
        ];
        for (outcome, messages) in counts.into_iter().filter(|(_, messages)| *messages > 0) {
            metrics::appended(outcome, messages);
        }
    }
}

/// Behind a lost answer a batch may hold retries of older messages, and one of them twice: the broker is promised each chat's in
/// the order of their sequence.
fn in_order(deliveries: &mut Vec<Arc<Delivery>>) {
    deliveries.sort_by_key(|delivery| (delivery.message.chat_id, delivery.message.sequence));
    deliveries.dedup_by_key(|delivery| (delivery.message.chat_id, delivery.message.sequence));
}

struct Outcome {
    result: SendResult,
    /// Not for what was stored and published before.
    deliver: bool,
}

impl Outcome {
    fn failed(error: Error) -> Self {
        Self { result: Err(error), deliver: false }
    }

    fn to_deliver(&self) -> Option<Placed> {
        self.result.as_ref().ok().filter(|_| self.deliver).copied()
    }
}

fn stored(message: NewMessage, placed: Placed) -> Message {
    Message {
        chat_id: message.chat_id,
        sequence: placed.sequence,
        sender_id: message.sender.user_id,
        client_message_id: message.client_message_id,
        text: message.text,
        created_at: placed.created_at,
    }
}

/// Part of a batch.
#[derive(Clone, Copy)]
struct Part<'a> {
    messages: &'a [NewMessage],
    /// An append of it was not answered: whatever comes later, it may be stored.
    is_unsure: bool,
}

impl Part<'_> {
    /// What its messages' callers are told when it has failed: never that a message isn't stored which may be.
    fn failure(&self, error: Error) -> Error {
        if self.is_unsure { Error::Unavailable } else { error }
    }

    fn failed(&self, error: &Error) -> impl Iterator<Item = Outcome> {
        let failure = self.failure(error.clone());
        self.messages.iter().map(move |_| Outcome::failed(failure.clone()))
    }
}

/// Appends a batch. One that the store refuses is split, in order, until only the guilty message stands alone.
async fn append_all(lane: &mut dyn AppendLane, messages: &[NewMessage]) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(messages.len());
    let mut parts = vec![Part { messages, is_unsure: false }];
    while let Some(mut part) = parts.pop() {
        match append_surely(lane, &mut part).await {
            Ok(found) => outcomes.extend(found.into_iter().map(|outcome| outcome_of(outcome, &part))),
            Err(Error::Internal) if part.messages.len() > 1 => {
                let (first, second) = part.messages.split_at(part.messages.len() / 2);
                parts.extend([second, first].map(|messages| Part { messages, ..part }));
            }
            Err(error) => {
                outcomes.extend(part.failed(&error));
                if error != Error::Internal {
                    // The store is away: the rest would only wait for the same.
                    parts.drain(..).rev().for_each(|left| outcomes.extend(left.failed(&Error::NotStored)));
                }
            }
        }
    }
    outcomes
}

/// Appends, and before anyone is answered once more where the outcome is not known, which the ids make right, and once more where the
/// store undid it, as behind a deadlock.
async fn append_surely(lane: &mut dyn AppendLane, part: &mut Part<'_>) -> Result<Vec<AppendOutcome>, Error> {
    let (mut unknown, mut undone) = (false, false);
    loop {
        match timed(lane, part.messages).await {
            Err(error) if error.is_unknown_outcome() && !unknown => {
                metrics::APPEND_UNKNOWN_OUTCOMES.one();
                tracing::warn!(error = %error, messages = part.messages.len(), "an append's outcome is unknown; appending again");
                (unknown, part.is_unsure) = (true, true);
            }
            Err(StoreError::Undone(error)) if !undone => {
                tracing::warn!(error = %error, messages = part.messages.len(), "the store undid an append; appending again");
                undone = true;
            }
            appended => return appended.map_err(Error::from),
        }
    }
}

async fn timed(lane: &mut dyn AppendLane, part: &[NewMessage]) -> Result<Vec<AppendOutcome>, StoreError> {
    let began = Instant::now();
    let appended = lane.append(part).await;
    metrics::APPEND_COMMIT.observe_time(began.elapsed());
    appended
}

fn outcome_of(outcome: AppendOutcome, part: &Part<'_>) -> Outcome {
    match outcome {
        AppendOutcome::Stored { sequence, created_at } => Outcome { result: Ok(Placed { sequence, created_at }), deliver: true },
        // Behind an append that was not answered, what looks like a duplicate may be that one's own.
        AppendOutcome::Duplicate { sequence, created_at } => {
            Outcome { result: Ok(Placed { sequence, created_at }), deliver: part.is_unsure }
        }
        AppendOutcome::Conflict => Outcome::failed(Error::MessageIdTaken),
        AppendOutcome::NotFound => Outcome::failed(Error::ChatNotFound),
        AppendOutcome::Denied => Outcome::failed(Error::Denied),
        AppendOutcome::Busy => Outcome::failed(part.failure(Error::NotStored)),
    }
}

#[cfg(test)]
mod tests;
