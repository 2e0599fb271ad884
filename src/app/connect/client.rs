//! Connections, the loop, the terminal.

use std::error::Error as _;
use std::io::{ErrorKind, Write};
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use uuid::Uuid;

use super::state::{Pending, State, line, printable};
use super::{ConnectArgs, ConnectError};
use crate::app::dial;
use crate::pb::chat::v1::chat_service_client::ChatServiceClient;
use crate::pb::chat::v1::connect_chat_request::Frame;
use crate::pb::chat::v1::connect_chat_response::Event;
use crate::pb::chat::v1::{
    ConnectChatRequest, ConnectChatResponse, CreateChatRequest, FrameKind, JoinFrame, LeftReason, RejectedEvent, SendFrame,
};

const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long the last lines may take after the input has ended.
const SETTLE_DUE: Duration = Duration::from_secs(30);
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Characters of a text. A frame too large to be read would end the stream, each time it is sent again.
const TEXT_CHARS_MAX: usize = 4096;
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
    let mut client = Client {
        server,
        chat_id,
        state: State::new(args.after),
        input: Some(BufReader::new(stdin()).lines()),
        settle_by: None,
        retries: Vec::new(),
        retry_at: None,
    };
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
        let waiting = client.state.pending().len();
        if waiting > 0 && client.settle_by.is_some_and(|due| due <= Instant::now()) {
            return Err(ConnectError::Unacknowledged(waiting));
        }
        eprintln!("… no connection; trying again, {waiting} not yet acknowledged");
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
        let channel = dial::endpoint(&args.addr, &args.ca)?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
            .connect_lazy();
        Ok(Self { channel, token: dial::bearer(&args.token)? })
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
    /// Set once the input has ended: until when its last lines may be unanswered, whatever number of connections that takes.
    settle_by: Option<Instant>,
    /// Ids of lines that the server asked to send again later on this connection.
    retries: Vec<String>,
    retry_at: Option<Instant>,
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
        // All that is pending goes again once the chat is joined.
        self.retries.clear();
        self.retry_at = None;
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
                    Ok(Some(Event::Rejected(rejected))) if rejected.frame() == FrameKind::Join && passes(&rejected) => {
                        return Ok(Ended::Lost { connected: false, after });
                    }
                    Ok(Some(event)) => self.event(event, &mut after)?,
                    Ok(None) if frames.is_none() => return Ok(Ended::Finished),
                    Ok(None) => return Ok(Ended::Lost { connected: joined, after }),
                    Err(status) => return ended(&status, joined, after),
                },
                read = read_line(&mut self.input), if joined && input_open => match read {
                    Some(Err(NotText)) => eprintln!("! not sent: a line that is not UTF-8"),
                    Some(Ok(text)) if text.trim().is_empty() => {}
                    Some(Ok(text)) if text.chars().count() > TEXT_CHARS_MAX => {
                        let start: String = text.chars().take(40).collect();
                        eprintln!("! not sent: longer than {TEXT_CHARS_MAX} characters: {}…", printable(&start));
                    }
                    Some(Ok(text)) => {
                        let pending = Pending { id: Uuid::new_v4().to_string(), text };
                        self.state.send(pending.clone());
                        if !self.send_all(&mut frames, &mut events, &mut after, vec![pending]).await? {
                            return Ok(Ended::Lost { connected: true, after });
                        }
                    }
                    None => {
                        self.input = None;
                        input_open = false;
                        self.settle_by = Some(Instant::now() + SETTLE_DUE);
                    }
                },
                () = sleep_until(self.retry_at.unwrap_or_else(Instant::now)), if self.retry_at.is_some() => {
                    self.retry_at = None;
                    let asked = std::mem::take(&mut self.retries);
                    let again: Vec<Pending> = self.state.pending().filter(|pending| asked.contains(&pending.id)).cloned().collect();
                    if !self.send_all(&mut frames, &mut events, &mut after, again).await? {
                        return Ok(Ended::Lost { connected: true, after });
                    }
                }
                () = sleep_until(self.settle_by.unwrap_or_else(Instant::now)),
                    if self.settle_by.is_some() && self.state.pending().len() > 0 => {
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
                        Ok(Some(event)) => self.event(event, after)?,
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

    fn event(&mut self, event: Event, after: &mut Option<Duration>) -> Result<(), ConnectError> {
        match event {
            Event::Message(message) => {
                if self.state.see(message.sequence) {
                    writeln!(std::io::stdout(), "{}", line(&message)).map_err(ConnectError::Output)?;
                }
            }
            Event::Acknowledged(acknowledged) => drop(self.state.settle(&acknowledged.client_message_id)),
            Event::Rejected(rejected) => self.rejected(&rejected)?,
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

    fn rejected(&mut self, rejected: &RejectedEvent) -> Result<(), ConnectError> {
        let message = rejected.status.as_ref().map_or("", |status| status.message.as_str());
        if rejected.frame() != FrameKind::Send {
            return Err(ConnectError::Refused(printable(message)));
        }
        if passes(rejected) {
            self.retries.push(rejected.client_message_id.clone());
            if self.retry_at.is_none() {
                self.retry_at = Some(Instant::now() + BACKOFF);
            }
        } else if let Some(pending) = self.state.settle(&rejected.client_message_id) {
            eprintln!("! not sent: {}: {}", printable(message), printable(&pending.text));
        }
        Ok(())
    }
}

/// Whether the same frame may be taken later.
fn passes(rejected: &RejectedEvent) -> bool {
    let code = rejected.status.as_ref().map_or(Code::Unknown, |status| Code::from_i32(status.code));
    matches!(code, Code::Unavailable | Code::ResourceExhausted)
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

/// A line that is no text.
struct NotText;

/// The next line; `None`: the input has ended.
async fn read_line(input: &mut Option<Lines<BufReader<Stdin>>>) -> Option<Result<String, NotText>> {
    match input.as_mut()?.next_line().await {
        Ok(line) => line.map(Ok),
        // The line is taken all the same.
        Err(error) if error.kind() == ErrorKind::InvalidData => Some(Err(NotText)),
        Err(_) => None,
    }
}

/// Whether it is worth coming back.
fn ended(status: &Status, connected: bool, after: Option<Duration>) -> Result<Ended, ConnectError> {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented => Err(refused(status)),
        _ => {
            eprintln!("… {}", printable(&cause(status)));
            Ok(Ended::Lost { connected, after })
        }
    }
}

/// The innermost cause: the outer ones only say that there was a transport error.
fn cause(status: &Status) -> String {
    let Some(mut cause) = status.source() else { return status.message().to_owned() };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn refused(status: &Status) -> ConnectError {
    ConnectError::Refused(format!("{:?}: {}", status.code(), printable(status.message())))
}
