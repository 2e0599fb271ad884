//! Bare tonic, the ceiling: the same RPCs by tonic's own server, TLS and encoder. A send is answered at once with the next
//! sequence, and goes through the chat's tokio broadcast; nothing is stored, nobody is asked who they are, and a reader that falls
//! behind loses messages without a word.

use std::collections::HashMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use futures_util::StreamExt;
use futures_util::stream::{self, Stream};
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use self::pb::chat_service_server::{ChatService, ChatServiceServer};
use self::pb::connect_chat_request::Frame;
use self::pb::connect_chat_response::Event;
use crate::Done;

/// The API's code with the library's own codec.
#[allow(clippy::all, clippy::pedantic, dead_code, reason = "generated")]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/bare/chat.v1.rs"));
}

/// The argument that makes this program be the bare server.
pub const WORD: &str = "bare";
/// Messages that a chat's broadcast holds: no load here leaves more of one chat under way.
const RING_SLOTS: usize = 256;
/// The same windows as the product's, so that both take the same from a client.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

type Answer<T> = Result<Response<T>, Status>;
type Events = Pin<Box<dyn Stream<Item = Result<pb::ConnectChatResponse, Status>> + Send>>;

struct Chat {
    /// Held while a message goes into the broadcast: sequences go through in order.
    last_sequence: Mutex<i64>,
    sender: broadcast::Sender<pb::ConnectChatResponse>,
}

#[derive(Clone, Default)]
struct Bare {
    chats: Arc<RwLock<HashMap<String, Arc<Chat>>>>,
}

impl Bare {
    fn chat(&self, chat_id: &str) -> Result<Arc<Chat>, Status> {
        let chats = self.chats.read().unwrap_or_else(PoisonError::into_inner);
        chats.get(chat_id).cloned().ok_or_else(|| Status::not_found("no such chat"))
    }

    /// The events of a chat from now on. The client's side is kept, or the stream would end.
    fn events(&self, join: &pb::JoinFrame, inbound: Streaming<pb::ConnectChatRequest>) -> Result<Events, Status> {
        let chat = self.chat(&join.chat_id)?;
        let receiver = chat.sender.subscribe();
        let last_sequence = *chat.last_sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let joined = Event::Joined(pb::JoinedEvent {
            chat: Some(pb::Chat { chat_id: join.chat_id.clone(), last_sequence, ..pb::Chat::default() }),
            last_sequence,
        });
        let joined = stream::iter([Ok::<_, Status>(pb::ConnectChatResponse { event: Some(joined) })]);
        let live = BroadcastStream::new(receiver).filter_map(move |item| {
            let _kept = &inbound;
            std::future::ready(item.ok().map(Ok))
        });
        Ok(Box::pin(joined.chain(live)))
    }
}

#[tonic::async_trait]
impl ChatService for Bare {
    type ConnectChatStream = Events;

    async fn create_chat(&self, request: Request<pb::CreateChatRequest>) -> Answer<pb::CreateChatResponse> {
        let chat_id = Uuid::now_v7().to_string();
        let chat = Arc::new(Chat { last_sequence: Mutex::new(0), sender: broadcast::Sender::new(RING_SLOTS) });
        self.chats.write().unwrap_or_else(PoisonError::into_inner).insert(chat_id.clone(), chat);
        let title = request.into_inner().title;
        Ok(Response::new(pb::CreateChatResponse { chat: Some(pb::Chat { chat_id, title, ..pb::Chat::default() }) }))
    }

    async fn send_message(&self, request: Request<pb::SendMessageRequest>) -> Answer<pb::SendMessageResponse> {
        let pb::SendMessageRequest { chat_id, text, client_message_id } = request.into_inner();
        let chat = self.chat(&chat_id)?;
        let mut message = pb::Message {
            chat_id,
            sequence: 0,
            sender_id: "bare".into(),
            client_message_id,
            created_at: Some(SystemTime::now().into()),
            content: Some(pb::message::Content::Text(text)),
        };
        {
            let mut last_sequence = chat.last_sequence.lock().unwrap_or_else(PoisonError::into_inner);
            *last_sequence += 1;
            message.sequence = *last_sequence;
            // An error says that nobody listens.
            drop(chat.sender.send(pb::ConnectChatResponse { event: Some(Event::Message(message.clone())) }));
        }
        Ok(Response::new(pb::SendMessageResponse { message: Some(message) }))
    }

    async fn connect_chat(&self, request: Request<Streaming<pb::ConnectChatRequest>>) -> Answer<Events> {
        let (bare, mut inbound) = (self.clone(), request.into_inner());
        let events = stream::once(async move {
            let joined = match inbound.message().await {
                Ok(Some(pb::ConnectChatRequest { frame: Some(Frame::Join(join)) })) => bare.events(&join, inbound),
                Ok(_) => Err(Status::invalid_argument("the first frame is no join")),
                Err(status) => Err(status),
            };
            joined.unwrap_or_else(refused)
        });
        let events: Events = Box::pin(events.flatten());
        Ok(Response::new(events))
    }

    async fn get_chat(&self, _: Request<pb::GetChatRequest>) -> Answer<pb::GetChatResponse> {
        Err(not_here())
    }

    async fn list_chats(&self, _: Request<pb::ListChatsRequest>) -> Answer<pb::ListChatsResponse> {
        Err(not_here())
    }

    async fn delete_chat(&self, _: Request<pb::DeleteChatRequest>) -> Answer<pb::DeleteChatResponse> {
        Err(not_here())
    }

    async fn add_members(&self, _: Request<pb::AddMembersRequest>) -> Answer<pb::AddMembersResponse> {
        Err(not_here())
    }

    async fn remove_member(&self, _: Request<pb::RemoveMemberRequest>) -> Answer<pb::RemoveMemberResponse> {
        Err(not_here())
    }

    async fn list_messages(&self, _: Request<pb::ListMessagesRequest>) -> Answer<pb::ListMessagesResponse> {
        Err(not_here())
    }
}

fn refused(status: Status) -> Events {
    Box::pin(stream::iter([Err::<pb::ConnectChatResponse, _>(status)]))
}

fn not_here() -> Status {
    Status::unimplemented("bare tonic creates, sends and connects")
}

/// Serves until it is told to end, by a runtime like the product's, and prints its port.
pub fn serve(cert: &Path, key: &Path) -> Done<()> {
    let identity = Identity::from_pem(std::fs::read(cert)?, std::fs::read(key)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        // As many as the product's: a client that finds no place tries again only after a second.
        let listener = socket.listen(4_096)?;
        println!("{}", listener.local_addr()?.port());
        std::io::stdout().flush()?;
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(ChatServiceServer::new(Bare::default()));
        let mut told = signal(SignalKind::terminate())?;
        tokio::select! {
            served = server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))) => served?,
            _ = told.recv() => {}
        }
        Ok(())
    })
}
