//! Messages that came before their turn.
//!
//! Several nodes publish a chat's messages, so the next one in order may still be on its way when one behind it is here. What
//! came early is held for a moment; what doesn't come at all is read from the repository, once for all of the chat's streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::Delivery;

/// Messages that are held of a chat. What comes beyond is only noted, and read when its turn comes.
const HELD_MAX: usize = 32;

#[derive(Default)]
pub(super) struct Early {
    held: BTreeMap<i64, Arc<Delivery>>,
    /// The highest sequence that was heard of.
    heard: i64,
    /// Since when what is next in order has been missing.
    since: Option<Instant>,
    /// Somebody was told of the hole and looks after it.
    is_told: bool,
}

impl Early {
    pub fn hold(&mut self, delivery: Arc<Delivery>) {
        let sequence = delivery.message.sequence;
        self.heard = self.heard.max(sequence);
        if self.held.len() < HELD_MAX {
            self.held.insert(sequence, delivery);
        }
    }

    /// What is next behind `head`, if it is held. Then what was missing isn't any more.
    pub fn next(&mut self, head: i64) -> Option<Arc<Delivery>> {
        while let Some(first) = self.held.first_entry() {
            if *first.key() > head + 1 {
                return None;
            }
            let (sequence, delivery) = first.remove_entry();
            if sequence == head + 1 {
                return Some(delivery);
            }
        }
        None
    }

    /// Something went through.
    pub fn moved(&mut self) {
        self.since = None;
    }

    /// Whether there is a hole behind `head` that somebody must be told of.
    pub fn must_tell(&mut self, head: i64) -> bool {
        if self.heard <= head {
            self.since = None;
            return false;
        }
        self.since.get_or_insert_with(Instant::now);
        !std::mem::replace(&mut self.is_told, true)
    }

    /// For whoever was told: since when what is behind `head` is missing. `None`: nothing is, and the next time somebody is told anew.
    pub fn hole(&mut self, head: i64) -> Option<Instant> {
        if self.heard <= head {
            self.is_told = false;
            return None;
        }
        Some(*self.since.get_or_insert_with(Instant::now))
    }

    /// There is no message beyond this one: what was heard of them is not true.
    pub fn nothing_beyond(&mut self, last: i64) {
        self.held.retain(|sequence, _| *sequence <= last);
        self.heard = self.heard.min(last);
    }

    /// Forgets what was heard: the sweep finds it.
    pub fn give_up(&mut self) {
        *self = Self::default();
    }
}
