//! Clients of the API: their tokens, their connections, and the requests that tests make most.

use std::path::Path;
use std::time::Duration;

use chat_service::app::token;
use chat_service::pb::chat::v1::chat_service_client::ChatServiceClient;
use chat_service::pb::chat::v1::*;
use tonic::codegen::InterceptedService;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::{Ground, SECRET, within};

pub fn mint(sub: &str, roles: &[&str]) -> String {
    mint_for(sub, roles, Duration::from_secs(3600))
}

pub fn mint_for(sub: &str, roles: &[&str], ttl: Duration) -> String {
    let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
    token::sign(SECRET.as_bytes(), sub, &roles, ttl, None, None).unwrap()
}

/// Puts a token on every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<tonic::metadata::Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub type Client = ChatServiceClient<InterceptedService<Channel, Bearer>>;

pub fn endpoint(ca: &Path, port: u16) -> Endpoint {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(ca).unwrap()));
    Channel::from_shared(format!("https://localhost:{port}")).unwrap().tls_config(tls).unwrap()
}

/// A connection to a server on this ground.
pub async fn channel(ground: &Ground, port: u16) -> Channel {
    within(endpoint(&ground.path("certs/ca.pem"), port).connect()).await.unwrap()
}

pub async fn client(ground: &Ground, port: u16, token: &str) -> Client {
    with_token(channel(ground, port).await, token)
}

pub fn with_token(channel: Channel, token: &str) -> Client {
    ChatServiceClient::with_interceptor(channel, Bearer(format!("Bearer {token}").parse().unwrap()))
}

/// The stable reason that a status carries.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// A new chat's id.
pub async fn new_chat(client: &mut Client, members: &[&str]) -> String {
    let request = CreateChatRequest {
        title: "Tea".into(),
        member_ids: members.iter().map(|id| (*id).to_owned()).collect(),
        request_id: String::new(),
    };
    client.create_chat(request).await.unwrap().into_inner().chat.unwrap().chat_id
}

pub fn send_request(chat_id: &str, id: &str, text: &str) -> SendMessageRequest {
    SendMessageRequest { chat_id: chat_id.into(), text: text.into(), client_message_id: id.into() }
}

/// Sends so many messages, whose ids are 1, 2, 3, … as their sequences in a new chat.
pub async fn fill(client: &mut Client, chat_id: &str, messages: i64) {
    for number in 1..=messages {
        client.send_message(send_request(chat_id, &number.to_string(), "x")).await.unwrap();
    }
}

pub fn get_request(chat_id: &str) -> GetChatRequest {
    GetChatRequest { chat_id: chat_id.into() }
}

/// The first page of chats.
pub fn list_request() -> ListChatsRequest {
    ListChatsRequest { page_size: 0, page_token: String::new() }
}

/// The latest page of messages.
pub fn history_request(chat_id: &str) -> ListMessagesRequest {
    ListMessagesRequest { chat_id: chat_id.into(), page_size: 0, after_sequence: None, before_sequence: None }
}

pub fn remove_request(chat_id: &str, user_id: &str) -> RemoveMemberRequest {
    RemoveMemberRequest { chat_id: chat_id.into(), user_id: user_id.into() }
}
