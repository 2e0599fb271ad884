//! Counters, gauges and histograms. Each is an atomic or a few of them and lives as long as the process; nothing is allocated, locked or
//! looked up to count. They are this project's own because the usual crates keep each sample of a histogram until somebody asks, which
//! is not bounded, and find a counter by its labels.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Something that only grows.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

/// Parts of a counter that every thread counts on all the time.
const PARTS: usize = 8;

/// A counter for what happens for each message and stream: threads count on parts of their own and don't take each other's line of cache.
#[derive(Debug)]
pub struct HotCounter([Part; PARTS]);

#[derive(Debug)]
#[repr(align(128))]
struct Part(AtomicU64);

static NEXT_PART: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread's part; one more than the last: not chosen yet.
    static PART: Cell<usize> = const { Cell::new(PARTS) };
}

fn part() -> usize {
    let part = PART.get();
    if part < PARTS {
        return part;
    }
    let part = NEXT_PART.fetch_add(1, Ordering::Relaxed) % PARTS;
    PART.set(part);
    part
}

impl HotCounter {
    pub const fn new() -> Self {
        Self([const { Part(AtomicU64::new(0)) }; PARTS])
    }

    pub fn add(&self, number: u64) {
        self.0[part()].0.fetch_add(number, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.iter().map(|part| part.0.load(Ordering::Relaxed)).sum()
    }
}

impl Default for HotCounter {
    fn default() -> Self {
        Self::new()
    }
}

/// Something that goes up and down.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub const fn new(value: i64) -> Self {
        Self(AtomicI64::new(value))
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more as long as the answer is kept.
    pub fn hold(&'static self) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }
}

/// One of what a gauge counts.
#[derive(Debug)]
pub struct Held(&'static Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counters told apart by one label, whose values are fixed.
#[derive(Debug)]
pub struct Family<const N: usize> {
    pub label: &'static str,
    pub values: [&'static str; N],
    counters: [Counter; N],
}

impl<const N: usize> Family<N> {
    pub const fn new(label: &'static str, values: [&'static str; N]) -> Self {
        Self { label, values, counters: [const { Counter::new() }; N] }
    }

    /// The counter of the label's value with this number.
    pub fn of(&self, value: usize) -> &Counter {
        &self.counters[value]
    }

    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.values.into_iter().zip(self.counters.iter().map(Counter::get))
    }
}

/// Buckets of a histogram, beside the last one, which has no upper end.
pub const BUCKETS_MAX: usize = 16;

/// The upper ends of a histogram's buckets.
#[derive(Debug)]
pub struct Bounds {
    /// Ascending.
    pub ends: &'static [u64],
    /// How many of what is counted make one of what is told: a billion nanoseconds a second.
    pub in_one: u64,
}

impl Bounds {
    pub const fn of(ends: &'static [u64]) -> Self {
        assert!(ends.len() <= BUCKETS_MAX, "more buckets than a histogram has");
        Self { ends, in_one: 1 }
    }

    /// In nanoseconds, told in seconds.
    pub const fn of_nanos(ends: &'static [u64]) -> Self {
        assert!(ends.len() <= BUCKETS_MAX, "more buckets than a histogram has");
        Self { ends, in_one: 1_000_000_000 }
    }
}

/// How values are spread.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    counts: [AtomicU64; BUCKETS_MAX + 1],
    sum: AtomicU64,
}

/// What a histogram holds at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The upper end of each bucket, and how many values are at or below it.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    pub const fn new(bounds: &'static Bounds) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; BUCKETS_MAX + 1], sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.ends.partition_point(|end| *end < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn snapshot(&self) -> Snapshot {
        let told = |value: u64| value as f64 / self.bounds.in_one as f64;
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let mut below = 0;
        let buckets = self.bounds.ends.iter().zip(counts).map(|(end, count)| {
            below += count;
            (told(*end), below)
        });
        Snapshot { buckets: buckets.collect(), count: counts.iter().sum(), sum: told(self.sum.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_bucket_that_it_ends() {
        static BOUNDS: Bounds = Bounds::of_nanos(&[1_000_000, 500_000_000]);
        let histogram = Histogram::new(&BOUNDS);
        for time in [Duration::from_micros(999), Duration::from_millis(1), Duration::from_millis(2), Duration::from_secs(1)] {
            histogram.observe_time(time);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.buckets, [(0.001, 2), (0.5, 3)]);
        assert_eq!(snapshot.count, 4);
        assert!((snapshot.sum - 1.003_999).abs() < 1e-9);
    }

    #[test]
    fn what_every_thread_counts_is_counted_once() {
        static COUNTER: HotCounter = HotCounter::new();
        let threads: Vec<_> = (0..2 * PARTS).map(|_| std::thread::spawn(|| (0..1000).for_each(|_| COUNTER.add(1)))).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(COUNTER.get(), 2 * PARTS as u64 * 1000);
    }

    #[test]
    fn a_gauge_counts_what_is_held() {
        static GAUGE: Gauge = Gauge::new(0);
        let (one, two) = (GAUGE.hold(), GAUGE.hold());
        drop(one);
        assert_eq!(GAUGE.get(), 1);
        drop(two);
        assert_eq!(GAUGE.get(), 0);
    }
}
