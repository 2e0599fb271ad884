use std::future::poll_fn;

use futures_util::FutureExt;

use super::*;
use crate::model::Message;

fn delivery(chat_id: ChatId, sequence: i64) -> Arc<Delivery> {
    Delivery::new(Message::example(chat_id, sequence))
}

fn subscribe(registry: &Arc<Registry>, chat_id: ChatId, user: &str) -> (Subscription, broadcast::Receiver<Arc<Delivery>>, Arc<Mailbox>) {
    let mailbox = Arc::new(Mailbox::default());
    let (subscription, receiver) = registry.subscribe(chat_id, UserId::new(user), false, Arc::clone(&mailbox));
    (subscription, receiver, mailbox)
}

fn removal(chat_id: ChatId, user: &str, access_version: Option<i64>) -> AccessEnd {
    AccessEnd::Removed { chat_id, user_id: UserId::new(user), access_version }
}

fn evictions(mailbox: &Mailbox) -> usize {
    poll_fn(|cx| mailbox.poll_take(cx)).now_or_never().map_or(0, |evictions| evictions.len())
}

#[test]
fn a_chat_without_subscribers_takes_no_memory() {
    let (registry, chat) = (Registry::new(), ChatId::generate());
    let first = subscribe(&registry, chat, "alice");
    let second = subscribe(&registry, chat, "bob");
    drop(first);
    assert_eq!(registry.chats(), [chat]);
    drop(second);
    assert_eq!((registry.chats().len(), registry.subscription_count()), (0, 0));
}

#[test]
fn what_went_through_before_is_not_delivered_again() {
    let (registry, chat) = (Registry::new(), ChatId::generate());
    let (_subscription, mut receiver, _) = subscribe(&registry, chat, "alice");
    for sequence in [1, 2, 2, 1, 3] {
        registry.deliver(delivery(chat, sequence));
    }
    let received: Vec<i64> = std::iter::from_fn(|| receiver.try_recv().ok()).map(|d| d.message.sequence).collect();
    assert_eq!(received, [1, 2, 3]);
}

#[tokio::test]
async fn an_eviction_reaches_the_removed_users_streams_only() {
    let (registry, chat) = (Registry::new(), ChatId::generate());
    let (subscription, _receiver, mailbox) = subscribe(&registry, chat, "bob");
    let (_other, _other_receiver, other_mailbox) = subscribe(&registry, chat, "alice");
    registry.evict(&removal(chat, "bob", None));
    assert_eq!(poll_fn(|cx| mailbox.poll_take(cx)).await, [(chat, subscription.key(), Eviction::Removed)]);
    registry.evict(&AccessEnd::Deleted { chat_id: chat });
    assert_eq!(poll_fn(|cx| other_mailbox.poll_take(cx)).await.len(), 1, "only the deletion");
}

#[test]
fn a_removal_that_comes_late_does_not_end_the_access_of_somebody_who_was_added_again() {
    let (registry, chat) = (Registry::new(), ChatId::generate());
    let (subscription, _receiver, mailbox) = subscribe(&registry, chat, "bob");
    // Removed at 6, added again at 7.
    subscription.joined_at(0, 7);
    registry.evict(&removal(chat, "bob", Some(6)));
    assert_eq!(evictions(&mailbox), 0);
    registry.evict(&removal(chat, "bob", Some(8)));
    assert_eq!(evictions(&mailbox), 1, "removed again");
}

#[test]
fn a_removal_without_a_version_ends_access_whatever_is_known() {
    let (registry, chat) = (Registry::new(), ChatId::generate());
    let (subscription, _receiver, mailbox) = subscribe(&registry, chat, "bob");
    registry.evict(&removal(chat, "bob", None));
    assert_eq!(evictions(&mailbox), 1, "while it joins");
    subscription.joined_at(0, 7);
    registry.evict(&removal(chat, "bob", None));
    assert_eq!(evictions(&mailbox), 1);
}

