//! The messages that a client makes: new ones, the same again, probes, and what is not settled yet.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::Instant;

/// Acknowledged messages that are kept for repeats and probes.
const REMEMBERED_MAX: usize = 64;
/// In percent of new messages: sent twice at once, an acknowledged one repeated, a conflicting text tried.
const TWICE_PERCENT: u32 = 3;
const REPEAT_PERCENT: u32 = 3;
const PROBE_PERCENT: u32 = 2;

/// A message that goes out.
#[derive(Clone, Debug)]
pub(super) struct Out {
    pub chat: usize,
    pub id: String,
    pub text: String,
    pub probe: bool,
}

/// A message that is not settled yet.
#[derive(Debug)]
struct Unsettled {
    chat: usize,
    id: String,
    text: String,
    /// The server asked for a pause before it is sent again on this connection.
    not_before: Option<Instant>,
}

impl Unsettled {
    fn again(&mut self) -> Out {
        self.not_before = None;
        Out { chat: self.chat, id: self.id.clone(), text: self.text.clone(), probe: false }
    }
}

#[derive(Default)]
pub(super) struct Sends {
    /// In the order of their first attempts.
    unsettled: VecDeque<Unsettled>,
    remembered: VecDeque<Out>,
    made: u64,
}

impl Sends {
    /// How many messages are not settled yet.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// A new message, and what is sent behind it now and then: the same again, an acknowledged one, or another text under its id.
    pub fn make(&mut self, client: u32, chats: usize, rng: &mut StdRng) -> (Out, Option<Out>) {
        self.made += 1;
        let id = format!("{client}-{}", self.made);
        let words = rng.random_range(1..12_usize);
        let text = format!("{id} {}", "μήνυμα ".repeat(words));
        let chat = rng.random_range(0..chats);
        self.unsettled.push_back(Unsettled { chat, id: id.clone(), text: text.clone(), not_before: None });
        let new = Out { chat, id, text, probe: false };
        let dice = rng.random_range(0..100);
        let other = self.remembered.iter().collect::<Vec<_>>().choose(rng).map(|out| (*out).clone());
        let behind = match other {
            _ if dice < TWICE_PERCENT => Some(new.clone()),
            Some(other) if dice < TWICE_PERCENT + REPEAT_PERCENT => Some(other),
            Some(other) if dice < TWICE_PERCENT + REPEAT_PERCENT + PROBE_PERCENT => {
                let text = format!("{} and something else", other.text);
                Some(Out { text, probe: true, ..other })
            }
            _ => None,
        };
        (new, behind)
    }

    /// All that is not settled, in its order: on a new connection.
    pub fn all_again(&mut self) -> impl Iterator<Item = Out> {
        self.unsettled.iter_mut().map(Unsettled::again)
    }

    /// What the server asked to send later, and is due.
    pub fn due_again(&mut self) -> impl Iterator<Item = Out> {
        let messages = self.unsettled.iter_mut();
        messages.filter(|message| message.not_before.is_some_and(|due| due <= Instant::now())).map(Unsettled::again)
    }

    /// The server asks for a pause before the message is sent again.
    pub fn put_off(&mut self, id: &str, pause: Duration) {
        if let Some(message) = self.unsettled.iter_mut().find(|message| message.id == id) {
            message.not_before = Some(Instant::now() + pause);
        }
    }

    /// The message is acknowledged; whether it wasn't before.
    pub fn settle(&mut self, id: &str) -> bool {
        let at = self.unsettled.iter().position(|message| message.id == id);
        let Some(Unsettled { chat, id, text, .. }) = at.and_then(|at| self.unsettled.remove(at)) else { return false };
        self.remembered.push_back(Out { chat, id, text, probe: false });
        self.remembered.drain(..self.remembered.len().saturating_sub(REMEMBERED_MAX));
        true
    }
}
