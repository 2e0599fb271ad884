//! What a client has to remember to lose nothing: the last sequence it saw, and what it sent without an answer.

use std::collections::VecDeque;

use crate::pb::chat::v1::Message;
use crate::pb::chat::v1::message::Content;

/// A line that was sent and not yet answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub id: String,
    pub text: String,
}

#[derive(Debug)]
pub struct State {
    last_seen: i64,
    pending: VecDeque<Pending>,
}

impl State {
    pub fn new(after: i64) -> Self {
        Self { last_seen: after, pending: VecDeque::new() }
    }

    /// Where to resume.
    pub fn last_seen(&self) -> i64 {
        self.last_seen
    }

    /// Whether a message is new.
    pub fn see(&mut self, sequence: i64) -> bool {
        let new = sequence > self.last_seen;
        self.last_seen = self.last_seen.max(sequence);
        new
    }

    pub fn send(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    /// The line with this id was answered for good.
    pub fn settle(&mut self, id: &str) -> Option<Pending> {
        let at = self.pending.iter().position(|pending| pending.id == id)?;
        self.pending.remove(at)
    }

    /// What is to be sent again after a reconnection: in the order it was written, with the ids it had.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &Pending> {
        self.pending.iter()
    }
}

/// A message as a line: UTC time, sender, text.
pub fn line(message: &Message) -> String {
    let at = message.created_at.and_then(|at| chrono::DateTime::from_timestamp(at.seconds, 0));
    let time = at.map(|at| at.format("%H:%M:%S").to_string()).unwrap_or_default();
    let text = match &message.content {
        Some(Content::Text(text)) => text.as_str(),
        None => "(a kind of message that this client does not know)",
    };
    format!("{time} {}: {}", printable(&message.sender_id), printable(text))
}

/// Others' texts must not steer this terminal: control characters are shown as escapes.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_resumes_behind_the_last_seen_and_ignores_what_it_has() {
        let mut state = State::new(3);
        assert!(state.see(4));
        assert!(!state.see(4));
        assert_eq!(state.last_seen(), 4);
    }

    #[test]
    fn what_is_not_answered_is_sent_again_in_order() {
        let mut state = State::new(0);
        for id in ["a", "b", "c"] {
            state.send(Pending { id: id.into(), text: id.into() });
        }
        state.settle("b");
        assert_eq!(state.pending().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn a_text_can_not_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(printable("👋 привет"), "👋 привет");
    }
}
