//! Streams of a chat that lack the same read it together.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Delivery;
use super::channel::Channel;
use super::recent::MESSAGES_MAX;

/// How long another stream's read is waited for.
const ANOTHER_DUE: Duration = Duration::from_millis(500);

/// One stream's read of what its chat's [`super::recent`] messages don't hold. When it goes, those who waited for it go on.
pub struct SharedRead {
    channel: Arc<Channel>,
    after: i64,
    /// Others wait for it.
    leads: bool,
}

impl SharedRead {
    pub(super) fn new(channel: Arc<Channel>, after: i64) -> Self {
        Self { channel, after, leads: false }
    }

    /// Waits while another stream reads what this one may lack, too. Returns whether it is there now; if not, this one is to read for itself.
    pub async fn was_done_by_another(&mut self) -> bool {
        let channel = Arc::clone(&self.channel);
        let mut read = pin!(channel.read.notified());
        // Before the look at who reads: then its end isn't missed.
        read.as_mut().enable();
        {
            let mut state = channel.state();
            // Streams far behind seldom lack the same, and what hasn't gone through yet isn't kept.
            let lacks = state.head.map_or(0, |head| head - self.after);
            if lacks <= 0 || lacks > MESSAGES_MAX as i64 {
                return false;
            }
            if !std::mem::replace(&mut state.reading, true) {
                self.leads = true;
                return false;
            }
        }
        timeout(ANOTHER_DUE, read).await.is_ok() && channel.state().recent.after(self.after).is_some()
    }

    /// Keeps what was read, ascending, for the others.
    pub fn keep(&self, messages: &[Arc<Delivery>]) {
        let mut state = self.channel.state();
        if let Some(head) = state.head.filter(|_| state.streams.len() > 1) {
            state.recent.keep(messages, head);
        }
    }
}

impl Drop for SharedRead {
    fn drop(&mut self) {
        if self.leads {
            self.channel.state().reading = false;
            self.channel.read.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::super::channel::Stream;
    use super::*;
    use crate::model::{ChatId, Message, UserId};

    fn stands_at(head: i64) -> Arc<Channel> {
        let channel = Channel::new();
        let mut state = channel.state();
        state.head = Some(head);
        for key in 0..3 {
            let mailbox = Arc::default();
            state.streams.insert(key, Stream { user_id: UserId::new("alice"), trusted: false, mailbox, member_at: None, removed_at: None });
        }
        drop(state);
        channel
    }

    fn read(after: i64, up_to: i64) -> Vec<Arc<Delivery>> {
        let chat_id = ChatId::generate();
        (after + 1..=up_to).map(|sequence| Delivery::new(Message::example(chat_id, sequence))).collect()
    }

    #[tokio::test]
    async fn streams_that_lack_the_same_wait_for_the_first_to_read_it() {
        let channel = stands_at(9);
        let share = || SharedRead::new(Arc::clone(&channel), 4);
        let (mut first, mut second, mut third) = (share(), share(), share());
        assert!(!first.was_done_by_another().await, "it reads");
        let mut others = (Box::pin(second.was_done_by_another()), Box::pin(third.was_done_by_another()));
        assert_eq!((poll!(&mut others.0), poll!(&mut others.1)), (Poll::Pending, Poll::Pending));
        first.keep(&read(4, 9));
        drop(first);
        assert!(others.0.await && others.1.await);
    }

    #[tokio::test]
    async fn a_read_that_fails_or_is_given_up_leaves_the_others_to_read_for_themselves() {
        let channel = stands_at(9);
        let share = || SharedRead::new(Arc::clone(&channel), 4);
        let (mut first, mut second) = (share(), share());
        assert!(!first.was_done_by_another().await);
        let mut waits = Box::pin(second.was_done_by_another());
        assert_eq!(poll!(&mut waits), Poll::Pending);
        drop(first);
        assert!(!waits.await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_takes_long_is_not_waited_for() {
        let channel = stands_at(9);
        let share = || SharedRead::new(Arc::clone(&channel), 4);
        let (mut first, mut second) = (share(), share());
        assert!(!first.was_done_by_another().await);
        assert!(!second.was_done_by_another().await);
    }

    #[tokio::test]
    async fn a_stream_that_lacks_nothing_that_went_through_waits_for_nobody() {
        let channel = stands_at(9);
        let (mut first, mut second) = (SharedRead::new(Arc::clone(&channel), 4), SharedRead::new(Arc::clone(&channel), 9));
        assert!(!first.was_done_by_another().await);
        assert_eq!(poll!(Box::pin(second.was_done_by_another())), Poll::Ready(false));
    }

    #[tokio::test]
    async fn a_stream_far_behind_waits_for_nobody() {
        let channel = stands_at(MESSAGES_MAX as i64 + 10);
        let (mut near, mut far) = (SharedRead::new(Arc::clone(&channel), 10), SharedRead::new(Arc::clone(&channel), 9));
        assert!(!near.was_done_by_another().await);
        assert_eq!(poll!(Box::pin(far.was_done_by_another())), Poll::Ready(false));
    }
}
