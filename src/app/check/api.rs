//! Unary calls of the check itself.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use uuid::Uuid;

use super::CheckError;
use super::history::Record;
use super::message::plain;
use super::shared::Shared;
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::chat_service_client::ChatServiceClient;

/// How long one call may take, and the pause before it is tried again.
const CALL_DUE: Duration = Duration::from_secs(10);
const CALL_PAUSE: Duration = Duration::from_millis(300);
const PAGE_SIZE: i32 = 500;

/// Writes down every chat as ListMessages shows it, and returns the last sequences that GetChat names.
pub(super) async fn list(shared: &Shared, api: &Api) -> Result<Vec<i64>, CheckError> {
    let mut last_sequences = Vec::new();
    for (chat, chat_id) in shared.chats.iter().enumerate() {
        let mut after = 0;
        loop {
            let page = api.list_messages(chat_id, after).await?;
            for message in page.messages {
                after = after.max(message.sequence);
                shared.history.write(Record::Listed { chat, message: plain(message) });
            }
            if !page.has_more {
                break;
            }
        }
        last_sequences.push(api.last_sequence(chat_id).await?);
    }
    Ok(last_sequences)
}

/// Unary calls of the check itself, repeated while the server is away.
pub(super) struct Api {
    pub endpoints: Vec<Endpoint>,
    pub token: MetadataValue<Ascii>,
    pub patience: Duration,
}

impl Api {
    async fn call<T, F>(&self, name: &'static str, call: impl Fn(ChatServiceClient<Channel>) -> F) -> Result<T, CheckError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let began = Instant::now();
        let mut turn = 0;
        loop {
            let endpoint = &self.endpoints[turn % self.endpoints.len()];
            turn += 1;
            let status = match timeout(CALL_DUE, call(ChatServiceClient::new(endpoint.connect_lazy()))).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            // What tonic says of connections that fail, and what passes.
            let passes = matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled
            );
            if !passes {
                return Err(CheckError::Refused { call: name, code: status.code(), message: status.message().to_owned() });
            }
            if began.elapsed() > self.patience {
                return Err(CheckError::NoAnswer { call: name, message: status.message().to_owned() });
            }
            sleep(CALL_PAUSE).await;
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    pub async fn create_chat(&self, users: &[&str]) -> Result<String, CheckError> {
        let create = pb::CreateChatRequest {
            title: "chat-service check".into(),
            member_ids: users.iter().take(1000).map(|user| (*user).to_owned()).collect(),
            request_id: Uuid::new_v4().to_string(),
        };
        let created = self.call("CreateChat", async |mut api| api.create_chat(self.request(create.clone())).await).await?;
        Ok(created.chat.unwrap_or_default().chat_id)
    }

    async fn list_messages(&self, chat_id: &str, after: i64) -> Result<pb::ListMessagesResponse, CheckError> {
        let list =
            pb::ListMessagesRequest { chat_id: chat_id.into(), page_size: PAGE_SIZE, after_sequence: Some(after), before_sequence: None };
        self.call("ListMessages", async |mut api| api.list_messages(self.request(list.clone())).await).await
    }

    async fn last_sequence(&self, chat_id: &str) -> Result<i64, CheckError> {
        let get = pb::GetChatRequest { chat_id: chat_id.into() };
        let got = self.call("GetChat", async |mut api| api.get_chat(self.request(get.clone())).await).await?;
        Ok(got.chat.unwrap_or_default().last_sequence)
    }

    /// Removes the run's chats. One that stays is no reason to call the run failed.
    pub async fn delete_chats(&self, chats: &[String]) {
        for chat_id in chats {
            let delete = pb::DeleteChatRequest { chat_id: chat_id.clone() };
            let deleted = self.call("DeleteChat", async |mut api| api.delete_chat(self.request(delete.clone())).await).await;
            if let Err(error) = deleted {
                eprintln!("chat-service: check: chat {chat_id} stays: {error}");
            }
        }
    }
}
