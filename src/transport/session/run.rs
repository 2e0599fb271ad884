//! The loop of a connected stream.

mod acts;
mod reads;
mod waits;

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, Stream};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status};

use self::acts::rejected;
use self::reads::{PageRead, Unread};
use self::waits::Input;
use super::outbox::{Outbox, Shared};
use super::state::{Cursor, Verdict};
use crate::broker::{Delivery, Eviction, Mailbox, Subscription};
use crate::converter::status::{self, Refused};
use crate::converter::{chat, frames};
use crate::interceptor::token::Verifier;
use crate::model::{ChatId, Clock, Identity, Timestamp};
use crate::observe::kinds::{Held, HotCounter};
use crate::observe::metrics::{self, Heal, Limit};
use crate::observe::trace::Origin;
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::connect_chat_response::Event;
use crate::ratelimiter::RateLimiter;
use crate::service::append::Settled;
use crate::service::{ChatService, Error, Joined};
use crate::transport::rarely::Rarely;

/// When a stream's first valid frame is due.
const FIRST_FRAME_DUE: Duration = Duration::from_secs(10);
/// How long a stream that has ended waits for its client to read on before it is reset.
const LINGER: Duration = Duration::from_secs(5);
/// Clients that are told to go come back after a random time up to this.
const RECONNECT_SPREAD: Duration = Duration::from_millis(500);

/// What sessions share.
pub struct SessionOptions {
    pub service: Arc<ChatService>,
    pub verifier: Arc<Verifier>,
    pub clock: Arc<dyn Clock>,
    pub limiter: Arc<dyn RateLimiter>,
    /// How long something may wait for a client that takes nothing; `None`: as long as it likes.
    pub send_due: Option<Duration>,
    /// Cancelled when the server begins to stop.
    pub draining: CancellationToken,
}

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the session waits for. While something that a frame asked for is under way, no further frame is read: frames act in
/// their order.
enum Done {
    Joined {
        chat_id: ChatId,
        follow: bool,
        result: Result<Joined, Error>,
    },
    /// A new token, whose check takes somebody else's answer.
    Refreshed(Result<Identity, Refused>),
    /// Where the joined chats stand, after the client has closed its side.
    Positions(Vec<(ChatId, Result<i64, Unread>)>),
}

struct JoinedChat {
    id: ChatId,
    cursor: Cursor,
    subscription: Subscription,
    receiver: BroadcastStream<Arc<Delivery>>,
}

/// What the client has closed, and what is left to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inbound {
    Open,
    /// The client has closed its side; sends are settled first.
    Closed,
    /// The chats' last positions are known or being read.
    Finishing,
}

/// In memory as it stands here: what each delivery looks at is together.
#[repr(C)]
pub struct Session<S> {
    outbox: Outbox,
    /// Of all that is waited for but deliveries.
    rarely: Rarely<Mutex<Shared>>,
    /// None of it was ready when it was looked at last.
    all_wait: bool,
    /// Whether there was no room, or too much was unsettled, when this was last looked at.
    was_full: bool,
    state: Inbound,
    follow: bool,
    draining: bool,
    chats: Vec<JoinedChat>,
    /// Which chat is looked at first: moves on, so that a busy one doesn't hide the others.
    turn: usize,
    /// Sends that are on their lane. With those whose settlement waits in the outbox: the stream's window.
    unsettled: usize,
    options: Arc<SessionOptions>,
    /// When to look after what waits: no earlier than it may be overdue.
    stall_at: Option<Instant>,

    identity: Identity,
    inbound: S,
    mailbox: Arc<Mailbox>,
    /// What becomes of sends; there is room for many, so a stream that has never sent has none.
    settled: Option<(mpsc::UnboundedSender<Settled>, mpsc::UnboundedReceiver<Settled>)>,
    task: Option<Task<Done>>,
    /// Evictions of the subscription that a join under way has made.
    early: Vec<(u64, Eviction)>,
    page: Option<Task<PageRead>>,
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
    expires_at: Instant,
    /// Until the first valid frame.
    first_frame_due: Option<Instant>,
    /// For the first of these times, and `stall_at`.
    alarm: Pin<Box<Sleep>>,
    /// The call's span: what the stream does for hours is linked to it, and not part of it.
    origin: Option<Origin>,
    _open: Held,
}

