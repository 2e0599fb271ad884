//! A client of the WebSocket.

use chat_service::pb::chat::v1::connect_chat_response::Event;
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::common::{TestServer, mint, within};
use crate::raw;

/// An open socket.
pub struct Socket {
    pub io: WebSocketStream<TlsStream<TcpStream>>,
    /// Of the handshake's answer.
    pub headers: HeaderMap,
}

impl Socket {
    /// Asks for a socket with these headers beside the usual ones; the HTTP status of a refusal.
    pub async fn ask(server: &TestServer, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let mut request = format!("wss://localhost:{}/v1/connect", server.port).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let io = raw::tls(server, "http/1.1").await;
        match within(tokio_tungstenite::client_async(request, io)).await {
            Ok((io, response)) => Ok(Self { io, headers: response.headers().clone() }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// With a token in the header.
    pub async fn open(server: &TestServer, sub: &str) -> Self {
        Self::with_token(server, &mint(sub, &["user"])).await
    }

    pub async fn with_token(server: &TestServer, token: &str) -> Self {
        Self::ask(server, &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
    }

    /// That has joined a chat, from now on or behind `after_sequence`.
    pub async fn joined(server: &TestServer, sub: &str, chat: &str, after_sequence: Option<i64>) -> Self {
        let mut socket = Self::open(server, sub).await;
        socket.join(chat, after_sequence).await;
        let event = socket.event().await;
        assert_eq!(event["joined"]["chat"]["chatId"], chat, "{event}");
        socket
    }

    pub async fn join(&mut self, chat: &str, after_sequence: Option<i64>) {
        let mut join = json!({ "chatId": chat });
        if let Some(after) = after_sequence {
            join["afterSequence"] = json!(after.to_string());
        }
        self.send(json!({ "join": join })).await;
    }

    pub async fn send_text(&mut self, chat: &str, id: &str, text: &str) {
        self.send(json!({"send": {"chatId": chat, "clientMessageId": id, "text": text}})).await;
    }

    pub async fn send(&mut self, frame: Value) {
        self.put(Message::text(frame.to_string())).await;
    }

    pub async fn put(&mut self, message: Message) {
        within(self.io.send(message)).await.unwrap();
    }

    /// The next text as JSON, or how the socket was closed.
    pub async fn next(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match within(self.io.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(Some(close)))) => return Err((close.code.into(), close.reason.as_str().to_owned())),
                other => panic!("neither an event nor a close: {other:?}"),
            }
        }
    }

    pub async fn event(&mut self) -> Value {
        self.next().await.unwrap()
    }

    /// The next event of a kind; others are passed over.
    pub async fn event_of(&mut self, kind: &str) -> Value {
        loop {
            if let Some(found) = self.event().await.get_mut(kind) {
                return found.take();
            }
        }
    }

    /// The sequence of the next message.
    pub async fn sequence(&mut self) -> i64 {
        self.event_of("message").await["sequence"].as_str().unwrap().parse().unwrap()
    }

    /// The reason of the next rejection.
    pub async fn rejected(&mut self) -> String {
        let rejected = self.event_of("rejected").await;
        let mut details = rejected["status"]["details"].as_array().into_iter().flatten();
        details.find_map(|detail| detail["reason"].as_str()).unwrap_or_else(|| panic!("{rejected}")).to_owned()
    }

    /// How the socket is closed; events before are passed over.
    pub async fn end(&mut self) -> (u16, String) {
        loop {
            if let Err(end) = self.next().await {
                // Agrees, and sees the server close.
                while let Some(Ok(_)) = within(self.io.next()).await {}
                return end;
            }
        }
    }
}

/// The text and the sequence of an event of a stream.
pub fn text_and_sequence(event: &Event) -> Option<(String, i64)> {
    match event {
        Event::Message(message) => Some((crate::common::text_of(message).to_owned(), message.sequence)),
        _ => None,
    }
}
