//! Messages.

use tonic::{Request, Response};
use tracing::Instrument;

use super::{Answer, ChatApi, chat_id, failed, invalid};
use crate::converter::message;
use crate::model::{Bound, limits};
use crate::observe::trace::child_span;
use crate::pb::chat::v1 as pb;
use crate::service::SendMessage;

impl ChatApi {
    pub(super) async fn send(&self, request: Request<pb::SendMessageRequest>) -> Answer<pb::SendMessageResponse> {
        let (caller, request) = self.open(request)?;
        self.ensure_serving()?;
        let send = SendMessage { chat_id: chat_id(&request.chat_id)?, client_message_id: request.client_message_id, text: request.text };
        let span = child_span!("service.send_message", chat.id = %send.chat_id);
        let stored = self.options.service.send_message(&caller, send).instrument(span).await.map_err(failed)?;
        Ok(Response::new(pb::SendMessageResponse { message: Some(message(stored)) }))
    }

    pub(super) async fn history(&self, request: Request<pb::ListMessagesRequest>) -> Answer<pb::ListMessagesResponse> {
        let (caller, request) = self.open(request)?;
        let bound = match (request.after_sequence, request.before_sequence) {
            (None, None) => Bound::Latest,
            (Some(after), None) => Bound::After(after),
            (None, Some(before)) => Bound::Before(before),
            (Some(_), Some(_)) => return Err(invalid("before_sequence", "must not be set together with after_sequence")),
        };
        let size = limits::page_size(request.page_size);
        let list = self.options.service.list_messages(&caller, chat_id(&request.chat_id)?, bound, size);
        let page = list.instrument(child_span!("service.list_messages")).await.map_err(failed)?;
        Ok(Response::new(pb::ListMessagesResponse { messages: page.messages.into_iter().map(message).collect(), has_more: page.has_more }))
    }
}