impl<S> Session<S>
where
    S: Stream<Item = Result<pb::ConnectChatRequest, Status>> + Unpin + Send + 'static,
{
    /// `leaving` is cancelled when the stream's connection, or the whole server, begins to stop.
    pub fn new(options: Arc<SessionOptions>, leaving: CancellationToken, identity: Identity, inbound: S, outbox: Outbox) -> Self {
        let (leaving, rarely) = (Box::pin(leaving.cancelled_owned()), outbox.rarely());
        let expires_at = deadline(options.clock.as_ref(), identity.expires_at);
        let first_frame_due = Instant::now() + FIRST_FRAME_DUE;
        Self {
            options,
            identity,
            inbound,
            outbox,
            mailbox: Arc::default(),
            // Most streams have one; else there would be room for four.
            chats: Vec::with_capacity(1),
            turn: 0,
            settled: None,
            unsettled: 0,
            task: None,
            early: Vec::new(),
            page: None,
            leaving,
            expires_at,
            first_frame_due: Some(first_frame_due),
            stall_at: None,
            alarm: Box::pin(sleep_until(expires_at.min(first_frame_due))),
            rarely,
            all_wait: false,
            state: Inbound::Open,
            follow: false,
            draining: false,
            was_full: false,
            origin: Origin::current(),
            _open: metrics::STREAMS_OPEN.hold(),
        }
    }

    /// Runs until the stream ends, and returns when its client has had its time to read the rest: then it is to be reset. A panic
    /// ends this stream, as INTERNAL, and nothing else.
    pub fn run(self) -> impl Future<Output = ()> {
        let outbox = self.outbox.clone();
        // The panic hook has logged it. Nothing of the session is used after it but the outbox, which is whole between any two calls.
        // A combinator and no async block, and behind a pointer: what an async function is given is kept twice, as that and as what it uses.
        AssertUnwindSafe(Box::new(self).live()).catch_unwind().then(move |ended| async move {
            if ended.is_err() {
                outbox.end(status::refused(Refused::Panicked));
                linger(&outbox).await;
            }
        })
    }

    async fn live(mut self: Box<Self>) {
        let status = loop {
            let input = poll_fn(|cx| self.poll_next(cx)).await;
            if let Err(end) = self.handle(input) {
                break end;
            }
            if let Some(end) = self.proceed() {
                break end;
            }
        };
        // A read that nobody polls any more would keep its connection from everyone else.
        self.page = None;
        self.task = None;
        self.chats.clear();
        self.outbox.end(status);
        if self.stalled() {
            metrics::limit_hit(Limit::SendTimeout);
            let user_id = self.identity.user_id.as_str();
            tracing::info!(user_id, reason = "SEND_STALLED", "a stream is reset: its client took nothing for too long");
            return;
        }
        linger(&self.outbox).await;
    }
}

impl<S> Session<S> {
    fn handle(&mut self, input: Input) -> Result<(), Status> {
        match input {
            Input::Draining => {
                self.draining = true;
                self.outbox.event(frames::going_away(rand::rng().random_range(Duration::ZERO..RECONNECT_SPREAD)));
            }
            Input::TokenExpired => return Err(status::refused(Refused::TokenExpired)),
            Input::FirstFrameLate => {
                metrics::limit_hit(Limit::FirstFrame);
                return Err(status::refused(Refused::FirstFrameLate));
            }
            Input::Evicted(evictions) => self.evicted(evictions),
            Input::Settled(settled) => self.settled(settled)?,
            Input::Done(done) => {
                self.task = None;
                self.done(done)?;
                self.early.clear();
            }
            Input::Page(key, page) => {
                self.page = None;
                self.page(key, page)?;
            }
            Input::Taken | Input::Delivered => {}
            Input::SendStalled => self.look_after_stall()?,
            Input::Frame(None) => self.state = Inbound::Closed,
            Input::Frame(Some(Ok(request))) => self.frame(request),
            Input::Frame(Some(Err(error))) => return Err(broken(error)),
        }
        Ok(())
    }

    /// Starts what is to be done next; `Some`: the stream has done everything that it was asked for.
    fn proceed(&mut self) -> Option<Status> {
        if self.draining && self.unsettled == 0 && self.task.is_none() {
            return Some(status::of_error(&Error::GoingAway));
        }
        if self.state == Inbound::Closed && !self.follow && self.unsettled == 0 && self.task.is_none() {
            self.state = Inbound::Finishing;
            self.task = Some(self.read_positions());
        }
        let (turn, chats) = (self.turn, self.chats.len());
        for at in (0..chats).map(|offset| (turn + offset) % chats) {
            // However many pages and streams there are, what is kept of a chat asks nobody.
            while self.chats[at].cursor.is_behind() && self.outbox.level().has_room && self.take_recent(at) {}
            if !self.chats[at].cursor.is_behind() {
                continue;
            }
            if !self.outbox.level().has_room {
                // A body in another task may make room before this is looked at again.
                self.was_full = true;
                break;
            }
            if self.page.is_none() {
                self.turn = at + 1;
                self.page = Some(self.read_page(&self.chats[at]));
            }
        }
        let is_finished = self.state == Inbound::Finishing && self.task.is_none() && self.chats.iter().all(|chat| chat.cursor.is_done());
        is_finished.then(|| Status::ok(""))
    }

    /// Whether something waits for the client, and it took nothing for too long.
    fn stalled(&self) -> bool {
        let (waiting_since, due) = (self.outbox.level().waiting_since, self.options.send_due);
        waiting_since.zip(due).is_some_and(|(since, due)| since.elapsed() >= due)
    }

    fn look_after_stall(&mut self) -> Result<(), Status> {
        if self.stalled() {
            return Err(status::refused(Refused::SendStalled));
        }
        self.stall_at = self.outbox.level().waiting_since.zip(self.options.send_due).map(|(since, due)| since + due);
        Ok(())
    }

