//! The loop of a connected stream.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status};
use tracing::Instrument;

use super::outbox::Outbox;
use super::state::{Cursor, Verdict};
use crate::broker::{Delivery, Eviction, Mailbox, SharedRead, Subscription};
use crate::converter::status::{self, Refused};
use crate::converter::{chat, frames, validate};
use crate::interceptor::auth;
use crate::interceptor::token::{Check, Verifier};
use crate::model::{ChatId, Clock, Identity, Page, Timestamp, limits};
use crate::observe::kinds::Held;
use crate::observe::metrics::{self, Heal, Limit};
use crate::observe::trace::{Origin, root_span};
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::connect_chat_request::Frame;
use crate::pb::chat::v1::connect_chat_response::Event;
use crate::ratelimiter::{self, RateLimiter, RetryAfter};
use crate::service::append::Settled;
use crate::service::{ChatService, Error, Joined, SendMessage};

/// When a stream's first valid frame is due.
const FIRST_FRAME_DUE: Duration = Duration::from_secs(10);
/// How long a stream that has ended waits for its client to read on before it is reset.
const LINGER: Duration = Duration::from_secs(5);
/// Tries of a read that a stream can't go on without, with growing pauses between them: about 20 s in all.
const READ_TRIES: u32 = 12;
const READ_PAUSE: Duration = Duration::from_millis(50);
const READ_PAUSE_MAX: Duration = Duration::from_secs(3);
/// What a new token of a stream is checked for: the method that the first one was.
const ENDPOINT: &str = "/chat.v1.ChatService/ConnectChat";
/// Clients that are told to go come back after a random time up to this.
const RECONNECT_SPREAD: Duration = Duration::from_millis(500);

