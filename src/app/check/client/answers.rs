//! What the server says to a client: written down, and acted on.

use tonic::Code;
use tonic_types::RpcStatusExt;

use super::line::Line;
use super::{BACKOFF, Client, Ended};
use crate::app::check::CheckError;
use crate::app::check::history::Record;
use crate::app::check::message::{micros, plain};
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::connect_chat_response::Event;

impl Client {
    /// Writes an event down and acts on it; how the connection has ended, where it has.
    pub(super) fn event(&mut self, line: &mut Line, event: Event) -> Result<Option<Ended>, CheckError> {
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
        let probe = line.answered(&id);
        if !probe && self.sends.settle(&id) {
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
        let probe = id.as_ref().is_some_and(|id| line.answered(id));
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
                if !probe {
                    self.sends.put_off(&id, pause.unwrap_or(BACKOFF));
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
