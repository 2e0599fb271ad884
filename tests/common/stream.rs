//! ConnectChat as a client sees it.

use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::*;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Client, within};

/// A ConnectChat stream.
pub struct Stream {
    frames: Option<mpsc::UnboundedSender<ConnectChatRequest>>,
    events: Streaming<ConnectChatResponse>,
}

impl Stream {
    /// Opens a stream with its first frame.
    pub async fn open(client: &mut Client, first: Frame) -> Self {
        let (frames, receiver) = mpsc::unbounded_channel();
        let stream = UnboundedReceiverStream::new(receiver);
        frames.send(ConnectChatRequest { frame: Some(first) }).unwrap();
        let events = within(client.connect_chat(stream)).await.unwrap().into_inner();
        Self { frames: Some(frames), events }
    }

    /// Opens a stream that has joined a chat, from now on or behind `after_sequence`.
    pub async fn joined(client: &mut Client, chat_id: &str, after_sequence: Option<i64>) -> Self {
        let mut stream = Self::open(client, join(chat_id, after_sequence)).await;
        match stream.event().await {
            Event::Joined(_) => stream,
            other => panic!("not joined: {other:?}"),
        }
    }

    pub fn send(&self, frame: Frame) {
        self.frames.as_ref().unwrap().send(ConnectChatRequest { frame: Some(frame) }).unwrap();
    }

    pub fn send_text(&self, chat_id: &str, id: &str, text: &str) {
        self.send(Frame::Send(SendFrame { chat_id: chat_id.into(), client_message_id: id.into(), text: text.into() }));
    }

    pub fn half_close(&mut self) {
        self.frames = None;
    }

    pub async fn event(&mut self) -> Event {
        self.next().await.unwrap().expect("the stream has ended").event.unwrap()
    }

    pub async fn next(&mut self) -> Result<Option<ConnectChatResponse>, Status> {
        within(self.events.message()).await
    }

    /// The next message; acknowledgements before it are passed over.
    pub async fn message(&mut self) -> Message {
        loop {
            match self.event().await {
                Event::Message(message) => return message,
                Event::Acknowledged(_) => {}
                other => panic!("no message: {other:?}"),
            }
        }
    }

    /// The next acknowledgement; messages before it are passed over.
    pub async fn acknowledged(&mut self) -> AcknowledgedEvent {
        loop {
            match self.event().await {
                Event::Acknowledged(acknowledged) => return acknowledged,
                Event::Message(_) => {}
                other => panic!("not acknowledged: {other:?}"),
            }
        }
    }

    pub async fn rejected(&mut self) -> RejectedEvent {
        match self.event().await {
            Event::Rejected(rejected) => rejected,
            other => panic!("not rejected: {other:?}"),
        }
    }

    /// The status that the stream ends with; events before it are passed over.
    pub async fn end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

pub fn join(chat_id: &str, after_sequence: Option<i64>) -> Frame {
    Frame::Join(JoinFrame { chat_id: chat_id.into(), after_sequence, follow: false })
}

pub fn text_of(message: &Message) -> &str {
    match message.content.as_ref().unwrap() {
        message::Content::Text(text) => text,
    }
}

/// Why a frame was rejected, as a call would be told.
pub fn refusal(rejected: &RejectedEvent) -> Status {
    let status = rejected.status.as_ref().unwrap();
    Status::with_details(Code::from_i32(status.code), status.message.clone(), status.encode_to_vec().into())
}
