//! Connections, the loop, the terminal.

use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status, Streaming};
use uuid::Uuid;

use super::state::{Pending, State, line, printable};
use super::{ConnectArgs, ConnectError};
use crate::pb::chat::v1::chat_service_client::ChatServiceClient;
use crate::pb::chat::v1::connect_chat_request::Frame;
use crate::pb::chat::v1::connect_chat_response::Event;
use crate::pb::chat::v1::{
    ConnectChatRequest, ConnectChatResponse, CreateChatRequest, FrameKind, JoinFrame, LeftReason, RejectedEvent, SendFrame,
};

const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const CONNECT_DUE: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long the last lines may take after the input has ended.
const SETTLE_DUE: Duration = Duration::from_secs(30);
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Frames under way; the terminal waits above.
const FRAMES_MAX: usize = 64;

/// Runs until the input has ended and everything is settled, or the server says for good that it can't.
pub async fn run(args: ConnectArgs) -> Result<(), ConnectError> {
    let server = Server::of(&args)?;
    let chat_id = match (&args.chat_id, &args.create) {
        (Some(chat_id), _) => chat_id.clone(),
        (None, Some(title)) => server.create(title, &args.members).await?,
        (None, None) => return Err(ConnectError::NoChat),
    };
    let mut client = Client { server, chat_id, state: State::new(args.after), input: Some(BufReader::new(stdin()).lines()) };
    let mut backoff = BACKOFF;
    loop {
        let pause = match client.stay().await? {
            Ended::Finished => return Ok(()),
            Ended::Lost { connected, after } => {
                if connected {
                    backoff = BACKOFF;
                }
                // Full jitter: not everyone comes back at once.
                after.unwrap_or_else(|| rand::rng().random_range(Duration::ZERO..backoff))
            }
        };
        backoff = (backoff * 2).min(BACKOFF_MAX);
        eprintln!("… no connection; trying again, {} not yet acknowledged", client.state.pending().len());
        for pending in client.state.pending() {
            eprintln!("  … {}", printable(&pending.text));
        }
        sleep(pause).await;
    }
}

struct Server {
    channel: Channel,
    token: MetadataValue<Ascii>,
}

