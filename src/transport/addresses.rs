//! How many connections an address has open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::client_network;

/// A flood is told of this often.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// Counts connections by their client's network. It holds an entry for each address that is connected, so no more than there are connections.
pub struct Addresses {
    /// 0: no limit.
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<IpAddr, usize>,
    refused: u64,
    told_at: Option<Instant>,
}

/// A connection's place; free again when it goes.
pub struct Place {
    addresses: Arc<Addresses>,
    network: IpAddr,
}

impl Addresses {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default() })
    }

    /// `None`: the address has as many connections as it may have.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = client_network(address);
        let mut state = self.lock();
        let open = state.open.get(&network).copied().unwrap_or(0);
        if self.max != 0 && open >= self.max {
            state.refuse(network, self.max);
            return None;
        }
        state.open.insert(network, open + 1);
        Some(Place { addresses: Arc::clone(self), network })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refuse(&mut self, network: IpAddr, max: usize) {
        self.refused += 1;
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            self.told_at = Some(Instant::now());
            let refused = std::mem::take(&mut self.refused);
            tracing::warn!(%network, max, refused, "an address has too many connections; new ones are closed (CHAT_MAX_CONNECTIONS_PER_ADDRESS)");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.addresses.lock();
        if let Some(open) = state.open.get_mut(&self.network) {
            *open -= 1;
            if *open == 0 {
                state.open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_leaves_nothing_behind() {
        let addresses = Addresses::new(2);
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let (first, second) = (addresses.enter(one), addresses.enter(one));
        assert!(first.is_some() && second.is_some() && addresses.enter(one).is_none());
        assert!(addresses.enter(other).is_some(), "another address isn't concerned");
        drop(first);
        let third = addresses.enter(one);
        assert!(third.is_some() && addresses.enter(one).is_none());
        drop((second, third));
        assert!(addresses.lock().open.is_empty());
        // All of an IPv6 client's addresses are one.
        let places: Vec<_> = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|address| addresses.enter(address.parse().unwrap())).into();
        assert!(places[1].is_some() && places[2].is_none());
    }
}
