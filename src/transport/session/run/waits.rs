//! What the loop waits for, and in which order it looks.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::Status;

use super::reads::{Read, Unread};
use super::{Done, Inbound, JoinedChat, Session};
use crate::broker::{Delivery, Eviction};
use crate::model::{ChatId, limits};
use crate::pb::chat::v1 as pb;
use crate::service::append::Settled;
use crate::transport::session::outbox::Level;

/// What the loop woke up for.
pub(super) enum Input {
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

impl<S> Session<S>
where
    S: Stream<Item = Result<pb::ConnectChatRequest, Status>> + Unpin,
{
    /// Whatever comes first. What must happen whether or not the client reads stands first and asks for no room. All that is waited for keeps
    /// its place among those to be woken from one call to the next.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        let level = self.outbox.level();
        let full = !level.has_room || self.unsettled + level.settled >= limits::UNSETTLED_SENDS_PER_STREAM;
        let is_due = self.rarely.is_due(cx);
        if is_due || !self.all_wait || full || self.was_full {
            self.all_wait = false;
            let waker = self.rarely.waker();
            if let Poll::Ready(input) = self.poll_rare(level, full, &mut Context::from_waker(&waker)) {
                return Poll::Ready(input);
            }
            self.all_wait = true;
        }
        if !level.has_room {
            return Poll::Pending;
        }
        let deliveries = self.poll_deliveries(cx);
        self.all_wait &= deliveries.is_pending();
        deliveries
    }

    /// All but deliveries. Whoever is busy delivering does without it until something of it is woken.
    fn poll_rare(&mut self, level: Level, full: bool, cx: &mut Context<'_>) -> Poll<Input> {
        if !self.draining && self.leaving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Input::Draining);
        }
        if self.stall_at.is_none() && level.waiting_since.is_some() {
            self.stall_at = self.options.send_due.map(|due| Instant::now() + due);
        }
        if let Poll::Ready(alarm) = self.poll_alarm(cx) {
            return Poll::Ready(alarm);
        }
        if let Poll::Ready(evictions) = self.mailbox.poll_take(cx) {
            return Poll::Ready(Input::Evicted(evictions));
        }
        if level.has_room
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
        // Also where there is room by now: what was put off for want of it is to be begun.
        if (std::mem::replace(&mut self.was_full, full) || full) && self.outbox.poll_taken().is_ready() {
            return Poll::Ready(Input::Taken);
        }
        if !full
            && self.state == Inbound::Open
            && self.task.is_none()
            && let Poll::Ready(frame) = self.inbound.poll_next_unpin(cx)
        {
            return Poll::Ready(Input::Frame(frame));
        }
        Poll::Pending
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        let next = [self.first_frame_due, self.stall_at].into_iter().flatten().fold(self.expires_at, Instant::min);
        if self.alarm.deadline() != next {
            self.alarm.as_mut().reset(next);
        }
        ready!(self.alarm.as_mut().poll(cx));
        Poll::Ready(match next {
            at if at == self.expires_at => Input::TokenExpired,
            at if self.first_frame_due == Some(at) => Input::FirstFrameLate,
            _ => Input::SendStalled,
        })
    }

    /// Delivers what there is.
    fn poll_deliveries(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        let mut delivered = false;
        while let Poll::Ready((at, item)) = poll_chats(&mut self.chats, self.turn, cx) {
            delivered = true;
            let has_room = self.deliver(at, item);
            if !has_room || self.chats[at].cursor.is_behind() || self.state == Inbound::Finishing {
                return Poll::Ready(Input::Delivered);
            }
        }
        // Something waits now that somebody must look after.
        if delivered && self.options.send_due.is_some() && self.stall_at.is_none() { Poll::Ready(Input::Delivered) } else { Poll::Pending }
    }
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