/// What sessions share.
#[derive(Clone)]
pub struct SessionOptions {
    pub service: Arc<ChatService>,
    pub verifier: Arc<Verifier>,
    pub clock: Arc<dyn Clock>,
    pub limiter: Arc<dyn RateLimiter>,
    /// How long something may wait for a client that takes nothing; `None`: as long as it likes.
    pub send_due: Option<Duration>,
    /// Cancelled when the stream's connection, or the whole server, begins to stop.
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

/// Why a joined chat could not be read.
enum Unread {
    /// It isn't the stream's any more.
    Lost(Eviction),
    Failed(Error),
}

/// Of the subscription with this key.
type PageRead = (u64, Result<Option<Read>, Unread>);

/// What was read of a chat, and where that stood.
struct Read {
    deliveries: Vec<Arc<Delivery>>,
    last_sequence: i64,
}

struct JoinedChat {
    id: ChatId,
    cursor: Cursor,
    subscription: Subscription,
    receiver: BroadcastStream<Arc<Delivery>>,
}

/// What the loop woke up for.
enum Input {
    Draining,
    TokenExpired,
    FirstFrameLate,
    Evicted(Vec<(ChatId, u64, Eviction)>),
    Settled(Settled),
    Done(Done),
    /// Of the subscription with this key.
    Page(u64, Result<Option<Read>, Unread>),
    Taken,
    SendStalled,
    Frame(Option<Result<pb::ConnectChatRequest, Status>>),
    /// Something was delivered that there is something to do behind.
    Delivered,
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

pub struct Session<S> {
    options: SessionOptions,
    identity: Identity,
    inbound: S,
    outbox: Outbox,
    mailbox: Arc<Mailbox>,
    chats: Vec<JoinedChat>,
    /// Which chat is looked at first: moves on, so that a busy one doesn't hide the others.
    turn: usize,
    /// What becomes of sends; there is room for many, so a stream that has never sent has none.
    settled: Option<(mpsc::UnboundedSender<Settled>, mpsc::UnboundedReceiver<Settled>)>,
    /// Sends that are on their lane. With those whose settlement waits in the outbox: the stream's window.
    unsettled: usize,
    task: Option<Task<Done>>,
    /// Evictions of the subscription that a join under way has made.
    early: Vec<(u64, Eviction)>,
    page: Option<Task<PageRead>>,
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
    expiry: Pin<Box<Sleep>>,
    /// Until the first valid frame.
    first_frame_due: Option<Pin<Box<Sleep>>>,
    /// Looks after what waits: no earlier than it may be overdue, so it is seldom set.
    stall: Pin<Box<Sleep>>,
    state: Inbound,
    follow: bool,
    draining: bool,
    /// Whether there was no room, or too much was unsettled, when this was last looked at.
    was_full: bool,
    /// The call's span: what the stream does for hours is linked to it, and not part of it.
    origin: Option<Origin>,
    _open: Held,
}

impl<S> Session<S>
where
    S: Stream<Item = Result<pb::ConnectChatRequest, Status>> + Unpin + Send + 'static,
{
    pub fn new(options: SessionOptions, identity: Identity, inbound: S, outbox: Outbox) -> Self {
        let leaving = Box::pin(options.draining.clone().cancelled_owned());
        let expiry = Box::pin(sleep_until(deadline(options.clock.as_ref(), identity.expires_at)));
        Self {
            options,
            identity,
            inbound,
            outbox,
            mailbox: Arc::default(),
            chats: Vec::new(),
            turn: 0,
            settled: None,
            unsettled: 0,
            task: None,
            early: Vec::new(),
            page: None,
            leaving,
            expiry,
            first_frame_due: Some(Box::pin(sleep(FIRST_FRAME_DUE))),
            stall: Box::pin(sleep(Duration::ZERO)),
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
        // A combinator and no async block, which would keep room for the session twice.
        AssertUnwindSafe(self.live()).catch_unwind().then(move |ended| async move {
            if ended.is_err() {
                outbox.end(status::refused(Refused::Panicked));
                linger(&outbox).await;
            }
        })
    }

    async fn live(mut self) {
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

    /// Whatever comes first. What must happen whether or not the client reads stands first and asks for no room. All that is waited for keeps
    /// its place among those to be woken from one call to the next.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        let level = self.outbox.level();
        let room = level.has_room;
        let window = self.unsettled + level.settled < limits::UNSETTLED_SENDS_PER_STREAM;
        if !self.draining && self.leaving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Input::Draining);
        }
        if self.expiry.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Input::TokenExpired);
        }
        if poll_optional(&mut self.first_frame_due, cx).is_ready() {
            return Poll::Ready(Input::FirstFrameLate);
        }
        if level.waiting_since.is_some() && self.options.send_due.is_some() && self.stall.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Input::SendStalled);
        }
        if let Poll::Ready(evictions) = self.mailbox.poll_take(cx) {
            return Poll::Ready(Input::Evicted(evictions));
        }
        if room
            && let Some((_, settled)) = &mut self.settled
            && let Poll::Ready(Some(settled)) = settled.poll_recv(cx)
        {
            return Poll::Ready(Input::Settled(settled));
        }
        // Whether or not there is room: a read that isn't polled would keep its connection from everyone else.
        if let Poll::Ready(done) = poll_optional(&mut self.task, cx) {
            return Poll::Ready(Input::Done(done));
        }
        if let Poll::Ready((key, page)) = poll_optional(&mut self.page, cx) {
            return Poll::Ready(Input::Page(key, page));
        }
        let full = !room || !window;
        // Also where there is room by now: what was put off for want of it is to be begun.
        if (std::mem::replace(&mut self.was_full, full) || full) && self.outbox.poll_taken(cx).is_ready() {
            return Poll::Ready(Input::Taken);
        }
        if room
            && window
            && self.state == Inbound::Open
            && self.task.is_none()
            && let Poll::Ready(frame) = self.inbound.poll_next_unpin(cx)
        {
            return Poll::Ready(Input::Frame(frame));
        }
        if room { self.poll_deliveries(cx) } else { Poll::Pending }
    }

    /// Delivers what there is. All else was looked at in this turn, and isn't again for each message.
    fn poll_deliveries(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        let mut delivered = false;
        while let Poll::Ready((at, item)) = poll_chats(&mut self.chats, self.turn, cx) {
            delivered = true;
            self.deliver(at, item);
            if self.chats[at].cursor.is_behind() || self.state == Inbound::Finishing || !self.outbox.level().has_room {
                return Poll::Ready(Input::Delivered);
            }
        }
        // It wasn't looked at where nothing waited before.
        if delivered && self.options.send_due.is_some() && self.stall.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Input::SendStalled);
        }
        Poll::Pending
    }

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
        if self.state == Inbound::Finishing && self.task.is_none() && self.chats.iter().all(|chat| chat.cursor.is_done()) {
            return Some(Status::ok(""));
        }
        while self.page.is_none() {
            if !self.outbox.level().has_room {
                // A body in another task may make room before this is looked at again.
                self.was_full = true;
                break;
            }
            let turn = self.turn.min(self.chats.len());
            let Some(at) = (turn..self.chats.len()).chain(0..turn).find(|at| self.chats[*at].cursor.is_behind()) else { break };
            self.turn = (self.turn + 1) % self.chats.len();
            if !self.take_recent(at) {
                self.page = Some(self.read_page(&self.chats[at]));
            }
        }
        None
    }

    fn frame(&mut self, request: pb::ConnectChatRequest) {
        let violations = validate::violations(&request);
        let valid = violations.is_empty() && request.frame.is_some();
        // Counted whether or not it is valid.
        let refusal = self.over_limit(&request).or_else(|| (!violations.is_empty()).then(|| status::invalid(&violations)));
        match request.frame {
            None => self.reject(pb::FrameKind::Unspecified, String::new(), String::new(), &status::refused(Refused::UnknownFrame)),
            Some(Frame::Join(join)) => self.join(join, refusal),
            Some(Frame::Leave(leave)) => self.leave(leave, refusal),
            Some(Frame::Send(send)) => self.send(send, refusal),
            Some(Frame::RefreshToken(refresh)) => self.refresh(&refresh, refusal),
        }
        if valid {
            self.first_frame_due = None;
        }
    }

    /// Sends count like the call SendMessage, all other frames like other calls.
    fn over_limit(&self, request: &pb::ConnectChatRequest) -> Option<Status> {
        let user = &self.identity.user_id;
        let check = match request.frame {
            Some(Frame::Send(_)) => ratelimiter::Check::Send(user),
            Some(Frame::Join(_) | Frame::Leave(_) | Frame::RefreshToken(_)) | None => ratelimiter::Check::Call(user),
        };
        let RetryAfter(wait) = self.options.limiter.check(check).err()?;
        Some(status::refused(Refused::RateLimited(wait)))
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
        if let Some((since, due)) = self.outbox.level().waiting_since.zip(self.options.send_due) {
            self.stall.as_mut().reset(since + due);
        }
        Ok(())
    }

    fn join(&mut self, join: pb::JoinFrame, refusal: Option<Status>) {
        let chat_id = match self.chat_of(&join.chat_id, refusal) {
            Ok(chat_id) if self.find(chat_id).is_some() => Err(status::refused(Refused::StreamJoined)),
            Ok(_) if self.chats.len() >= limits::CHATS_PER_STREAM => {
                metrics::limit_hit(Limit::ChatsPerStream);
                Err(status::refused(Refused::TooManyChats))
            }
            found => found,
        };
        match chat_id {
            Ok(chat_id) => {
                let (service, identity, mailbox) = (Arc::clone(&self.options.service), self.identity.clone(), Arc::clone(&self.mailbox));
                let (after, follow) = (join.after_sequence, join.follow);
                let span = root_span!(self.origin.as_ref(), "stream.join", chat.id = %chat_id);
                let work = async move {
                    let result = service.join(&identity, chat_id, after, mailbox).await;
                    Done::Joined { chat_id, follow, result }
                };
                self.task = Some(Box::pin(work.instrument(span)));
            }
            Err(refusal) => self.reject(pb::FrameKind::Join, join.chat_id, String::new(), &refusal),
        }
    }

    fn leave(&mut self, leave: pb::LeaveFrame, refusal: Option<Status>) {
        let at =
            self.chat_of(&leave.chat_id, refusal).and_then(|id| self.find(id).ok_or_else(|| status::refused(Refused::StreamNotJoined)));
        match at {
            Ok(at) => self.remove(at, pb::LeftReason::Asked),
            Err(refusal) => self.reject(pb::FrameKind::Leave, leave.chat_id, String::new(), &refusal),
        }
    }

    fn send(&mut self, send: pb::SendFrame, refusal: Option<Status>) {
        let refusal = refusal.or_else(|| self.draining.then(|| status::of_error(&Error::GoingAway)));
        match self.chat_of(&send.chat_id, refusal) {
            Ok(chat_id) => {
                self.unsettled += 1;
                let message = SendMessage { chat_id, client_message_id: send.client_message_id, text: send.text };
                // It ends when the message is settled.
                let span = root_span!(self.origin.as_ref(), "stream.send", chat.id = %chat_id);
                let (settled, _) = self.settled.get_or_insert_with(mpsc::unbounded_channel);
                span.in_scope(|| self.options.service.submit_message(&self.identity, message, settled.clone()));
            }
            Err(refusal) => self.reject(pb::FrameKind::Send, send.chat_id, send.client_message_id, &refusal),
        }
    }

    fn refresh(&mut self, refresh: &pb::RefreshTokenFrame, refusal: Option<Status>) {
        if let Some(refusal) = refusal {
            return self.reject(pb::FrameKind::RefreshToken, String::new(), String::new(), &refusal);
        }
        match self.options.verifier.check(&refresh.token, ENDPOINT) {
            Check::Done(checked) => self.refreshed(checked),
            Check::Wait(check) => {
                let span = root_span!(self.origin.as_ref(), "stream.refresh_token");
                self.task = Some(Box::pin(async move { Done::Refreshed(check.await) }.instrument(span)));
            }
        }
    }

    /// Another role of the same kind counts from here on: for sends at once, and what is joined may be read with either. One of
    /// the other kind would leave chats joined by a right that is gone, or withhold what members lose: that takes a new stream.
    fn refreshed(&mut self, checked: Result<Identity, Refused>) {
        let same = |new: &Identity| new.user_id == self.identity.user_id && new.role.is_trusted() == self.identity.role.is_trusted();
        let refused = match checked {
            Ok(identity) if same(&identity) => {
                self.expiry.as_mut().reset(deadline(self.options.clock.as_ref(), identity.expires_at));
                self.outbox.event(frames::token_refreshed(identity.expires_at));
                self.identity = identity;
                auth::count(None);
                return;
            }
            Ok(_) => Refused::TokenOfAnother,
            Err(refused) => refused,
        };
        auth::count(Some(refused));
        self.reject(pb::FrameKind::RefreshToken, String::new(), String::new(), &status::refused(refused));
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

    fn page(&mut self, key: u64, page: Result<Option<Read>, Unread>) -> Result<(), Status> {
        // The chat may have been left, and even joined again, while the page was read.
        let Some(at) = self.chats.iter().position(|chat| chat.subscription.key() == key) else { return Ok(()) };
        let chat_id = self.chats[at].id;
        let read = match page {
            Ok(Some(read)) => read,
            // Another stream has read it.
            Ok(None) => return Ok(()),
            Err(Unread::Lost(eviction)) => {
                self.remove(at, left_reason(eviction));
                return Ok(());
            }
            Err(Unread::Failed(error)) => return Err(status::of_error(&error)),
        };
        let cursor = &mut self.chats[at].cursor;
        if !cursor.is_behind() {
            return Ok(());
        }
        metrics::CATCH_UP_PAGES.one();
        for delivery in &read.deliveries {
            match cursor.read(delivery.message.sequence) {
                Some(Verdict::Deliver) => {
                    metrics::DELIVERIES_CAUGHT_UP.add(1);
                    self.outbox.frame(delivery.encoded(frames::message_frame));
                }
                Some(Verdict::Drop) => {}
                None => return Err(unhealable(chat_id, delivery.message.sequence)),
            }
        }
        if read.deliveries.is_empty() && cursor.delivered() < read.last_sequence {
            return Err(unhealable(chat_id, read.last_sequence));
        }
        cursor.page_done(read.last_sequence);
        Ok(())
    }

    /// Delivers to a chat that is behind what the process has kept of it, as far as there is room. Returns whether it had what comes next.
    fn take_recent(&mut self, at: usize) -> bool {
        let chat = &mut self.chats[at];
        let Some(recent) = chat.subscription.recent(chat.cursor.delivered()) else { return false };
        for delivery in &recent {
            if !self.outbox.level().has_room {
                return true;
            }
            if chat.cursor.read(delivery.message.sequence) == Some(Verdict::Deliver) {
                metrics::DELIVERIES_RECENT.add(1);
                self.outbox.frame(delivery.encoded(frames::message_frame));
                if let Some(origin) = &delivery.origin {
                    origin.delivered(delivery.message.sequence);
                }
            }
        }
        if let Some(last) = recent.last() {
            chat.cursor.caught_up(last.message.sequence);
        }
        true
    }

    fn deliver(&mut self, at: usize, item: Result<Arc<Delivery>, BroadcastStreamRecvError>) {
        self.turn = at + 1;
        let cursor = &mut self.chats[at].cursor;
        match item {
            Ok(delivery) => {
                if cursor.receive(delivery.message.sequence) == Verdict::Deliver {
                    metrics::DELIVERIES_LIVE.add(1);
                    self.outbox.frame(delivery.encoded(frames::message_frame));
                    if let Some(origin) = &delivery.origin {
                        origin.delivered(delivery.message.sequence);
                    }
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

    fn reject(&self, frame: pb::FrameKind, chat_id: String, client_message_id: String, status: &Status) {
        self.outbox.event(rejected(frame, chat_id, client_message_id, status));
    }

    fn chat_of(&self, chat_id: &str, refusal: Option<Status>) -> Result<ChatId, Status> {
        match refusal {
            Some(refusal) => Err(refusal),
            None => ChatId::parse(chat_id).ok_or_else(|| status::of_error(&Error::ChatNotFound)),
        }
    }

    fn find(&self, chat_id: ChatId) -> Option<usize> {
        self.chats.iter().position(|chat| chat.id == chat_id)
    }

    fn read_page(&self, chat: &JoinedChat) -> Task<PageRead> {
        let (chat_id, key, delivered) = (chat.id, chat.subscription.key(), chat.cursor.delivered());
        let (service, identity) = (Arc::clone(&self.options.service), self.identity.clone());
        let span = root_span!(self.origin.as_ref(), "stream.catch_up", chat.id = %chat_id, chat.after_sequence = delivered);
        let share = chat.subscription.share_read(delivered);
        let read = async move {
            let read = persist(|| read_once(share(), &service, &identity, chat_id, delivered)).await;
            (key, or_why(read, &service, chat_id).await)
        };
        Box::pin(read.instrument(span))
    }

    fn read_positions(&self) -> Task<Done> {
        let (service, identity) = (Arc::clone(&self.options.service), self.identity.clone());
        let ids: Vec<ChatId> = self.chats.iter().map(|chat| chat.id).collect();
        Box::pin(async move {
            let mut positions = Vec::with_capacity(ids.len());
            for id in ids {
                let position = persist(|| service.last_sequence(&identity, id)).await;
                positions.push((id, or_why(position, &service, id).await));
            }
            Done::Positions(positions)
        })
    }
}

/// Reads a page, unless another stream has just read it.
async fn read_once(
    mut share: SharedRead,
    service: &ChatService,
    identity: &Identity,
    chat_id: ChatId,
    delivered: i64,
) -> Result<Option<Read>, Error> {
    if share.was_done_by_another().await {
        return Ok(None);
    }
    let Page { messages, last_sequence, .. } = service.catch_up(identity, chat_id, delivered).await?;
    let deliveries: Vec<_> = messages.into_iter().map(Delivery::new).collect();
    share.keep(&deliveries);
    Ok(Some(Read { deliveries, last_sequence }))
}

/// A chat that this caller had and doesn't find any more: was it deleted, or the caller removed?
async fn or_why<T>(read: Result<T, Error>, service: &ChatService, chat_id: ChatId) -> Result<T, Unread> {
    match read {
        Ok(found) => Ok(found),
        Err(Error::ChatNotFound) => Err(Unread::Lost(service.why_lost(chat_id).await)),
        Err(error) => Err(Unread::Failed(error)),
    }
}

/// As long as the client reads it gets the rest.
async fn linger(outbox: &Outbox) {
    while timeout(LINGER, poll_fn(|cx| outbox.poll_taken(cx))).await.is_ok() {}
}

/// Repeats a read while the store is away: what the stream has can't be told otherwise.
async fn persist<T, F: Future<Output = Result<T, Error>>>(read: impl Fn() -> F) -> Result<T, Error> {
    let mut pause = READ_PAUSE;
    for _ in 1..READ_TRIES {
        match read().await {
            Err(Error::Unavailable) => {}
            done => return done,
        }
        sleep(pause).await;
        pause = (pause * 2).min(READ_PAUSE_MAX);
    }
    read().await
}

fn poll_optional<F: Future + Unpin>(work: &mut Option<F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    work.as_mut().map_or(Poll::Pending, |work| work.poll_unpin(cx))
}

/// The next item of a chat that isn't behind, beginning with chat `turn`.
fn poll_chats(
    chats: &mut [JoinedChat],
    turn: usize,
    cx: &mut Context<'_>,
) -> Poll<(usize, Result<Arc<Delivery>, BroadcastStreamRecvError>)> {
    for offset in 0..chats.len() {
        let at = (turn + offset) % chats.len();
        // A chat that is behind isn't looked at: its channel overwrites, and the repository has it all.
        if chats[at].cursor.is_behind() {
            continue;
        }
        if let Poll::Ready(Some(item)) = chats[at].receiver.poll_next_unpin(cx) {
            return Poll::Ready((at, item));
        }
    }
    Poll::Pending
}

fn rejected(frame: pb::FrameKind, chat_id: String, client_message_id: String, refusal: &Status) -> Event {
    Event::Rejected(pb::RejectedEvent { frame: frame.into(), chat_id, client_message_id, status: Some(status::to_message(refusal)) })
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

fn unhealable(chat_id: ChatId, sequence: i64) -> Status {
    tracing::error!(%chat_id, sequence, "the store lacks messages before this one");
    status::refused(Refused::Unhealable)
}
