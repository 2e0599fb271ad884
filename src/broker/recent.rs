//! A chat's last messages, for the streams of this process that are a little behind.
//!
//! A stream that is slower than its chat's channel, and one that comes back, lack what others had a moment ago. Each of them reading it
//! from the repository would make the database busiest when everything is. So it is kept for a moment, or read once for all of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Delivery;

/// Messages that are kept of a chat.
pub(super) const MESSAGES_MAX: usize = 256;
/// And the bytes of what came with them; a message alone may have more.
const BYTES_MAX: usize = 128 * 1024;
/// How long.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// The messages up to the last one that went through, without a hole, and since when they are kept.
#[derive(Default)]
pub(super) struct Recent {
    messages: VecDeque<(Instant, Arc<Delivery>)>,
    bytes: usize,
}

impl Recent {
    /// A message went through.
    pub fn push(&mut self, delivery: Arc<Delivery>) {
        let follows = self.messages.back().is_none_or(|(_, last)| last.message.sequence + 1 == delivery.message.sequence);
        if !follows {
            *self = Self::default();
        }
        let now = Instant::now();
        self.bytes += delivery.message.weight();
        self.messages.push_back((now, delivery));
        while self.messages.len() > MESSAGES_MAX || (self.bytes > BYTES_MAX && self.messages.len() > 1) {
            self.pop();
        }
        self.forget(now);
    }

    /// Messages were read from the repository, ascending, in a chat where `head` was the last that went through: those that lead up to
    /// what is here are kept, as many as there is room for.
    pub fn keep(&mut self, read: &[Arc<Delivery>], head: i64) {
        let now = Instant::now();
        let last = self.messages.front().map_or(head, |(_, first)| first.message.sequence - 1);
        let mut next = last;
        for delivery in read.iter().rev().skip_while(|delivery| delivery.message.sequence > last) {
            let bytes = self.bytes + delivery.message.weight();
            if delivery.message.sequence != next || bytes > BYTES_MAX || self.messages.len() == MESSAGES_MAX {
                return;
            }
            self.messages.push_front((now, Arc::clone(delivery)));
            (self.bytes, next) = (bytes, next - 1);
        }
    }

    /// What is behind `sequence`, up to the last that went through; `None`: not all of it is here.
    pub fn after(&self, sequence: i64) -> Option<impl Iterator<Item = &Arc<Delivery>>> {
        let first = self.messages.front()?.1.message.sequence;
        let skip = usize::try_from(sequence + 1 - first).ok()?;
        Some(self.messages.iter().skip(skip).map(|(_, delivery)| delivery))
    }

    /// Lets go what was kept for long enough.
    pub fn forget(&mut self, now: Instant) {
        while self.messages.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) > KEPT_FOR) {
            self.pop();
        }
        if self.messages.is_empty() {
            // An idle chat holds no memory.
            self.messages = VecDeque::new();
        }
    }

    fn pop(&mut self) {
        if let Some((_, delivery)) = self.messages.pop_front() {
            self.bytes -= delivery.message.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ChatId, Message};

    fn delivery(chat_id: ChatId, sequence: i64) -> Arc<Delivery> {
        Delivery::new(Message::example(chat_id, sequence))
    }

    fn after(recent: &Recent, sequence: i64) -> Option<Vec<i64>> {
        recent.after(sequence).map(|messages| messages.map(|delivery| delivery.message.sequence).collect())
    }

    fn pushed(chat_id: ChatId, sequences: impl IntoIterator<Item = i64>) -> Recent {
        let mut recent = Recent::default();
        sequences.into_iter().for_each(|sequence| recent.push(delivery(chat_id, sequence)));
        recent
    }

    #[tokio::test]
    async fn what_is_behind_a_sequence_is_here_whole_or_not_at_all() {
        let recent = pushed(ChatId::generate(), 5..=7);
        assert_eq!(after(&recent, 4), Some(vec![5, 6, 7]));
        assert_eq!(after(&recent, 6), Some(vec![7]));
        assert_eq!(after(&recent, 3), None, "4 isn't here");
        assert_eq!(after(&Recent::default(), 0), None);
    }

    #[tokio::test]
    async fn nothing_is_kept_across_a_hole() {
        let recent = pushed(ChatId::generate(), [1, 2, 4]);
        assert_eq!((after(&recent, 0), after(&recent, 2), after(&recent, 3)), (None, None, Some(vec![4])));
    }

    #[tokio::test]
    async fn what_was_read_is_kept_where_it_leads_up_to_what_is_here() {
        let chat_id = ChatId::generate();
        let read = |sequences: std::ops::RangeInclusive<i64>| sequences.map(|sequence| delivery(chat_id, sequence)).collect::<Vec<_>>();
        let mut recent = pushed(chat_id, 8..=9);
        recent.keep(&read(3..=6), 9);
        assert_eq!(after(&recent, 2), None, "7 would be missing");
        recent.keep(&read(4..=10), 9);
        assert_eq!(after(&recent, 3), Some((4..=9).collect()));
        let mut empty = Recent::default();
        empty.keep(&read(1..=4), 3);
        assert_eq!(after(&empty, 0), Some(vec![1, 2, 3]), "4 comes by the channel");
        let mut behind = Recent::default();
        behind.keep(&read(1..=2), 3);
        assert_eq!(after(&behind, 0), None, "3 would be missing");
    }

    #[tokio::test]
    async fn it_is_bounded_by_messages_and_bytes() {
        let chat_id = ChatId::generate();
        let many = MESSAGES_MAX as i64 + 10;
        let mut recent = pushed(chat_id, 1..=many);
        assert_eq!((after(&recent, 9), after(&recent, 10).map(|got| got.len())), (None, Some(MESSAGES_MAX)));
        recent.keep(&[delivery(chat_id, 10)], many);
        assert_eq!(after(&recent, 9), None);
        let large = |sequence| Delivery::new(Message { text: "x".repeat(BYTES_MAX / 2), ..Message::example(chat_id, sequence) });
        for sequence in many + 1..=many + 3 {
            recent.push(large(sequence));
        }
        assert_eq!(recent.messages.len(), 1);
        recent.keep(&[large(many + 2)], many + 3);
        assert_eq!((recent.messages.len(), recent.bytes), (1, large(many + 3).message.weight()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_for_long_enough_is_let_go_with_its_memory() {
        let mut recent = pushed(ChatId::generate(), 1..=2);
        tokio::time::advance(KEPT_FOR).await;
        recent.push(delivery(ChatId::generate(), 3));
        assert_eq!(after(&recent, 0), Some(vec![1, 2, 3]));
        tokio::time::advance(KEPT_FOR / 2).await;
        recent.forget(Instant::now());
        assert_eq!((after(&recent, 0), after(&recent, 2)), (None, Some(vec![3])));
        tokio::time::advance(KEPT_FOR).await;
        recent.forget(Instant::now());
        assert_eq!((recent.messages.capacity(), recent.bytes), (0, 0));
    }
}