impl Server {
    fn of(args: &ConnectArgs) -> Result<Self, ConnectError> {
        let address = || ConnectError::Address(args.addr.clone());
        let mut endpoint = Channel::from_shared(args.addr.clone()).map_err(|_| address())?;
        if args.addr.starts_with("https://") {
            let ca = std::fs::read(&args.ca).map_err(|source| ConnectError::Ca { path: args.ca.clone(), source })?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            endpoint = endpoint.tls_config(tls).map_err(|_| address())?;
        }
        let channel = endpoint
            .connect_timeout(CONNECT_DUE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
            .connect_lazy();
        let token = format!("Bearer {}", args.token.trim()).parse().map_err(|_| ConnectError::Token)?;
        Ok(Self { channel, token })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    fn client(&self) -> ChatServiceClient<Channel> {
        ChatServiceClient::new(self.channel.clone())
    }

    async fn create(&self, title: &str, members: &[String]) -> Result<String, ConnectError> {
        let request = CreateChatRequest { title: title.into(), member_ids: members.to_vec(), request_id: Uuid::new_v4().to_string() };
        let created = self.client().create_chat(self.request(request)).await.map_err(|status| refused(&status))?;
        let chat_id = created.into_inner().chat.map(|chat| chat.chat_id).unwrap_or_default();
        eprintln!("created chat {chat_id}");
        Ok(chat_id)
    }
}

/// How a connection ended.
enum Ended {
    /// The input has ended, and everything was shown.
    Finished,
    Lost {
        connected: bool,
        /// When the server said to come back.
        after: Option<Duration>,
    },
}

struct Client {
    server: Server,
    chat_id: String,
    state: State,
    /// `None` once it has ended.
    input: Option<Lines<BufReader<Stdin>>>,
}

impl Client {
    /// One connection: joins behind the last message seen, sends again what has no answer, and goes on until it ends.
    async fn stay(&mut self) -> Result<Ended, ConnectError> {
        let (frames, receiver) = mpsc::channel(FRAMES_MAX);
        let join = JoinFrame { chat_id: self.chat_id.clone(), after_sequence: Some(self.state.last_seen()), follow: false };
        drop(frames.try_send(ConnectChatRequest { frame: Some(Frame::Join(join)) }));
        let request = self.server.request(ReceiverStream::new(receiver));
        let mut events = match self.server.client().connect_chat(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return ended(&status, false, None),
        };
        let mut frames = Some(frames);
        let (mut joined, mut after) = (false, None);
        let give_up = sleep(SETTLE_DUE);
        tokio::pin!(give_up);
        let mut input_open = self.input.is_some();
        loop {
            if joined && !input_open && self.state.pending().len() == 0 {
                frames = None;
            }
            tokio::select! {
                event = next(&mut events) => match event {
                    Ok(Some(Event::Joined(_))) => {
                        joined = true;
                        let again: Vec<Pending> = self.state.pending().cloned().collect();
                        if !self.send_all(&mut frames, &mut events, &mut after, again).await? {
                            return Ok(Ended::Lost { connected: true, after });
                        }
                    }
                    Ok(Some(event)) => self.event(event, &mut after, frames.as_ref()).await?,
                    Ok(None) if frames.is_none() => return Ok(Ended::Finished),
                    Ok(None) => return Ok(Ended::Lost { connected: joined, after }),
                    Err(status) => return ended(&status, joined, after),
                },
                read = read_line(&mut self.input), if joined && input_open => match read {
                    Some(text) if text.trim().is_empty() => {}
                    Some(text) => {
                        let pending = Pending { id: Uuid::new_v4().to_string(), text };
                        self.state.send(pending.clone());
                        if !self.send_all(&mut frames, &mut events, &mut after, vec![pending]).await? {
                            return Ok(Ended::Lost { connected: true, after });
                        }
                    }
                    None => {
                        self.input = None;
                        input_open = false;
                        give_up.as_mut().reset(tokio::time::Instant::now() + SETTLE_DUE);
                    }
                },
                () = &mut give_up, if !input_open && self.state.pending().len() > 0 => {
                    return Err(ConnectError::Unacknowledged(self.state.pending().len()));
                }
            }
        }
    }

    /// Sends lines while events go on being read: a server that waits for its answers to be read must not be waited for. `false`: the
    /// connection has ended.
    async fn send_all(
        &mut self,
        frames: &mut Option<mpsc::Sender<ConnectChatRequest>>,
        events: &mut Streaming<ConnectChatResponse>,
        after: &mut Option<Duration>,
        lines: Vec<Pending>,
    ) -> Result<bool, ConnectError> {
        let Some(frames) = frames.as_ref() else { return Ok(false) };
        for line in lines {
            let request = self.frame(&line);
            loop {
                tokio::select! {
                    permit = frames.reserve() => match permit {
                        Ok(permit) => { permit.send(request); break; }
                        Err(_) => return Ok(false),
                    },
                    event = next(events) => match event {
                        Ok(Some(event)) => self.event(event, after, Some(frames)).await?,
                        Ok(None) | Err(_) => return Ok(false),
                    },
                }
            }
        }
        Ok(true)
    }

    fn frame(&self, pending: &Pending) -> ConnectChatRequest {
        let send = SendFrame { chat_id: self.chat_id.clone(), client_message_id: pending.id.clone(), text: pending.text.clone() };
        ConnectChatRequest { frame: Some(Frame::Send(send)) }
    }

    async fn event(
        &mut self,
        event: Event,
        after: &mut Option<Duration>,
        frames: Option<&mpsc::Sender<ConnectChatRequest>>,
    ) -> Result<(), ConnectError> {
        match event {
            Event::Message(message) => {
                if self.state.see(message.sequence) {
                    println!("{}", line(&message));
                }
            }
            Event::Acknowledged(acknowledged) => drop(self.state.settle(&acknowledged.client_message_id)),
            Event::Rejected(rejected) => self.rejected(&rejected, frames).await?,
            Event::Left(left) => {
                return Err(ConnectError::Left(match left.reason() {
                    LeftReason::Deleted => "the chat was deleted",
                    LeftReason::Removed | LeftReason::Asked | LeftReason::Unspecified => "you are no longer a member",
                }));
            }
            Event::GoingAway(going) => {
                *after = going.reconnect_after.and_then(|pause| Duration::try_from(pause).ok()).map(|pause| pause.min(BACKOFF_MAX));
            }
            Event::Joined(_) | Event::TokenRefreshed(_) => {}
        }
        Ok(())
    }

    async fn rejected(&mut self, rejected: &RejectedEvent, frames: Option<&mpsc::Sender<ConnectChatRequest>>) -> Result<(), ConnectError> {
        let (code, message) = rejected.status.as_ref().map_or((0, ""), |status| (status.code, status.message.as_str()));
        let again = matches!(Code::from_i32(code), Code::Unavailable | Code::ResourceExhausted);
        if rejected.frame() != FrameKind::Send {
            return Err(ConnectError::Refused(printable(message)));
        }
        match (again, frames) {
            (true, Some(frames)) => {
                if let Some(request) = self.state.find(&rejected.client_message_id).map(|pending| self.frame(pending)) {
                    sleep(BACKOFF).await;
                    drop(frames.try_send(request));
                }
            }
            // It stays pending, and goes again with the next connection.
            (true, None) => {}
            (false, _) => {
                if let Some(pending) = self.state.settle(&rejected.client_message_id) {
                    eprintln!("! not sent: {}: {}", printable(message), printable(&pending.text));
                }
            }
        }
        Ok(())
    }
}

async fn next(events: &mut Streaming<ConnectChatResponse>) -> Result<Option<Event>, Status> {
    loop {
        match events.message().await? {
            // An event that this client doesn't know.
            Some(ConnectChatResponse { event: None }) => {}
            Some(ConnectChatResponse { event }) => return Ok(event),
            None => return Ok(None),
        }
    }
}

/// The next line; `None`: the input has ended.
async fn read_line(input: &mut Option<Lines<BufReader<Stdin>>>) -> Option<String> {
    match input {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => None,
    }
}

/// Whether it is worth coming back.
fn ended(status: &Status, connected: bool, after: Option<Duration>) -> Result<Ended, ConnectError> {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented => Err(refused(status)),
        _ => Ok(Ended::Lost { connected, after }),
    }
}

fn refused(status: &Status) -> ConnectError {
    ConnectError::Refused(format!("{:?}: {}", status.code(), printable(status.message())))
}
