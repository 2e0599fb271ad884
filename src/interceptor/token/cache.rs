//! What was verified lately: verifying a signature, let alone asking a service, costs more than looking here.
//!
//! By the token's hash, never by the token. Full: what was not asked for longest goes first, roughly.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::model::{Identity, Timestamp};

/// Tokens that are remembered.
pub const ENTRIES_MAX: usize = 10_000;
/// Parts with a lock each.
const SHARDS: usize = 16;
/// Entries of a shard's young half. When it is full it becomes the old half, and the old half goes.
const HALF_ENTRIES_MAX: usize = ENTRIES_MAX / SHARDS / 2;

/// The hash of a token and of what it was shown for.
pub type Fingerprint = [u8; 32];

pub fn fingerprint(token: &str, endpoint: &str) -> Fingerprint {
    let mut hash = Sha256::new();
    // The length keeps the two apart.
    hash.update((token.len() as u64).to_be_bytes());
    hash.update(token);
    hash.update(endpoint);
    hash.finalize().into()
}

struct Entry {
    identity: Identity,
    /// Of the keys that it was verified with: with others it says nothing.
    generation: u64,
    until: Timestamp,
}

#[derive(Default)]
struct Shard {
    young: HashMap<Fingerprint, Entry>,
    old: HashMap<Fingerprint, Entry>,
}

#[derive(Default)]
pub struct Cache {
    shards: [Mutex<Shard>; SHARDS],
}

impl Cache {
    /// What is remembered, if it is still good at `now` and was verified with the keys of this generation.
    pub fn get(&self, fingerprint: &Fingerprint, generation: u64, now: Timestamp) -> Option<Identity> {
        let (found, _gone) = {
            let mut shard = self.shard(fingerprint).lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = shard.young.get(fingerprint) {
                (entry.at(generation, now), None)
            } else {
                let entry = shard.old.remove(fingerprint)?;
                let found = entry.at(generation, now);
                (found, shard.put(*fingerprint, entry))
            }
        };
        found
    }

    pub fn put(&self, fingerprint: Fingerprint, identity: Identity, generation: u64, until: Timestamp) {
        let _gone = {
            let mut shard = self.shard(&fingerprint).lock().unwrap_or_else(PoisonError::into_inner);
            shard.put(fingerprint, Entry { identity, generation, until })
        };
    }

    fn shard(&self, fingerprint: &Fingerprint) -> &Mutex<Shard> {
        &self.shards[usize::from(fingerprint[0]) % SHARDS]
    }
}

impl Shard {
    /// Returns what goes, to be dropped without the lock.
    fn put(&mut self, fingerprint: Fingerprint, entry: Entry) -> Option<HashMap<Fingerprint, Entry>> {
        let full = self.young.len() >= HALF_ENTRIES_MAX && !self.young.contains_key(&fingerprint);
        let gone = full.then(|| mem::replace(&mut self.old, mem::take(&mut self.young)));
        self.young.insert(fingerprint, entry);
        gone
    }
}

impl Entry {
    fn at(&self, generation: u64, now: Timestamp) -> Option<Identity> {
        (self.generation == generation && now < self.until).then(|| self.identity.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SystemRole, UserId};

    const END: Timestamp = Timestamp::from_secs(100);

    fn identity() -> Identity {
        Identity { user_id: UserId::new("alice"), role: SystemRole::User, expires_at: END }
    }

    #[test]
    fn an_entry_is_good_until_its_end_and_for_its_keys_alone() {
        let (cache, token) = (Cache::default(), fingerprint("token", ""));
        cache.put(token, identity(), 1, END);
        assert_eq!(cache.get(&token, 1, Timestamp::from_secs(99)), Some(identity()));
        assert_eq!(cache.get(&token, 1, END), None);
        assert_eq!(cache.get(&token, 2, Timestamp::from_secs(99)), None, "the keys have changed");
        assert_eq!(cache.get(&fingerprint("token", "/x"), 1, Timestamp::from_secs(99)), None, "another endpoint");
        assert_ne!(fingerprint("a", "bc"), fingerprint("ab", "c"));
    }

    #[test]
    fn a_flood_of_tokens_is_bounded_and_what_is_in_use_stays() {
        let (cache, used) = (Cache::default(), fingerprint("used", ""));
        cache.put(used, identity(), 1, END);
        for number in 0..5 * ENTRIES_MAX {
            cache.put(fingerprint(&number.to_string(), ""), identity(), 1, END);
            assert!(cache.get(&used, 1, Timestamp::from_secs(1)).is_some(), "after {number}");
        }
        let held: usize = cache.shards.iter().map(|shard| shard.lock().unwrap()).map(|shard| shard.young.len() + shard.old.len()).sum();
        assert!(held <= ENTRIES_MAX, "{held} are held");
    }
}
