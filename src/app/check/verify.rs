//! Judges a history by the delivery promises. Pure: it knows nothing but the records.
//!
//! | count | what it means |
//! |---|---|
//! | lost | acknowledged or delivered, and not stored where it was said to be; or stored, and a reader that was to have everything never got it |
//! | duplicated | stored at two places, or delivered to a reader that had it |
//! | reordered | two views that disagree on a place; a sender's messages stored in another order than it sent them on one stream; a time that goes back |
//! | holes | places that a listing or a reader passes over |
//! | phantoms | stored or delivered, and sent by nobody |

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::Entry};

use super::history::{Line, Message, Record, VERSION, Via};

/// Violations that are described; the rest is counted.
const DESCRIBED_MAX: usize = 50;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that clients sent, each counted once.
    pub sent: u64,
    pub acked: u64,
    pub delivered: u64,
    /// Connections behind each client's first.
    pub reconnects: u64,
    pub rejected: u64,
    /// Probes with an id that stands for another text, refused as they must be.
    pub conflicts: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub holes: u64,
    pub phantoms: u64,
}

impl Counts {
    pub fn is_ok(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.holes + self.phantoms == 0
    }
}

#[derive(Debug, Default)]
pub struct Verdict {
    pub counts: Counts,
    /// What is wrong, naming the messages.
    pub violations: Vec<String>,
}

/// Why a history can't be judged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJudged {
    #[error("the history does not begin with a run of version {VERSION}")]
    Foreign,
    #[error("the history is not whole: it has no end, so what is missing in it means nothing")]
    NotWhole,
    #[error("nothing was acknowledged, so nothing is proven")]
    Nothing,
}

#[derive(Clone, Copy)]
enum Kind {
    Lost,
    Duplicated,
    Reordered,
    Hole,
    Phantom,
}

/// (chat, sender, client_message_id)
type Key = (usize, String, String);

/// Takes a history's records one by one.
#[derive(Default)]
pub struct Judge {
    verdict: Verdict,
    chats: Vec<String>,
    texts: HashMap<Key, String>,
    acks: HashMap<Key, (i64, i64)>,
    /// What was first seen at a place, by whichever client or listing.
    places: HashMap<(usize, i64), Message>,
    listed: Vec<BTreeMap<i64, Key>>,
    readers: HashMap<(u32, usize), Reading>,
    orders: HashMap<(Via, usize), Vec<Attempted>>,
    ended: Option<(Vec<u32>, Vec<i64>)>,
}

/// Where a reader is in a chat.
#[derive(Default)]
struct Reading {
    from: i64,
    cursor: i64,
    missing: HashSet<i64>,
}

/// An attempt, for the order of a stream's sends.
struct Attempted {
    key: Key,
    /// No attempt with this id was made before: its place was given on this stream or later.
    fresh: bool,
    rejected: bool,
    acked: bool,
}

impl Judge {
    pub fn take(&mut self, line: Line) -> Result<(), NotJudged> {
        if self.chats.is_empty() && !matches!(line.record, Record::Run { version: VERSION, .. }) {
            return Err(NotJudged::Foreign);
        }
        match line.record {
            Record::Run { chats, .. } => {
                self.listed = chats.iter().map(|_| BTreeMap::new()).collect();
                self.chats = chats;
            }
            Record::Connected { via, .. } => self.verdict.counts.reconnects += u64::from(via.connection > 1),
            Record::Joined { via, chat, after } => self.joined(via, chat, after),
            Record::Attempt { via, chat, sender, id, text } => self.attempt(via, (chat, sender, id), text),
            Record::Acknowledged { via, chat, sender, id, sequence, created_at_us, probe } => {
                self.acknowledged(via, (chat, sender, id), (sequence, created_at_us), probe);
            }
            Record::Rejected { via, chat, id, reason, probe, .. } => self.rejected(via, chat, id, &reason, probe),
            Record::Delivered { via, chat, message } => self.delivered(via, chat, message),
            Record::Disconnected { .. } => {}
            Record::Listed { chat, message } => self.listed(chat, message),
            Record::End { readers, last_sequences } => self.ended = Some((readers, last_sequences)),
        }
        Ok(())
    }

    /// The verdict on a whole history.
    pub fn finish(mut self) -> Result<Verdict, NotJudged> {
        let (readers, last_sequences) = self.ended.take().ok_or(NotJudged::NotWhole)?;
        if self.acks.is_empty() {
            return Err(NotJudged::Nothing);
        }
        self.verdict.counts.sent = self.texts.len() as u64;
        self.verdict.counts.acked = self.acks.len() as u64;
        self.check_listings(&last_sequences);
        self.check_acks();
        self.check_places();
        self.check_readers(&readers, &last_sequences);
        self.check_orders();
        Ok(self.verdict)
    }

