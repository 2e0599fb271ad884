//! What couldn't be published and waits for a way: for a server that is away, or for the one that a moving slot has gone to.
//!
//! Of a chat's messages the newest is enough: whoever hears of it reads what it lacks. Announcements are kept each. What is published twice
//! does no harm: a registry drops what went through before, and nobody is evicted twice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::link::Frame;
use crate::broker::FrameCounts;
use crate::broker::channel::lock;

/// Announcements that are kept. Beyond it the oldest is dropped: the sweep of the other nodes finds it.
const ANNOUNCEMENTS_MAX: usize = 1_024;
/// Chats of which a message is kept. Beyond it that of the chat that was kept first is dropped, likewise.
const CHATS_MAX: usize = 1_024;
/// How long to wait before what is kept is tried again.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Kept {
    state: Mutex<State>,
    some: Notify,
}

#[derive(Default)]
struct State {
    announcements: VecDeque<Frame>,
    /// By the order in which their chats were kept.
    messages: BTreeMap<u64, Frame>,
    /// Where a channel's message is.
    channels: HashMap<String, u64>,
    next: u64,
}

impl Kept {
    /// Returns how many frames this drops: those that are older than another one of the same chat, and those that there is no room for.
    pub fn put(&self, frame: Frame) -> usize {
        let dropped = lock(&self.state).put(frame);
        self.some.notify_one();
        dropped
    }

    /// Takes what has a way now, announcements first.
    pub fn take(&self, has_way: impl Fn(&str) -> bool) -> Vec<Frame> {
        let state = &mut *lock(&self.state);
        let goes = |frame: &Frame| has_way(&frame.channel);
        let announcements = std::mem::take(&mut state.announcements);
        let (mut taken, waiting): (Vec<Frame>, Vec<Frame>) = announcements.into_iter().partition(|frame| goes(frame));
        state.announcements = waiting.into();
        let keys: Vec<u64> = state.messages.iter().filter(|(_, frame)| goes(frame)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(frame) = state.messages.remove(&key) {
                state.channels.remove(&frame.channel);
                taken.push(frame);
            }
        }
        taken
    }

    /// Waits until there is something, and then a moment. Cancel safe; for one who waits.
    pub async fn due(&self) {
        while self.is_empty() {
            self.some.notified().await;
        }
        sleep(PAUSE).await;
    }

    pub fn is_empty(&self) -> bool {
        self.frames() == FrameCounts::default()
    }

    pub fn frames(&self) -> FrameCounts {
        let state = lock(&self.state);
        FrameCounts { messages: state.messages.len(), announcements: state.announcements.len() }
    }
}

impl State {
    fn put(&mut self, frame: Frame) -> usize {
        let Some(sequence) = frame.sequence else {
            self.announcements.push_back(frame);
            let dropped = self.announcements.len().saturating_sub(ANNOUNCEMENTS_MAX);
            self.announcements.drain(..dropped);
            return dropped;
        };
        if let Some(key) = self.channels.get(&frame.channel)
            && let Some(known) = self.messages.get_mut(key)
        {
            if known.sequence < Some(sequence) {
                *known = frame;
            }
            return 1;
        }
        self.channels.insert(frame.channel.clone(), self.next);
        self.messages.insert(self.next, frame);
        self.next += 1;
        if self.messages.len() > CHATS_MAX
            && let Some((_, oldest)) = self.messages.pop_first()
        {
            self.channels.remove(&oldest.channel);
            return 1;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn message(channel: &str, sequence: i64) -> Frame {
        Frame { channel: channel.into(), payload: Vec::new(), sequence: Some(sequence) }
    }

    fn announcement(channel: &str) -> Frame {
        Frame { channel: channel.into(), payload: Vec::new(), sequence: None }
    }

    fn take_all(kept: &Kept) -> Vec<(String, Option<i64>)> {
        kept.take(|_| true).into_iter().map(|frame| (frame.channel, frame.sequence)).collect()
    }

    #[test]
    fn announcements_are_all_kept_and_go_first_and_of_a_chats_messages_the_newest() {
        let kept = Kept::default();
        let frames = [message("a", 2), announcement("a"), message("b", 7), message("a", 3), message("a", 1), announcement("a")];
        let dropped: Vec<usize> = frames.into_iter().map(|frame| kept.put(frame)).collect();
        assert_eq!(dropped, [0, 0, 0, 1, 1, 0]);
        assert_eq!(kept.frames(), FrameCounts { messages: 2, announcements: 2 });
        let expected = [("a", None), ("a", None), ("a", Some(3)), ("b", Some(7))];
        assert_eq!(take_all(&kept), expected.map(|(channel, sequence)| (channel.to_owned(), sequence)));
        assert!(take_all(&kept).is_empty());
    }

    #[test]
    fn what_has_no_way_stays() {
        let kept = Kept::default();
        [announcement("a"), announcement("b"), message("a", 1), message("b", 2)].into_iter().for_each(|frame| {
            kept.put(frame);
        });
        assert_eq!(kept.take(|channel| channel == "b").len(), 2);
        assert_eq!(take_all(&kept), [("a".to_owned(), None), ("a".to_owned(), Some(1))]);
    }

    #[test]
    fn beyond_the_bounds_the_oldest_goes_and_is_counted() {
        let kept = Kept::default();
        let put = |number: usize| [message(&number.to_string(), 1), announcement(&number.to_string())].map(|frame| kept.put(frame));
        assert!((0..CHATS_MAX).all(|number| put(number) == [0, 0]));
        assert_eq!(put(CHATS_MAX), [1, 1]);
        let left = take_all(&kept);
        assert_eq!(left.len(), ANNOUNCEMENTS_MAX + CHATS_MAX);
        assert!(!left.iter().any(|(channel, _)| channel == "0"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_due_a_moment_later() {
        let kept = Kept::default();
        assert!(kept.due().now_or_never().is_none(), "there is nothing");
        kept.put(announcement("a"));
        let began = tokio::time::Instant::now();
        kept.due().await;
        assert!(began.elapsed() >= PAUSE);
    }
}
