//! One client of the checker: sends, reads, disconnects at random, resumes, tries again.
//!
//! - `sends`: the messages that it makes, and which of them it sends again.
//! - `line`: one connection, and what goes out on it.
//! - `answers`: what the server says.

mod answers;
mod line;
mod sends;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use super::CheckError;
use super::events::Events;
use super::history::{Record, Via};
use super::shared::{Phase, Shared};
use crate::pb::chat::v1 as pb;
use line::{Line, Outgoing, reserve};
use sends::Sends;

/// How long a stream's first answer may take.
const OPEN_DUE: Duration = Duration::from_secs(10);
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Frames under way.
const FRAMES_MAX: usize = 64;
/// How often a paced sender looks whether a message is due.
const TICK: Duration = Duration::from_millis(10);
/// How long a slow reader doesn't read, at most, and how many events it reads in between.
const SLOW_PAUSE_MAX: Duration = Duration::from_millis(1500);
const SLOW_EVENTS: usize = 50;

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

pub struct Client {
    shared: Arc<Shared>,
    part: Part,
    rng: StdRng,
    connection: u32,
    /// The last sequence seen, by chat.
    seen: Vec<i64>,
    sends: Sends,
    /// When anything was heard of the server last.
    heard: Instant,
    reported: bool,
}

enum Ended {
    /// Everything the client was there for is done.
    Done,
    Lost(Option<Duration>),
}

impl Client {
    pub fn new(shared: Arc<Shared>, part: Part) -> Self {
        let (rng, seen) = (StdRng::seed_from_u64(part.seed), vec![0; shared.chats.len()]);
        Self { shared, part, rng, connection: 0, seen, sends: Sends::default(), heard: Instant::now(), reported: false }
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
                return Err(CheckError::Patience { patience: self.shared.patience, unsettled: self.sends.unsettled() });
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
        let mut line = Line::new(via, frames, self.opening());
        let ended = self.stay(&mut line, &mut events).await?;
        if let Ended::Lost(_) = ended {
            self.shared.history.write(Record::Disconnected { via, why: if line.closing { "closed".into() } else { "lost".into() } });
        }
        Ok(ended)
    }

    /// What a connection begins with: joins behind what was seen, and again what has no answer, in its order.
    fn opening(&mut self) -> VecDeque<Outgoing> {
        let joins = self.seen.iter().enumerate().filter(|_| self.part.reads);
        let joins = joins.map(|(chat, after)| Outgoing::Join { chat, after: *after });
        joins.chain(self.sends.all_again().map(Outgoing::Send)).collect()
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
                    Some(permit) => if let Some(frame) = line.next_frame(&self.shared, &self.part.user) { drop(permit.send(frame)); },
                    None => line.frames = None,
                },
                _ = ticks.tick(), if self.part.sends => {
                    line.outgoing.extend(self.sends.due_again().map(Outgoing::Send));
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
        if !self.reported && phase != Phase::Sending && self.sends.unsettled() == 0 {
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
        while *credit >= 1.0 && self.sends.unsettled() < self.shared.window && self.shared.take_turn() {
            *credit -= 1.0;
            let (new, behind) = self.sends.make(self.part.number, self.shared.chats.len(), &mut self.rng);
            line.outgoing.extend([new].into_iter().chain(behind).map(Outgoing::Send));
        }
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