    /// What is rejected has no place in the chat's order. Of a send whose outcome isn't known that can't be said: it ends the stream.
    fn settled(&mut self, settled: Settled) -> Result<(), Status> {
        self.unsettled -= 1;
        let Settled { chat_id, client_message_id, result } = settled;
        self.outbox.settle(match result {
            Ok(placed) => frames::acknowledged(chat_id, client_message_id, placed),
            Err(error @ Error::Unavailable) => return Err(status::of_error(&error)),
            Err(error) => rejected(pb::FrameKind::Send, chat_id.to_string(), client_message_id, &status::of_error(&error)),
        });
        Ok(())
    }

    fn done(&mut self, done: Done) -> Result<(), Status> {
        match done {
            Done::Joined { chat_id, follow, result: Ok(joined) } => {
                let last_sequence = joined.chat.last_sequence;
                self.follow |= follow;
                self.outbox.event(Event::Joined(pb::JoinedEvent { chat: Some(chat(&joined.chat)), last_sequence }));
                self.chats.push(JoinedChat {
                    id: chat_id,
                    cursor: Cursor::new(joined.cursor, joined.head),
                    subscription: joined.subscription,
                    receiver: BroadcastStream::new(joined.receiver),
                });
                let at = self.chats.len() - 1;
                let key = self.chats[at].subscription.key();
                if let Some((_, eviction)) = self.early.iter().find(|(early, _)| *early == key) {
                    self.remove(at, left_reason(*eviction));
                }
            }
            Done::Joined { chat_id, result: Err(error), .. } => {
                self.reject(pb::FrameKind::Join, chat_id.to_string(), String::new(), &status::of_error(&error));
            }
            Done::Refreshed(checked) => self.refreshed(checked),
            Done::Positions(positions) => {
                for (chat_id, position) in positions {
                    let Some(at) = self.find(chat_id) else { continue };
                    match position {
                        Ok(last_sequence) => self.chats[at].cursor.end_at(last_sequence),
                        Err(Unread::Lost(eviction)) => self.remove(at, left_reason(eviction)),
                        Err(Unread::Failed(error)) => return Err(status::of_error(&error)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether there is room for more.
    fn deliver(&mut self, at: usize, item: Result<Arc<Delivery>, BroadcastStreamRecvError>) -> bool {
        self.turn = at + 1;
        let cursor = &mut self.chats[at].cursor;
        match item {
            Ok(delivery) => {
                if cursor.receive(delivery.message.sequence) == Verdict::Deliver {
                    return hand_out(&self.outbox, &delivery, &metrics::DELIVERIES_LIVE);
                } else if cursor.is_behind() {
                    // A chat that was behind isn't looked at: it has just become it.
                    metrics::heal(Heal::Hole);
                }
            }
            Err(BroadcastStreamRecvError::Lagged(_)) => {
                metrics::heal(Heal::Lagged);
                cursor.lagged();
            }
        }
        true
    }

    fn evicted(&mut self, evictions: Vec<(ChatId, u64, Eviction)>) {
        for (chat_id, key, eviction) in evictions {
            match self.find(chat_id) {
                Some(at) if self.chats[at].subscription.key() == key => self.remove(at, left_reason(eviction)),
                // Of a join that is under way, which may have read the membership before, or of one that is over.
                _ if self.task.is_some() => self.early.push((key, eviction)),
                _ => {}
            }
        }
    }

    fn remove(&mut self, at: usize, reason: pb::LeftReason) {
        let chat = self.chats.swap_remove(at);
        self.outbox.event(frames::left(chat.id, reason));
    }

    fn find(&self, chat_id: ChatId) -> Option<usize> {
        self.chats.iter().position(|chat| chat.id == chat_id)
    }
}

/// As long as the client reads it gets the rest.
async fn linger(outbox: &Outbox) {
    while timeout(LINGER, poll_fn(|_| outbox.poll_taken())).await.is_ok() {}
}

/// Gives a message to the client, whichever way it came, and counts it. Returns whether there is room for more.
fn hand_out(outbox: &Outbox, delivery: &Delivery, count: &HotCounter) -> bool {
    count.add(1);
    if let Some(origin) = &delivery.origin {
        origin.delivered(delivery.message.sequence);
    }
    outbox.frame(delivery.encoded(frames::message_frame))
}

fn deadline(clock: &dyn Clock, at: Timestamp) -> Instant {
    // Timers reach two years; a token that lives longer outlives any connection. The clock is read first: never too early.
    let left = at.saturating_since(clock.now()).min(Duration::from_secs(365 * 24 * 3600));
    Instant::now() + left
}

fn left_reason(eviction: Eviction) -> pb::LeftReason {
    match eviction {
        Eviction::Removed => pb::LeftReason::Removed,
        Eviction::Deleted => pb::LeftReason::Deleted,
    }
}

/// A stream of frames that can't be read on.
fn broken(error: Status) -> Status {
    match error.code() {
        // What tonic says of bytes that are no message, and of too many.
        Code::Internal => status::refused(Refused::MalformedFrame),
        Code::OutOfRange => status::refused(Refused::RequestTooLarge),
        _ => error,
    }
}
