//! Which chats this node listens to, and where.
//!
//! A chat is wanted as long as it has a stream here. What is to be done about it is not queued but noted, at most once a chat and
//! server, and looked at when the server has time: so what waits is bounded by the chats themselves, and one that comes and goes
//! costs nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};

use crate::broker::Interest;
use crate::broker::channel::lock;
use crate::model::ChatId;

/// A link to one server; numbers aren't used again.
pub(super) type LinkId = u64;

/// Which link a chat belongs to; `None`: no server is known that has it.
pub(super) type Owner = Arc<dyn Fn(ChatId) -> Option<LinkId> + Send + Sync>;

/// What a server is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Subscribe(ChatId),
    Unsubscribe(ChatId),
}

pub(super) struct Subscriptions {
    state: Mutex<State>,
}

struct State {
    /// The chats with streams here, and whoever waits until they are listened to.
    wanted: HashMap<ChatId, Vec<oneshot::Sender<()>>>,
    owner: Owner,
    links: HashMap<LinkId, LinkState>,
}

#[derive(Default)]
struct LinkState {
    is_up: bool,
    /// What the server has confirmed.
    subscribed: HashSet<ChatId>,
    /// Chats to look at.
    noted: BTreeSet<ChatId>,
    /// Among them are some that had streams here before this link listened to them: what was published meanwhile didn't come.
    is_behind: bool,
    changed: Arc<Notify>,
}

