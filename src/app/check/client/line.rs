//! One connection of a client, and what goes out on it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;

use super::sends::Out;
use crate::app::check::history::{Record, Via};
use crate::app::check::shared::Shared;
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::connect_chat_request::Frame;

pub(super) struct Line {
    pub via: Via,
    /// `None`: the client's side is closed.
    pub frames: Option<mpsc::Sender<pb::ConnectChatRequest>>,
    pub outgoing: VecDeque<Outgoing>,
    /// Whether the answers to come on an id are to probes, in the order of the attempts: a stream's answers keep it.
    answers: HashMap<String, VecDeque<bool>>,
    /// What the server said of when to come back.
    pub come_back: Option<Duration>,
    /// The client means to end this connection by closing its side.
    pub closing: bool,
    /// It does so after the last message of the run was settled: what comes before the end is everything.
    pub draining: bool,
    pub events: usize,
}

pub(super) enum Outgoing {
    Join { chat: usize, after: i64 },
    Send(Out),
}

impl Line {
    pub fn new(via: Via, frames: mpsc::Sender<pb::ConnectChatRequest>, opening: VecDeque<Outgoing>) -> Self {
        Self {
            via,
            frames: Some(frames),
            outgoing: opening,
            answers: HashMap::new(),
            come_back: None,
            closing: false,
            draining: false,
            events: 0,
        }
    }

    /// The next frame that goes out. A message's attempt is written down.
    pub fn next_frame(&mut self, shared: &Shared, user: &str) -> Option<pb::ConnectChatRequest> {
        let chats = &shared.chats;
        let frame = match self.outgoing.pop_front()? {
            Outgoing::Join { chat, after } => {
                Frame::Join(pb::JoinFrame { chat_id: chats[chat].clone(), after_sequence: Some(after), follow: false })
            }
            Outgoing::Send(Out { chat, id, text, probe }) => {
                self.answers.entry(id.clone()).or_default().push_back(probe);
                let sender = user.to_owned();
                shared.history.write(Record::Attempt { via: self.via, chat, sender, id: id.clone(), text: text.clone() });
                Frame::Send(pb::SendFrame { chat_id: chats[chat].clone(), client_message_id: id, text })
            }
        };
        Some(pb::ConnectChatRequest { frame: Some(frame) })
    }

    /// Whether the next answer on an id is a probe's.
    pub fn answered(&mut self, id: &str) -> bool {
        let Some(waiting) = self.answers.get_mut(id) else { return false };
        let probe = waiting.pop_front().unwrap_or(false);
        if waiting.is_empty() {
            self.answers.remove(id);
        }
        probe
    }
}

/// Room for a frame; `None`: the stream takes no more.
pub(super) async fn reserve(frames: Option<mpsc::Sender<pb::ConnectChatRequest>>) -> Option<mpsc::OwnedPermit<pb::ConnectChatRequest>> {
    match frames {
        Some(frames) => frames.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}
