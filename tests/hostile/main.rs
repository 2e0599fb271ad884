//! Clients that mean harm: each meets a limit, and an honest client on the same server goes on undisturbed meanwhile.

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod floods;
mod raw;
mod readers;

use std::cell::Cell;

use chat_service::pb::chat::v1::connect_chat_response::Event;
use common::*;

/// Messages in the histories that hostile readers ask for, and the length of each: more than any buffer on the way holds for a stream.
const HISTORY: usize = 64;
const TEXT: usize = 4096;

/// A client that does nothing but send and receive.
pub struct Honest {
    stream: Stream,
    chat: String,
    sent: i64,
}

impl Honest {
    pub async fn new(server: &TestServer) -> Self {
        let mut client = server.client("honest").await;
        let chat = new_chat(&mut client, &[]).await;
        let stream = Stream::joined(&mut client, &chat, None).await;
        Self { stream, chat, sent: 0 }
    }

    /// Sends a message, and gets it acknowledged and delivered.
    pub async fn round(&mut self) {
        self.sent += 1;
        self.stream.send_text(&self.chat, &self.sent.to_string(), "hello");
        let (mut acknowledged, mut delivered) = (false, false);
        while !(acknowledged && delivered) {
            match self.stream.event().await {
                Event::Acknowledged(event) => {
                    assert_eq!(event.sequence, self.sent);
                    acknowledged = true;
                }
                Event::Message(message) => {
                    assert_eq!(message.sequence, self.sent);
                    delivered = true;
                }
                other => panic!("the honest client was disturbed: {other:?}"),
            }
        }
    }

    /// Goes on while an attack lasts, and once more when it is over.
    pub async fn beside<T>(&mut self, attack: impl Future<Output = T>) -> T {
        let over = Cell::new(false);
        let attack = async {
            let outcome = attack.await;
            over.set(true);
            outcome
        };
        let going_on = async {
            while !over.get() {
                self.round().await;
            }
            self.round().await;
        };
        let (outcome, ()) = tokio::join!(attack, going_on);
        outcome
    }
}

/// A chat of mallory's with a history.
pub async fn chat_with_history(server: &TestServer) -> String {
    let mut client = server.client("mallory").await;
    let chat = new_chat(&mut client, &[]).await;
    for number in 0..HISTORY {
        client.send_message(send_request(&chat, &number.to_string(), &"x".repeat(TEXT))).await.unwrap();
    }
    chat
}
