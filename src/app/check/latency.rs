//! How long messages took, from a history's times.
//!
//! A delivery's latency counts from the sender's first attempt, and only where the reader's connection had joined the chat before: what
//! a reader finds when it comes back says how long it was away. Readers that stop reading on purpose are for the caller to leave out.

use std::collections::HashMap;
use std::time::Duration;

use super::history::{Line, Record, Via};

/// The median, and what 99 of 100 stay below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(mut times_us: Vec<u64>) -> Option<Self> {
        times_us.sort_unstable();
        let at = |percent: usize| times_us.get((times_us.len() * percent / 100).min(times_us.len().checked_sub(1)?)).copied();
        let (p50, p99) = (Duration::from_micros(at(50)?), Duration::from_micros(at(99)?));
        Some(Self { count: times_us.len(), p50, p99 })
    }
}

/// From the attempt to the delivery, by whether sender and reader were connected to the same node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    pub same_node: Option<Spread>,
    pub across_nodes: Option<Spread>,
}

/// (chat, sender, client_message_id)
type Key = (usize, String, String);

/// A message on its way.
#[derive(Clone, Debug, Default)]
struct Moment {
    attempted: Option<(u64, Via)>,
    acknowledged_us: Option<u64>,
    /// First deliveries, by client.
    delivered: HashMap<u32, (u64, Via)>,
}

/// When a history's messages were sent, acknowledged and delivered. Takes the records one by one.
#[derive(Debug, Default)]
pub struct Moments {
    nodes: HashMap<Via, usize>,
    joined_us: HashMap<(Via, usize), u64>,
    messages: HashMap<Key, Moment>,
    left_out: Vec<u32>,
}

impl Moments {
    /// Deliveries to these clients don't count.
    pub fn without(mut self, clients: &[u32]) -> Self {
        self.left_out.extend(clients);
        self
    }

    pub fn take(&mut self, line: &Line) {
        let t_us = line.t_us;
        match &line.record {
            Record::Connected { via, node } => {
                self.nodes.insert(*via, *node);
            }
            Record::Joined { via, chat, .. } => {
                self.joined_us.entry((*via, *chat)).or_insert(t_us);
            }
            Record::Attempt { via, chat, sender, id, .. } => {
                self.moment(*chat, sender, id).attempted.get_or_insert((t_us, *via));
            }
            Record::Acknowledged { chat, sender, id, probe: false, .. } => {
                self.moment(*chat, sender, id).acknowledged_us.get_or_insert(t_us);
            }
            Record::Delivered { via, chat, message } => {
                self.moment(*chat, &message.sender, &message.id).delivered.entry(via.client).or_insert((t_us, *via));
            }
            Record::Run { .. }
            | Record::Acknowledged { .. }
            | Record::Rejected { .. }
            | Record::Disconnected { .. }
            | Record::Listed { .. }
            | Record::End { .. } => {}
        }
    }

    fn moment(&mut self, chat: usize, sender: &str, id: &str) -> &mut Moment {
        self.messages.entry((chat, sender.to_owned(), id.to_owned())).or_default()
    }

    /// `None` where nothing counts.
    pub fn latencies(&self) -> Option<Latencies> {
        let (mut same, mut across) = (Vec::new(), Vec::new());
        for ((chat, _, _), moment) in &self.messages {
            let Some((attempted_us, sender)) = moment.attempted else { continue };
            for (delivered_us, reader) in self.counted(moment) {
                if self.joined_us.get(&(reader, *chat)).is_some_and(|joined_us| *joined_us <= attempted_us) {
                    let times = if self.nodes.get(&sender) == self.nodes.get(&reader) { &mut same } else { &mut across };
                    times.push(delivered_us.saturating_sub(attempted_us));
                }
            }
        }
        let latencies = Latencies { same_node: Spread::of(same), across_nodes: Spread::of(across) };
        (latencies != Latencies::default()).then_some(latencies)
    }

    /// The longest time from an acknowledgement to the last reader's delivery, among the messages acknowledged in a span of time, and
    /// how many those were. Readers that were away at that moment count: coming back is part of it.
    pub fn healed(&self, from_us: u64, until_us: u64) -> (Duration, u64) {
        let (mut longest_us, mut messages) = (0, 0);
        for moment in self.messages.values() {
            let Some(acknowledged_us) = moment.acknowledged_us.filter(|at| (from_us..=until_us).contains(at)) else { continue };
            messages += 1;
            let last_us = self.counted(moment).map(|(at, _)| at).max().unwrap_or(acknowledged_us);
            longest_us = longest_us.max(last_us.saturating_sub(acknowledged_us));
        }
        (Duration::from_micros(longest_us), messages)
    }