#[test]
fn a_removal_during_a_join_counts_where_it_is_behind_what_the_join_saw() {
    for (removals, seen, expected) in [(vec![6], 7, 0), (vec![8], 7, 1), (vec![8, 6], 7, 1), (vec![6, 5], 5, 1), (vec![7], 7, 0)] {
        let (registry, chat) = (Registry::new(), ChatId::generate());
        let (subscription, _receiver, mailbox) = subscribe(&registry, chat, "bob");
        for version in &removals {
            registry.evict(&removal(chat, "bob", Some(*version)));
        }
        assert_eq!(evictions(&mailbox), 0, "what the join will see isn't known");
        subscription.joined_at(0, seen);
        assert_eq!(evictions(&mailbox), expected, "{removals:?} {seen}");
    }
}

#[test]
fn what_the_sweep_finds_of_members_counts_against_late_removals_too() {
    let (registry, chat) = (Registry::new(), ChatId::generate());
    let (subscription, _receiver, mailbox) = subscribe(&registry, chat, "bob");
    subscription.joined_at(0, 5);
    let position = |access_version| ChatPosition { chat_id: chat, last_sequence: 0, access_version };
    let bob = HashSet::from([UserId::new("bob")]);
    registry.evict_strangers(&position(7), &bob, registry.watermark());
    registry.evict(&removal(chat, "bob", Some(6)));
    assert_eq!(evictions(&mailbox), 0, "a member at 7");
    // The store was restored from an older backup: versions begin again below.
    assert!(!registry.evict_strangers(&position(3), &bob, registry.watermark()), "perhaps an old look");
    assert!(registry.evict_strangers(&position(3), &bob, registry.watermark()), "seen again");
    registry.access_checked(&position(3));
    registry.evict(&removal(chat, "bob", Some(4)));
    assert_eq!(evictions(&mailbox), 1);
    registry.evict_strangers(&position(4), &HashSet::new(), registry.watermark());
    assert_eq!(evictions(&mailbox), 1, "no member any more");
}

#[test]
fn the_sweep_ends_nothing_of_a_member_whom_it_read_too_early() {
    let position = |chat_id, access_version| ChatPosition { chat_id, last_sequence: 0, access_version };
    let (nobody, registry, chat) = (HashSet::new(), Registry::new(), ChatId::generate());
    // Read while the stream joins, before its user was added at 6.
    let (subscription, _receiver, mailbox) = subscribe(&registry, chat, "bob");
    registry.evict_strangers(&position(chat, 5), &nobody, registry.watermark());
    subscription.joined_at(0, 6);
    assert_eq!(evictions(&mailbox), 0);
    // And after it has joined.
    registry.evict_strangers(&position(chat, 5), &nobody, registry.watermark());
    assert_eq!(evictions(&mailbox), 0);
    registry.evict_strangers(&position(chat, 6), &nobody, registry.watermark());
    assert_eq!(evictions(&mailbox), 1, "a member no more");
    // Removed between the join's look and the sweep's.
    let (late, _late_receiver, mailbox) = subscribe(&registry, chat, "bob");
    registry.evict_strangers(&position(chat, 7), &nobody, registry.watermark());
    late.joined_at(0, 7);
    assert_eq!(evictions(&mailbox), 1);
    // An old look doesn't make the version older that it was a member at.
    let bob = HashSet::from([UserId::new("bob")]);
    let (again, _again_receiver, mailbox) = subscribe(&registry, chat, "bob");
    again.joined_at(0, 9);
    registry.evict_strangers(&position(chat, 8), &bob, registry.watermark());
    registry.evict(&removal(chat, "bob", Some(9)));
    assert_eq!(evictions(&mailbox), 0);
}

#[derive(Default)]
struct Noted(Mutex<Vec<(ChatId, bool)>>);

impl Interest for Noted {
    fn begins(&self, chat_id: ChatId) {
        lock(&self.0).push((chat_id, true));
    }

    fn ends(&self, chat_id: ChatId) {
        lock(&self.0).push((chat_id, false));
    }
}

fn received(receiver: &mut broadcast::Receiver<Arc<Delivery>>) -> Vec<i64> {
    std::iter::from_fn(|| receiver.try_recv().ok()).map(|delivery| delivery.message.sequence).collect()
}

