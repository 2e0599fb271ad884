//! The RPCs: extract, convert, call, convert.

mod chats;
mod connect;
mod messages;

pub use connect::ConnectBody;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::session::SessionOptions;
use super::stream_task;
use crate::converter::status::{self, Refused};
use crate::converter::validate::{self, Validate};
use crate::model::{ChatId, Identity};
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::chat_service_server::ChatService;
use crate::service::Error;

/// The API's handlers.
#[derive(Clone)]
pub struct ChatApi {
    options: Arc<SessionOptions>,
}

impl ChatApi {
    pub fn new(options: SessionOptions) -> Self {
        Self { options: Arc::new(options) }
    }

    /// The caller and its valid message.
    fn open<T: Validate>(&self, request: Request<T>) -> Result<(Identity, T), Status> {
        let (_, extensions, message) = request.into_parts();
        let identity = extensions.get::<Identity>().cloned().ok_or_else(|| status::refused(Refused::TokenMissing))?;
        let violations = validate::violations(&message);
        if violations.is_empty() { Ok((identity, message)) } else { Err(status::invalid(&violations)) }
    }

    /// An answer whose client opens no window for it waits in memory: after the time for sends its stream is reset. (Streams of ConnectChat have
    /// their sessions for that, and HTTP/1 its socket.)
    fn to_be_taken<T>(&self, answer: Answer<T>) -> Answer<T> {
        if let Some(due) = self.options.send_due {
            stream_task::attach(Box::pin(tokio::time::sleep(due))).ok();
        }
        answer
    }

    /// What changes something waits for no other server once this one begins to stop.
    fn ensure_serving(&self) -> Result<(), Status> {
        if self.options.draining.is_cancelled() { Err(status::of_error(&Error::GoingAway)) } else { Ok(()) }
    }
}

fn chat_id(text: &str) -> Result<ChatId, Status> {
    ChatId::parse(text).ok_or_else(|| status::of_error(&Error::ChatNotFound))
}

fn invalid(field: &'static str, description: &'static str) -> Status {
    status::of_error(&Error::Invalid { field, description })
}

/// Status of an error, for `map_err`.
fn failed(error: Error) -> Status {
    status::of_error(&error)
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ChatService for ChatApi {
    type ConnectChatStream = connect::NoStream;

    async fn create_chat(&self, request: Request<pb::CreateChatRequest>) -> Answer<pb::CreateChatResponse> {
        self.to_be_taken(self.create(request).await)
    }

    async fn get_chat(&self, request: Request<pb::GetChatRequest>) -> Answer<pb::GetChatResponse> {
        self.to_be_taken(self.get(request).await)
    }

    async fn list_chats(&self, request: Request<pb::ListChatsRequest>) -> Answer<pb::ListChatsResponse> {
        self.to_be_taken(self.list(request).await)
    }

    async fn delete_chat(&self, request: Request<pb::DeleteChatRequest>) -> Answer<pb::DeleteChatResponse> {
        self.to_be_taken(self.delete(request).await)
    }

    async fn add_members(&self, request: Request<pb::AddMembersRequest>) -> Answer<pb::AddMembersResponse> {
        self.to_be_taken(self.add(request).await)
    }

    async fn remove_member(&self, request: Request<pb::RemoveMemberRequest>) -> Answer<pb::RemoveMemberResponse> {
        self.to_be_taken(self.remove(request).await)
    }

    async fn send_message(&self, request: Request<pb::SendMessageRequest>) -> Answer<pb::SendMessageResponse> {
        self.to_be_taken(self.send(request).await)
    }

    async fn list_messages(&self, request: Request<pb::ListMessagesRequest>) -> Answer<pb::ListMessagesResponse> {
        self.to_be_taken(self.history(request).await)
    }

    async fn connect_chat(&self, request: Request<tonic::Streaming<pb::ConnectChatRequest>>) -> Answer<Self::ConnectChatStream> {
        self.connect(request)
    }
}