    fn counted(&self, moment: &Moment) -> impl Iterator<Item = (u64, Via)> {
        moment.delivered.values().copied().filter(move |(_, via)| !self.left_out.contains(&via.client))
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Message;
    use super::*;

    const SENDER: Via = Via { client: 0, connection: 1 };
    const NEAR: Via = Via { client: 1, connection: 1 };
    const FAR: Via = Via { client: 2, connection: 1 };

    fn message(id: &str) -> Message {
        Message { sequence: 1, sender: "s".into(), id: id.into(), text: "t".into(), created_at_us: 0 }
    }

    fn attempt(id: &str) -> Record {
        Record::Attempt { via: SENDER, chat: 0, sender: "s".into(), id: id.into(), text: "t".into() }
    }

    fn acknowledged(id: &str) -> Record {
        let (sender, id) = ("s".into(), id.into());
        Record::Acknowledged { via: SENDER, chat: 0, sender, id, sequence: 1, created_at_us: 0, probe: false }
    }

    fn delivered(via: Via, id: &str) -> Record {
        Record::Delivered { via, chat: 0, message: message(id) }
    }

    fn taken(records: Vec<(u64, Record)>) -> Moments {
        let mut moments = Moments::default();
        for (t_us, record) in records {
            moments.take(&Line { t_us, record });
        }
        moments
    }

    /// One message to a reader on the sender's node and one on another.
    fn run() -> Vec<(u64, Record)> {
        vec![
            (0, Record::Connected { via: SENDER, node: 0 }),
            (0, Record::Connected { via: NEAR, node: 0 }),
            (0, Record::Connected { via: FAR, node: 1 }),
            (1, Record::Joined { via: NEAR, chat: 0, after: 0 }),
            (1, Record::Joined { via: FAR, chat: 0, after: 0 }),
            (100, attempt("a")),
            (150, attempt("a")),
            (300, acknowledged("a")),
            (200, delivered(NEAR, "a")),
            (1_100, delivered(FAR, "a")),
        ]
    }

    #[test]
    fn a_delivery_counts_from_the_first_attempt_and_by_where_both_were() {
        let spread = |us| Some(Spread { count: 1, p50: Duration::from_micros(us), p99: Duration::from_micros(us) });
        let expected = Latencies { same_node: spread(100), across_nodes: spread(1_000) };
        assert_eq!(taken(run()).latencies(), Some(expected));
    }

    #[test]
    fn what_a_reader_finds_when_it_comes_back_is_no_latency_and_is_healing() {
        let back = Via { connection: 2, ..FAR };
        let mut records = run();
        records.extend([
            (2_000, attempt("b")),
            (2_100, acknowledged("b")),
            (2_100, delivered(NEAR, "b")),
            (5_000, Record::Connected { via: back, node: 0 }),
            (5_000, Record::Joined { via: back, chat: 0, after: 1 }),
            (5_100, delivered(back, "b")),
        ]);
        let moments = taken(records);
        let latencies = moments.latencies().unwrap();
        assert_eq!((latencies.same_node.unwrap().count, latencies.across_nodes.unwrap().count), (2, 1));
        assert_eq!(moments.healed(2_000, 2_100), (Duration::from_micros(3_000), 1));
        assert_eq!(moments.healed(0, 1_000), (Duration::from_micros(800), 1));
        assert_eq!(moments.healed(9_000, 9_999), (Duration::ZERO, 0));
        assert_eq!(moments.without(&[2]).healed(2_000, 2_100), (Duration::ZERO, 1));
    }

    #[test]
    fn of_nothing_there_is_no_latency() {
        assert_eq!(taken(vec![(0, attempt("a"))]).latencies(), None);
        assert_eq!(Spread::of(Vec::new()), None);
        let times: Vec<u64> = (1..=100).collect();
        let spread = Spread::of(times).unwrap();
        assert_eq!((spread.p50, spread.p99), (Duration::from_micros(51), Duration::from_micros(100)));
    }
}
