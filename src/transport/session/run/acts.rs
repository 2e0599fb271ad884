//! What a client's frames ask for.

use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::Status;
use tracing::Instrument;

use super::{Done, Session, deadline};
use crate::converter::status::{self, Refused};
use crate::converter::{frames, validate};
use crate::interceptor::auth;
use crate::interceptor::token::Check;
use crate::model::{ChatId, Identity, limits};
use crate::observe::metrics::{self, Limit};
use crate::observe::trace::root_span;
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::connect_chat_request::Frame;
use crate::pb::chat::v1::connect_chat_response::Event;
use crate::ratelimiter::{self, RetryAfter};
use crate::service::{Error, SendMessage};

/// What a new token of a stream is checked for: the method that the first one was.
const ENDPOINT: &str = "/chat.v1.ChatService/ConnectChat";

impl<S> Session<S> {
    pub(super) fn frame(&mut self, request: pb::ConnectChatRequest) {
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
    pub(super) fn over_limit(&self, request: &pb::ConnectChatRequest) -> Option<Status> {
        let user = &self.identity.user_id;
        let check = match request.frame {
            Some(Frame::Send(_)) => ratelimiter::Check::Send(user),
            Some(Frame::Join(_) | Frame::Leave(_) | Frame::RefreshToken(_)) | None => ratelimiter::Check::Call(user),
        };
        let RetryAfter(wait) = self.options.limiter.check(check).err()?;
        Some(status::refused(Refused::RateLimited(wait)))
    }

    pub(super) fn join(&mut self, join: pb::JoinFrame, refusal: Option<Status>) {
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

    pub(super) fn leave(&mut self, leave: pb::LeaveFrame, refusal: Option<Status>) {
        let at =
            self.chat_of(&leave.chat_id, refusal).and_then(|id| self.find(id).ok_or_else(|| status::refused(Refused::StreamNotJoined)));
        match at {
            Ok(at) => self.remove(at, pb::LeftReason::Asked),
            Err(refusal) => self.reject(pb::FrameKind::Leave, leave.chat_id, String::new(), &refusal),
        }
    }

    pub(super) fn send(&mut self, send: pb::SendFrame, refusal: Option<Status>) {
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

    pub(super) fn refresh(&mut self, refresh: &pb::RefreshTokenFrame, refusal: Option<Status>) {
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
    pub(super) fn refreshed(&mut self, checked: Result<Identity, Refused>) {
        let same = |new: &Identity| new.user_id == self.identity.user_id && new.role.is_trusted() == self.identity.role.is_trusted();
        let refused = match checked {
            Ok(identity) if same(&identity) => {
                self.expires_at = deadline(self.options.clock.as_ref(), identity.expires_at);
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

    pub(super) fn reject(&self, frame: pb::FrameKind, chat_id: String, client_message_id: String, status: &Status) {
        self.outbox.event(rejected(frame, chat_id, client_message_id, status));
    }

    pub(super) fn chat_of(&self, chat_id: &str, refusal: Option<Status>) -> Result<ChatId, Status> {
        match refusal {
            Some(refusal) => Err(refusal),
            None => ChatId::parse(chat_id).ok_or_else(|| status::of_error(&Error::ChatNotFound)),
        }
    }
}

pub(super) fn rejected(frame: pb::FrameKind, chat_id: String, client_message_id: String, refusal: &Status) -> Event {
    Event::Rejected(pb::RejectedEvent { frame: frame.into(), chat_id, client_message_id, status: Some(status::to_message(refusal)) })
}