    fn violated(&mut self, kind: Kind, number: u64, what: impl FnOnce() -> String) {
        let counts = &mut self.verdict.counts;
        let (name, count) = match kind {
            Kind::Lost => ("lost", &mut counts.lost),
            Kind::Duplicated => ("duplicated", &mut counts.duplicated),
            Kind::Reordered => ("reordered", &mut counts.reordered),
            Kind::Hole => ("hole", &mut counts.holes),
            Kind::Phantom => ("phantom", &mut counts.phantoms),
        };
        *count += number;
        if self.verdict.violations.len() < DESCRIBED_MAX {
            self.verdict.violations.push(format!("{name}: {}", what()));
        }
    }

    fn chat(&self, chat: usize) -> String {
        self.chats.get(chat).cloned().unwrap_or_else(|| format!("number {chat}"))
    }

    fn joined(&mut self, via: Via, chat: usize, after: i64) {
        // Clients resume with what they have, so only the first join moves the cursor.
        self.readers.entry((via.client, chat)).or_insert(Reading { from: after, cursor: after, missing: HashSet::new() });
    }

    fn attempt(&mut self, via: Via, key: Key, text: String) {
        let fresh = match self.texts.entry(key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(text);
                true
            }
            // A probe has no place in the order: its refusal is checked where it is answered.
            Entry::Occupied(first) if *first.get() != text => return,
            Entry::Occupied(_) => false,
        };
        let attempts = self.orders.entry((via, key.0)).or_default();
        if fresh || !attempts.iter().rev().take(1024).any(|attempt| attempt.key == key) {
            attempts.push(Attempted { key, fresh, rejected: false, acked: false });
        }
    }

    fn acknowledged(&mut self, via: Via, key: Key, place: (i64, i64), probe: bool) {
        if probe {
            let chat = self.chat(key.0);
            return self.violated(Kind::Lost, 1, || {
                format!("chat {chat}: {} of {} was acknowledged with a text that is not the stored one", key.2, key.1)
            });
        }
        if let Some(attempt) = self.outstanding(via, key.0, |attempt| attempt.key == key) {
            attempt.acked = true;
        }
        match self.acks.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(place)),
            Entry::Occupied(first) if *first.get() == place => {}
            Entry::Occupied(first) => {
                let (key, before) = (first.key().clone(), first.get().0);
                let chat = self.chat(key.0);
                self.violated(Kind::Duplicated, 1, || {
                    format!("chat {chat}: {} of {} was acknowledged at {before} and at {}, or at two times", key.2, key.1, place.0)
                });
            }
        }
    }

    fn rejected(&mut self, via: Via, chat: usize, id: Option<String>, reason: &str, probe: bool) {
        match id {
            Some(_) if probe => self.verdict.counts.conflicts += 1,
            Some(id) => {
                self.verdict.counts.rejected += 1;
                if let Some(attempt) = self.outstanding(via, chat, |attempt| attempt.key.2 == id) {
                    attempt.rejected = true;
                }
            }
            None if reason == "SEQUENCE_AHEAD" => {
                let chat = self.chat(chat);
                self.violated(Kind::Lost, 1, || {
                    format!("chat {chat}: the server has fewer messages than client {} was delivered", via.client)
                });
            }
            None => {}
        }
    }

    /// The newest attempt of a stream that fits.
    fn outstanding(&mut self, via: Via, chat: usize, fits: impl Fn(&Attempted) -> bool) -> Option<&mut Attempted> {
        self.orders.get_mut(&(via, chat))?.iter_mut().rev().find(|attempt| fits(attempt))
    }

    fn delivered(&mut self, via: Via, chat: usize, message: Message) {
        self.verdict.counts.delivered += 1;
        let sequence = message.sequence;
        self.place(chat, message, &format!("client {}", via.client));
        let reading = self.readers.entry((via.client, chat)).or_default();
        let cursor = reading.cursor;
        if sequence > cursor {
            reading.missing.extend(cursor + 1..sequence);
            reading.cursor = sequence;
            let missing = (sequence - cursor - 1) as u64;
            if missing > 0 {
                let chat = self.chat(chat);
                self.violated(Kind::Hole, missing, || {
                    format!("chat {chat}: client {} (connection {}) got {sequence} after {cursor}", via.client, via.connection)
                });
            }
            return;
        }
        let (kind, how) = if reading.missing.remove(&sequence) { (Kind::Reordered, "late, ") } else { (Kind::Duplicated, "again, ") };
        let chat = self.chat(chat);
        self.violated(kind, 1, || {
            format!("chat {chat}: client {} (connection {}) got {sequence} {how}after {cursor}", via.client, via.connection)
        });
    }

    /// Every view of a place must show the same message.
    fn place(&mut self, chat: usize, message: Message, who: &str) {
        match self.places.entry((chat, message.sequence)) {
            Entry::Vacant(entry) => drop(entry.insert(message)),
            Entry::Occupied(first) if *first.get() == message => {}
            Entry::Occupied(first) => {
                let before = first.get().id.clone();
                let chat = self.chat(chat);
                self.violated(Kind::Reordered, 1, || {
                    format!("chat {chat}: at {} {who} sees {}, another saw {before}, or with other content", message.sequence, message.id)
                });
            }
        }
    }

    fn listed(&mut self, chat: usize, message: Message) {
        let Some(listing) = self.listed.get_mut(chat) else { return };
        let (sequence, key) = (message.sequence, (chat, message.sender.clone(), message.id.clone()));
        if listing.insert(sequence, key).is_some() {
            let chat = self.chat(chat);
            self.violated(Kind::Duplicated, 1, || format!("chat {chat}: the listing has {sequence} twice"));
        }
        self.place(chat, message, "the listing");
    }

    fn check_listings(&mut self, last_sequences: &[i64]) {
        for chat in 0..self.listed.len() {
            let listing = std::mem::take(&mut self.listed[chat]);
            let name = self.chat(chat);
            let last = last_sequences.get(chat).copied().unwrap_or(0).max(listing.keys().next_back().copied().unwrap_or(0));
            let missing: Vec<i64> = (1..=last).filter(|sequence| !listing.contains_key(sequence)).collect();
            if let Some(first) = missing.first() {
                self.violated(Kind::Hole, missing.len() as u64, || format!("chat {name}: the listing lacks {first} of 1 to {last}"));
            }
            let mut once: HashMap<&Key, i64> = HashMap::new();
            let mut time = i64::MIN;
            for (sequence, key) in &listing {
                if let Some(first) = once.insert(key, *sequence) {
                    self.violated(Kind::Duplicated, 1, || {
                        format!("chat {name}: {} of {} is stored at {first} and at {sequence}", key.2, key.1)
                    });
                }
                let at = self.places.get(&(chat, *sequence)).map_or(time, |message| message.created_at_us);
                if at < time {
                    self.violated(Kind::Reordered, 1, || format!("chat {name}: {sequence} was stored before the one in front of it"));
                }
                time = at;
            }
            self.listed[chat] = listing;
        }
    }

    fn check_acks(&mut self) {
        let mut acks: Vec<(Key, (i64, i64))> = std::mem::take(&mut self.acks).into_iter().collect();
        acks.sort_unstable();
        for (key, (sequence, created_at_us)) in &acks {
            let stored = self.listed.get(key.0).and_then(|listing| listing.get(sequence)) == Some(key);
            let same_time = self.places.get(&(key.0, *sequence)).is_some_and(|message| message.created_at_us == *created_at_us);
            if !(stored && same_time) {
                let chat = self.chat(key.0);
                self.violated(Kind::Lost, 1, || {
                    format!("chat {chat}: {} of {} was acknowledged at {sequence} and isn't there", key.2, key.1)
                });
            }
        }
        self.acks = acks.into_iter().collect();
    }

    /// What was seen must be stored, and somebody must have sent it, with that text.
    fn check_places(&mut self) {
        let mut places: Vec<((usize, i64), Message)> = std::mem::take(&mut self.places).into_iter().collect();
        places.sort_unstable_by_key(|(place, _)| *place);
        for ((chat, sequence), message) in places {
            let key = (chat, message.sender, message.id);
            let name = self.chat(chat);
            if self.texts.get(&key) != Some(&message.text) {
                self.violated(Kind::Phantom, 1, || {
                    format!("chat {name}: {sequence}, {} of {}, was sent by nobody, or with another text", key.2, key.1)
                });
            } else if self.listed.get(chat).is_none_or(|listing| !listing.contains_key(&sequence)) {
                self.violated(Kind::Lost, 1, || format!("chat {name}: {sequence}, {} of {}, was delivered and isn't stored", key.2, key.1));
            }
        }
    }

    fn check_readers(&mut self, readers: &[u32], last_sequences: &[i64]) {
        for client in readers {
            for (chat, last) in last_sequences.iter().enumerate() {
                let reading = self.readers.remove(&(*client, chat)).unwrap_or_default();
                let missed = (last - reading.cursor).max(0) + reading.missing.len() as i64 + reading.from;
                if missed > 0 {
                    let name = self.chat(chat);
                    self.violated(Kind::Lost, missed as u64, || {
                        format!("chat {name}: client {client} was delivered {missed} messages less than the {last} that are stored")
                    });
                }
            }
        }
    }

    /// What one stream sends keeps its order: a message that was attempted first on a stream, and was never refused there, lies behind
    /// everything that was attempted before it and not refused.
    fn check_orders(&mut self) {
        let mut orders: Vec<((Via, usize), Vec<Attempted>)> = std::mem::take(&mut self.orders).into_iter().collect();
        orders.sort_unstable_by_key(|((via, chat), _)| (via.client, via.connection, *chat));
        for ((via, chat), attempts) in orders {
            let mut highest: Option<(i64, String)> = None;
            for attempt in attempts.iter().filter(|attempt| attempt.acked && !attempt.rejected) {
                let Some((sequence, _)) = self.acks.get(&attempt.key).copied() else { continue };
                if let Some((before, id)) = highest.as_ref().filter(|(before, _)| attempt.fresh && sequence < *before) {
                    let (name, own, before, id) = (self.chat(chat), attempt.key.2.clone(), *before, id.clone());
                    self.violated(Kind::Reordered, 1, || {
                        format!("chat {name}: client {} sent {own} after {id}; they are stored at {sequence} and {before}", via.client)
                    });
                }
                if highest.as_ref().is_none_or(|(before, _)| sequence > *before) {
                    highest = Some((sequence, attempt.key.2.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