#[test]
fn the_first_and_the_last_stream_of_a_chat_are_told() {
    let noted = Arc::new(Noted::default());
    let (registry, _holes) = Registry::shared(noted.clone());
    let chat = ChatId::generate();
    let (first, second) = (subscribe(&registry, chat, "alice"), subscribe(&registry, chat, "bob"));
    drop(first);
    assert_eq!(*lock(&noted.0), [(chat, true)]);
    drop(second);
    let _third = subscribe(&registry, chat, "alice");
    assert_eq!(*lock(&noted.0), [(chat, true), (chat, false), (chat, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_early_waits_for_those_before_it() {
    let (registry, mut holes) = Registry::shared(Arc::new(Noted::default()));
    let chat = ChatId::generate();
    let (subscription, mut receiver, _) = subscribe(&registry, chat, "alice");
    subscription.joined_at(4, 1);
    for sequence in [7, 6, 8, 6] {
        registry.deliver(delivery(chat, sequence));
    }
    assert_eq!(received(&mut receiver), [0; 0]);
    assert_eq!(registry.hole_count(), 1, "one hole is told once");
    assert_eq!(holes.next().await, Some(chat));
    assert_eq!(registry.hole(chat), Some(Hole { head: 4, since: Instant::now() }));
    registry.deliver(delivery(chat, 5));
    assert_eq!(received(&mut receiver), [5, 6, 7, 8]);
    assert_eq!(registry.hole(chat), None);
    registry.deliver(delivery(chat, 10));
    assert_eq!(registry.hole_count(), 2, "another hole is told of");
}

#[test]
fn early_messages_are_held_in_bounded_memory_and_none_is_forgotten() {
    let (registry, _holes) = Registry::shared(Arc::new(Noted::default()));
    let chat = ChatId::generate();
    let (subscription, _receiver, _) = subscribe(&registry, chat, "alice");
    subscription.joined_at(0, 1);
    for sequence in 2..1_000 {
        registry.deliver(delivery(chat, sequence));
    }
    registry.deliver(delivery(chat, 1));
    let hole = registry.hole(chat).expect("999 was heard of");
    assert!((2..100).contains(&hole.head), "{hole:?}");
}

#[test]
fn what_the_repository_does_not_have_is_forgotten() {
    let (registry, _holes) = Registry::shared(Arc::new(Noted::default()));
    let chat = ChatId::generate();
    let (subscription, mut receiver, _) = subscribe(&registry, chat, "alice");
    subscription.joined_at(4, 1);
    registry.deliver(delivery(chat, i64::MAX));
    registry.nothing_beyond(chat, 4);
    assert_eq!(registry.hole(chat), None);
    registry.deliver(delivery(chat, 5));
    assert_eq!(received(&mut receiver), [5]);
}

#[test]
fn what_comes_while_a_stream_joins_reaches_it() {
    let (registry, _holes) = Registry::shared(Arc::new(Noted::default()));
    let chat = ChatId::generate();
    let (subscription, mut receiver, _) = subscribe(&registry, chat, "alice");
    for sequence in 3..=6 {
        registry.deliver(delivery(chat, sequence));
    }
    assert_eq!(subscription.joined_at(4, 1), 4);
    assert_eq!(received(&mut receiver), [5, 6]);
}

#[test]
fn a_message_whose_publish_was_lost_shows_as_behind() {
    let (registry, chat) = (Registry::new(), ChatId::generate());
    let (subscription, _receiver, _) = subscribe(&registry, chat, "alice");
    assert_eq!(subscription.joined_at(4, 1), 4);
    assert_eq!(subscription.joined_at(2, 1), 4, "one that joined behind must read up to the head");
    let position = |last_sequence| ChatPosition { chat_id: chat, last_sequence, access_version: 1 };
    assert_eq!(registry.behind(&position(4)), None);
    assert_eq!(registry.behind(&position(5)), Some(4));
    registry.deliver(delivery(chat, 5));
    assert_eq!(registry.behind(&position(5)), None);
}
