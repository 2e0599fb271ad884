//! What the server says on one of the checker's connections.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::pb::chat::v1::chat_service_client::ChatServiceClient;
use crate::pb::chat::v1::{ConnectChatRequest, ConnectChatResponse};

type Opening = Pin<Box<dyn Future<Output = Result<Response<Streaming<ConnectChatResponse>>, Status>> + Send>>;

/// A stream's events. The headers of its answer are not waited for before frames are sent: some proxies hold them back until something
/// follows them.
pub(super) enum Events {
    Opening(Opening),
    Open(Box<Streaming<ConnectChatResponse>>),
}

impl Events {
    /// Opens a stream, whose first answer must come within `due`.
    pub fn open(channel: Channel, request: Request<ReceiverStream<ConnectChatRequest>>, due: Duration) -> Self {
        Self::Opening(Box::pin(async move {
            let mut api = ChatServiceClient::new(channel);
            match timeout(due, api.connect_chat(request)).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded("the stream's first answer is late")),
            }
        }))
    }

    /// The next event; one without content says that the stream is open. Dropped while it waits, it loses nothing.
    pub async fn next(&mut self) -> Result<Option<ConnectChatResponse>, Status> {
        match self {
            Self::Opening(opening) => {
                let events = opening.await?.into_inner();
                *self = Self::Open(Box::new(events));
                Ok(Some(ConnectChatResponse { event: None }))
            }
            Self::Open(events) => events.message().await,
        }
    }
}
