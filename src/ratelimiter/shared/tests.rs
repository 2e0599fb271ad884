use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use governor::clock::FakeRelativeClock;
use proptest::prelude::*;

use super::*;

/// A ledger with a clock of its own, as Redis has.
struct FakeLedger {
    clock: FakeRelativeClock,
    full_at: Mutex<HashMap<String, Duration>>,
    is_away: AtomicBool,
}

impl FakeLedger {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.now().as_u64())
    }
}

#[async_trait]
impl Ledger for FakeLedger {
    async fn charge(&self, charges: &[Charge]) -> Vec<Option<Duration>> {
        if self.is_away.load(Ordering::Relaxed) {
            return vec![None; charges.len()];
        }
        let mut full_at = self.full_at.lock().unwrap();
        let mut charge = |charge: &Charge| {
            let full_at = full_at.entry(charge.key.clone()).or_default();
            *full_at = (*full_at).max(self.now()) + charge.cost;
            Some(*full_at - self.now())
        };
        charges.iter().map(&mut charge).collect()
    }
}

/// Nodes that share a ledger.
struct Nodes {
    clock: FakeRelativeClock,
    ledger: FakeLedger,
    nodes: Vec<SharedLimiter<FakeRelativeClock>>,
}

fn rate(per_second: u32, burst: u32) -> Rate {
    Rate { per_second: NonZeroU32::new(per_second).unwrap(), burst: NonZeroU32::new(burst).unwrap() }
}

fn alice() -> UserId {
    UserId::new("alice")
}

impl Nodes {
    fn new(count: usize, rate: Rate) -> Self {
        let clock = FakeRelativeClock::default();
        let rates = Rates { user_sends: Some(rate), ..Rates::default() };
        let ledger = FakeLedger { clock: clock.clone(), full_at: Mutex::default(), is_away: AtomicBool::new(false) };
        let nodes = (0..count).map(|_| SharedLimiter::with_clock(rates, &clock)).collect();
        Self { clock, ledger, nodes }
    }

    fn check(&self, node: usize) -> Result<(), RetryAfter> {
        self.nodes[node].check(Check::Send(&alice()))
    }

    fn settle(&self, node: usize) {
        while self.nodes[node].settle(&self.ledger).now_or_never().expect("the fake answers at once") {}
    }

    /// How often a check passes until it doesn't; each time the node settles up.
    fn exhaust(&self, node: usize) -> u32 {
        let mut passed = 0;
        while self.check(node).is_ok() {
            passed += 1;
            self.settle(node);
        }
        passed
    }
}

#[test]
fn what_was_taken_at_one_node_counts_at_the_others() {
    let nodes = Nodes::new(3, rate(10, 160));
    assert_eq!(nodes.exhaust(0), 160, "one node alone gives the whole burst");
    assert_eq!((nodes.exhaust(1), nodes.exhaust(2)), (10, 10), "a sixteenth each, until they have heard of it");
}

#[test]
fn what_is_lent_is_paid_back() {
    let nodes = Nodes::new(4, rate(10, 16));
    // Each gives a burst before it has settled up.
    for node in 0..4 {
        while nodes.check(node).is_ok() {}
    }
    (0..4).for_each(|node| nodes.settle(node));
    assert!(nodes.check(0).is_err());
    nodes.clock.advance(Duration::from_millis(100));
    assert_eq!(nodes.exhaust(0), 1, "with this it hears of the others");
    let RetryAfter(wait) = nodes.check(0).unwrap_err();
    assert_eq!(wait, Duration::from_millis(4_900), "until the four bursts are paid, but for one");
    nodes.clock.advance(wait);
    assert!(nodes.check(0).is_ok(), "the stated wait is true");
}

#[test]
fn without_the_ledger_each_node_limits_by_itself_and_never_none() {
    let nodes = Nodes::new(2, rate(10, 16));
    nodes.ledger.is_away.store(true, Ordering::Relaxed);
    assert_eq!((nodes.exhaust(0), nodes.exhaust(1)), (16, 16));
    nodes.ledger.is_away.store(false, Ordering::Relaxed);
    nodes.clock.advance(Duration::from_millis(100));
    assert_eq!(nodes.exhaust(0), 1, "and a ledger that knows nothing frees nobody");
}

#[test]
fn an_empty_ledger_frees_nobody() {
    let nodes = Nodes::new(1, rate(10, 16));
    nodes.exhaust(0);
    nodes.ledger.full_at.lock().unwrap().clear();
    nodes.clock.advance(Duration::from_millis(100));
    assert_eq!(nodes.exhaust(0), 1);
}

#[test]
fn what_comes_slowly_is_not_charged_and_not_remembered() {
    let nodes = Nodes::new(1, rate(100, 1_600));
    for _ in 0..50 {
        assert_eq!(nodes.check(0), Ok(()));
        nodes.settle(0);
        nodes.clock.advance(Duration::from_secs(1));
    }
    assert!(nodes.ledger.full_at.lock().unwrap().is_empty());
    nodes.nodes[0].forget();
    assert!(nodes.nodes[0].open().counts.is_empty());
}

proptest! {
    /// Whatever one does at however many nodes, when each settles up as soon as it has something to charge.
    #[test]
    fn spreading_over_nodes_gains_a_sixteenth_of_a_burst_a_node(
        count in 1_usize..6,
        per_second in 1_u32..200,
        burst in 1_u32..200,
        events in prop::collection::vec((0_usize..6, 0_u64..400), 1..600),
    ) {
        let rate = rate(per_second, burst);
        let nodes = Nodes::new(count, rate);
        let (mut passed, mut elapsed) = (0, Duration::ZERO);
        for (node, millis) in events {
            let node = node % count;
            // Mostly at once, and sometimes after a pause.
            if millis < 20 {
                nodes.clock.advance(Duration::from_millis(millis));
                elapsed += Duration::from_millis(millis);
            }
            if nodes.check(node).is_ok() {
                passed += 1;
            }
            nodes.settle(node);
            let bound = elapsed.as_secs_f64() * f64::from(per_second) + f64::from(burst) + f64::from(part_of(rate)) * count as f64;
            prop_assert!(f64::from(passed) <= bound + 1.0, "{passed} passed, {bound}");
        }
    }

    /// However late nodes settle up, nobody gets more than a burst from each and the rate.
    #[test]
    fn settling_late_gains_no_more_than_the_nodes_own_bursts(
        count in 1_usize..6,
        burst in 1_u32..100,
        events in prop::collection::vec((0_usize..6, 0_u8..10), 1..600),
    ) {
        let nodes = Nodes::new(count, rate(50, burst));
        let (mut passed, mut elapsed) = (0, Duration::ZERO);
        for (node, event) in events {
            let node = node % count;
            match event {
                0 => nodes.settle(node),
                1 => {
                    nodes.clock.advance(Duration::from_millis(15));
                    elapsed += Duration::from_millis(15);
                }
                _ => passed += u32::from(nodes.check(node).is_ok()),
            }
            let bound = (elapsed.as_secs_f64() * 50.0 + f64::from(burst)) * count as f64;
            prop_assert!(f64::from(passed) <= bound + 1.0, "{passed} passed, {bound}");
        }
    }
}