impl Subscriptions {
    pub fn new() -> Arc<Self> {
        let owner: Owner = Arc::new(|_| None);
        Arc::new(Self { state: Mutex::new(State { wanted: HashMap::new(), owner, links: HashMap::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// From now on there are these links, and chats belong to them like this.
    pub fn reroute(&self, links: &[LinkId], owner: Owner) {
        let state = &mut *self.state();
        state.owner = owner;
        state.links.retain(|id, _| links.contains(id));
        for id in links {
            state.links.entry(*id).or_default();
        }
        let all: Vec<ChatId> = state.wanted.keys().copied().collect();
        for chat_id in all {
            state.note(chat_id);
        }
        // What has moved away.
        for (id, link) in &mut state.links {
            let moved = link.subscribed.iter().filter(|chat_id| (state.owner)(**chat_id) != Some(*id));
            link.noted.extend(moved);
            link.is_behind |= link.noted.iter().any(|chat_id| !link.subscribed.contains(chat_id));
            link.changed.notify_one();
        }
    }

    /// A link has a new connection, which listens to nothing yet.
    pub fn connected(&self, id: LinkId) {
        let state = &mut *self.state();
        let Some(link) = state.links.get_mut(&id) else { return };
        link.is_up = true;
        link.subscribed.clear();
        link.noted = state.wanted.keys().copied().filter(|chat_id| (state.owner)(*chat_id) == Some(id)).collect();
        link.is_behind = !link.noted.is_empty();
    }

    /// A link has lost its connection. Nobody waits for it.
    pub fn lost(&self, id: LinkId) {
        let state = &mut *self.state();
        if let Some(link) = state.links.get_mut(&id) {
            link.is_up = false;
            link.subscribed.clear();
            link.noted.clear();
        }
        for waiting in state.wanted.values_mut() {
            waiting.clear();
        }
    }

    /// Tells when a link has something to do.
    pub fn changed(&self, id: LinkId) -> Arc<Notify> {
        self.state().links.get(&id).map(|link| Arc::clone(&link.changed)).unwrap_or_default()
    }

    /// What a link has to do next, at most `limit`. What is taken is to be [`Subscriptions::settled`].
    pub fn take(&self, id: LinkId, limit: usize) -> Vec<Change> {
        let state = &mut *self.state();
        let mut changes = Vec::new();
        let Some(link) = state.links.get_mut(&id) else { return changes };
        while changes.len() < limit
            && let Some(chat_id) = link.noted.pop_first()
        {
            let should = state.wanted.contains_key(&chat_id) && (state.owner)(chat_id) == Some(id);
            if should && !link.subscribed.contains(&chat_id) {
                changes.push(Change::Subscribe(chat_id));
            } else if !should && link.subscribed.remove(&chat_id) {
                changes.push(Change::Unsubscribe(chat_id));
            }
        }
        changes
    }

    /// The server has done it, or has refused.
    pub fn settled(&self, id: LinkId, change: Change, done: bool) {
        let state = &mut *self.state();
        let Some(link) = state.links.get_mut(&id) else { return };
        match (change, done) {
            (Change::Subscribe(chat_id), true) => {
                link.subscribed.insert(chat_id);
                for waiting in state.wanted.get_mut(&chat_id).into_iter().flat_map(|waiting| waiting.drain(..)) {
                    // Whoever has gone away doesn't wait.
                    waiting.send(()).ok();
                }
            }
            (Change::Subscribe(chat_id), false) => {
                link.noted.insert(chat_id);
                // What is published until it listens is missed.
                link.is_behind = true;
            }
            // The server answers for a channel that it doesn't have as for one that it had.
            (Change::Unsubscribe(_), _) => {}
        }
    }

    /// Whether a link now listens to everything, having been behind; told once.
    pub fn caught_up(&self, id: LinkId) -> bool {
        self.state().links.get_mut(&id).is_some_and(|link| link.noted.is_empty() && std::mem::take(&mut link.is_behind))
    }

    /// Whether the server has confirmed it and wasn't told otherwise.
    pub fn is_subscribed(&self, id: LinkId, chat_id: ChatId) -> bool {
        self.state().links.get(&id).is_some_and(|link| link.subscribed.contains(&chat_id))
    }

    /// For a chat that is wanted: resolves when it is listened to. `None`: it is, or there is nothing to wait for.
    pub fn confirmation(&self, chat_id: ChatId) -> Option<oneshot::Receiver<()>> {
        let state = &mut *self.state();
        let link = state.links.get(&(state.owner)(chat_id)?)?;
        if !link.is_up || link.subscribed.contains(&chat_id) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.wanted.get_mut(&chat_id)?.push(sender);
        Some(receiver)
    }
}

impl State {
    /// Has the chat looked at, by whom it belongs to.
    fn note(&mut self, chat_id: ChatId) {
        if let Some(link) = (self.owner)(chat_id).and_then(|id| self.links.get_mut(&id)).filter(|link| link.is_up) {
            link.noted.insert(chat_id);
            link.changed.notify_one();
        }
    }
}

impl Interest for Subscriptions {
    fn begins(&self, chat_id: ChatId) {
        let state = &mut *self.state();
        state.wanted.entry(chat_id).or_default();
        state.note(chat_id);
    }

    fn ends(&self, chat_id: ChatId) {
        let state = &mut *self.state();
        state.wanted.remove(&chat_id);
        state.note(chat_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 100;

    fn on(id: LinkId) -> Owner {
        Arc::new(move |_| Some(id))
    }

    fn connected() -> (Arc<Subscriptions>, ChatId) {
        let subscriptions = Subscriptions::new();
        subscriptions.reroute(&[1], on(1));
        subscriptions.connected(1);
        (subscriptions, ChatId::generate())
    }

    #[test]
    fn a_join_waits_until_its_chat_is_listened_to() {
        let (subscriptions, chat) = connected();
        subscriptions.begins(chat);
        let mut confirmation = subscriptions.confirmation(chat).expect("it isn't yet");
        assert!(confirmation.try_recv().is_err());
        assert_eq!(subscriptions.take(1, ALL), [Change::Subscribe(chat)]);
        subscriptions.settled(1, Change::Subscribe(chat), true);
        assert_eq!(confirmation.try_recv(), Ok(()));
        assert!(subscriptions.confirmation(chat).is_none(), "a second one needn't");
    }

    #[test]
    fn nobody_waits_for_a_server_that_is_away() {
        let subscriptions = Subscriptions::new();
        let chat = ChatId::generate();
        subscriptions.begins(chat);
        assert!(subscriptions.confirmation(chat).is_none(), "no server is known");
        subscriptions.reroute(&[1], on(1));
        assert!(subscriptions.confirmation(chat).is_none(), "it isn't connected");
        subscriptions.connected(1);
        let mut confirmation = subscriptions.confirmation(chat).unwrap();
        subscriptions.lost(1);
        assert_eq!(confirmation.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn a_chat_that_comes_and_goes_costs_nothing() {
        let (subscriptions, chat) = connected();
        for _ in 0..10 {
            subscriptions.begins(chat);
            subscriptions.ends(chat);
        }
        assert!(subscriptions.take(1, ALL).is_empty());
        subscriptions.begins(chat);
        assert_eq!(subscriptions.take(1, ALL), [Change::Subscribe(chat)]);
        // It goes while it is being subscribed.
        subscriptions.ends(chat);
        subscriptions.settled(1, Change::Subscribe(chat), true);
        assert_eq!(subscriptions.take(1, ALL), [Change::Unsubscribe(chat)]);
    }

    #[test]
    fn after_a_reconnection_everything_is_subscribed_again_in_pieces() {
        let (subscriptions, _) = connected();
        let mut chats: Vec<ChatId> = (0..10).map(|_| ChatId::generate()).collect();
        chats.iter().for_each(|chat| subscriptions.begins(*chat));
        for change in subscriptions.take(1, ALL) {
            subscriptions.settled(1, change, true);
        }
        subscriptions.lost(1);
        subscriptions.connected(1);
        let pieces = [subscriptions.take(1, 4), subscriptions.take(1, 4), subscriptions.take(1, 4)];
        assert_eq!(pieces.each_ref().map(Vec::len), [4, 4, 2]);
        chats.sort();
        assert_eq!(pieces.concat(), chats.into_iter().map(Change::Subscribe).collect::<Vec<_>>());
    }

    fn subscribe_all(subscriptions: &Subscriptions, id: LinkId) {
        for change in subscriptions.take(id, ALL) {
            subscriptions.settled(id, change, true);
        }
    }

    #[test]
    fn a_link_that_has_come_late_to_chats_says_once_that_it_has_caught_up() {
        let (subscriptions, chat) = connected();
        subscriptions.begins(chat);
        subscribe_all(&subscriptions, 1);
        assert!(!subscriptions.caught_up(1), "the join has read what was before");
        subscriptions.lost(1);
        subscriptions.connected(1);
        assert!(!subscriptions.caught_up(1), "not before it listens");
        subscribe_all(&subscriptions, 1);
        assert_eq!([subscriptions.caught_up(1), subscriptions.caught_up(1)], [true, false]);

        subscriptions.reroute(&[1, 2], on(1));
        subscriptions.connected(2);
        subscribe_all(&subscriptions, 1);
        assert!(!subscriptions.caught_up(1) && !subscriptions.caught_up(2), "nothing has moved");
        subscriptions.reroute(&[1, 2], on(2));
        subscribe_all(&subscriptions, 2);
        assert!(subscriptions.caught_up(2), "a slot has");
    }

    #[test]
    fn a_chat_follows_its_slot_to_another_server() {
        let (subscriptions, chat) = connected();
        subscriptions.begins(chat);
        assert_eq!(subscriptions.take(1, ALL), [Change::Subscribe(chat)]);
        subscriptions.settled(1, Change::Subscribe(chat), true);
        subscriptions.reroute(&[1, 2], on(2));
        subscriptions.connected(2);
        assert_eq!(subscriptions.take(1, ALL), [Change::Unsubscribe(chat)]);
        assert_eq!(subscriptions.take(2, ALL), [Change::Subscribe(chat)]);
        assert!(!subscriptions.is_subscribed(1, chat));
    }

    #[test]
    fn what_a_server_refuses_is_tried_again() {
        let (subscriptions, chat) = connected();
        subscriptions.begins(chat);
        assert_eq!(subscriptions.take(1, ALL), [Change::Subscribe(chat)]);
        subscriptions.settled(1, Change::Subscribe(chat), false);
        assert_eq!(subscriptions.take(1, ALL), [Change::Subscribe(chat)]);
    }
}
