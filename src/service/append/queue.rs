//! The messages that wait, and which lane takes which of them.
//!
//! Any lane takes any chat's, but never while another batch has messages of that chat: so each chat's are stored, and published, in their
//! order. The first lane does the work while it can: large batches cost less. Another one helps where many wait, and where the first is
//! held up, as by a chat that somebody else has locked.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{BATCH_MESSAGES_MAX, Job, QUEUE_MESSAGES_MAX, Reply};
use crate::model::ChatId;

/// So many that wait are never left for another transaction.
const BATCH_MESSAGES_MIN: usize = 8;
/// Another lane helps where so many wait.
const HELP_FROM_MESSAGES: usize = 32;
/// Or where the lanes before it have been under way for so long.
const HELP_AFTER: Duration = Duration::from_millis(20);

pub struct Queue {
    state: Mutex<State>,
    /// Wake the lanes.
    lanes: Vec<Notify>,
}

struct State {
    waiting: VecDeque<Job>,
    /// Chats with messages in a batch under way.
    busy: HashSet<ChatId>,
    lanes: Vec<Lane>,
    closed: bool,
}

#[derive(Clone, Copy, Default)]
struct Lane {
    /// Messages of its last batch.
    taken: usize,
    /// Since when it is under way; `None`: it isn't.
    since: Option<Instant>,
    /// It waits until it is woken, whatever comes.
    parked: bool,
}

/// Why a message isn't queued; who waits for it.
pub enum Refused {
    Full(Reply),
    Closed(Reply),
}

/// What a lane is to do.
enum Next {
    Append(Vec<Job>),
    /// Until it is woken, or until then.
    Wait(Option<Instant>),
    End,
}

/// A batch under way. Its chats are free when it goes.
pub struct Batch<'a> {
    pub jobs: Vec<Job>,
    queue: &'a Queue,
    lane: usize,
    chats: Vec<ChatId>,
}

impl Queue {
    pub fn new(lanes: usize) -> Self {
        let state = State { waiting: VecDeque::new(), busy: HashSet::new(), lanes: vec![Lane::default(); lanes], closed: false };
        Self { state: Mutex::new(state), lanes: (0..lanes).map(|_| Notify::new()).collect() }
    }

    pub fn put(&self, job: Job) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed(job.reply));
        }
        if state.waiting.len() == QUEUE_MESSAGES_MAX {
            return Err(Refused::Full(job.reply));
        }
        state.waiting.push_back(job);
        let woken = state.to_wake();
        drop(state);
        if let Some(lane) = woken {
            self.lanes[lane].notify_one();
        }
        Ok(())
    }

    /// The lane's next batch; `None`: the queue is closed and empty.
    pub async fn take(&self, lane: usize) -> Option<Batch<'_>> {
        loop {
            let (next, helper) = {
                let mut state = self.lock();
                let next = state.next(lane);
                state.lanes[lane].parked = matches!(next, Next::Wait(None));
                (next, state.helper())
            };
            match next {
                Next::Append(jobs) => {
                    if let Some(helper) = helper {
                        self.lanes[helper].notify_one();
                    }
                    let chats = jobs.iter().map(|job| job.message.chat_id).collect();
                    return Some(Batch { jobs, queue: self, lane, chats });
                }
                Next::Wait(None) => self.lanes[lane].notified().await,
                Next::Wait(Some(until)) => drop(timeout_at(until, self.lanes[lane].notified()).await),
                Next::End => {
                    self.lanes.iter().for_each(Notify::notify_one);
                    return None;
                }
            }
        }
    }

    /// A lane is gone that should not be: nothing comes in any more, and who waits is told so.
    pub fn fail(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        // Not under the lock: replies wake others.
        drop(waiting);
        self.lanes.iter().for_each(Notify::notify_one);
    }

    /// What waits is still appended; nothing more comes in.
    pub fn close(&self) {
        self.lock().closed = true;
        self.lanes.iter().for_each(Notify::notify_one);
    }

    /// Messages that wait.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self, lane: usize) -> Next {
        if self.waiting.is_empty() {
            return if self.closed { Next::End } else { Next::Wait(None) };
        }
        let mut helps_at = None;
        for before in &self.lanes[..lane] {
            // Those before it come first.
            let Some(since) = before.since else { return Next::Wait(None) };
            helps_at = helps_at.max(Some(since + HELP_AFTER));
        }
        if self.waiting.len() < HELP_FROM_MESSAGES && helps_at > Some(Instant::now()) {
            return Next::Wait(helps_at);
        }
        let jobs = self.pick(self.batch_size(lane));
        if jobs.is_empty() {
            // All are of chats that others have. Who ends wakes the first lane, which takes them; another one looks at what comes meanwhile.
            return Next::Wait((lane > 0).then(|| Instant::now() + HELP_AFTER));
        }
        self.busy.extend(jobs.iter().map(|job| job.message.chat_id));
        self.lanes[lane] = Lane { taken: jobs.len(), since: Some(Instant::now()), parked: false };
        Next::Append(jobs)
    }

    /// A lane that could help with what is left behind a batch.
    fn helper(&self) -> Option<usize> {
        let idle = self.lanes.iter().position(|lane| lane.since.is_none())?;
        let looks = self.lanes[idle].parked || self.waiting.len() >= HELP_FROM_MESSAGES;
        (idle > 0 && looks && !self.waiting.is_empty()).then_some(idle)
    }

    /// The lane that is to look at what has just come: the first one, or the next one that could help, where it would not look by itself, or many wait.
    fn to_wake(&self) -> Option<usize> {
        let idle = self.lanes.iter().position(|lane| lane.since.is_none())?;
        let looks = idle == 0 || self.lanes[idle].parked || self.waiting.len() == HELP_FROM_MESSAGES;
        looks.then_some(idle)
    }

    /// How much of what waits makes a batch: a part of all that is under way, which is about as much as waits now, is being appended, and was
    /// answered last, for whoever was answered sends again. One part is being answered while the others are appended. Taking all that waits,
    /// the senders would fall in step: nobody sends while all of them wait for one large commit, and the first to send then has a commit
    /// alone.
    ///
    /// A part for each lane that appends, as one that can't, since all that waits is of chats that others have, takes nothing.
    fn batch_size(&self, lane: usize) -> usize {
        let appending = || self.lanes.iter().enumerate().filter(|(at, l)| *at == lane || l.since.is_some());
        let appended: usize = appending().map(|(_, l)| l.taken).sum();
        let under_way = self.waiting.len() + appended;
        under_way.div_ceil(appending().count() + 1).clamp(BATCH_MESSAGES_MIN, BATCH_MESSAGES_MAX)
    }

    /// The first ones that no other batch holds up.
    fn pick(&mut self, size: usize) -> Vec<Job> {
        let mut jobs = Vec::with_capacity(size.min(self.waiting.len()));
        let mut held_up = Vec::new();
        while jobs.len() < size
            && let Some(job) = self.waiting.pop_front()
        {
            if self.busy.contains(&job.message.chat_id) { held_up.push(job) } else { jobs.push(job) }
        }
        held_up.into_iter().rev().for_each(|job| self.waiting.push_front(job));
        jobs
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        for chat in &self.chats {
            state.busy.remove(chat);
        }
        state.lanes[self.lane].since = None;
        let first_waits = self.lane > 0 && state.lanes[0].since.is_none();
        drop(state);
        if first_waits {
            self.queue.lanes[0].notify_one();
        }
    }
}
