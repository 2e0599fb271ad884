//! Medians with ranges, and latencies in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The same measurement of each round.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn values(&self) -> &[f64] {
        &self.0
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[length / 2],
            length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
        }
    }

    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// A doubling has 2^6 buckets: a latency is known to 1.6 %.
const BUCKET_BITS: u32 = 6;
const BUCKETS_OF_DOUBLING: u64 = 1 << BUCKET_BITS;
/// Up to 2^42 ns, more than an hour; what is longer counts as that.
const DOUBLINGS: usize = 36;
const BUCKETS: usize = (DOUBLINGS + 2) << BUCKET_BITS;

/// Latencies, counted by all readers at once.
pub struct Histogram(Box<[AtomicU64]>);

impl Histogram {
    pub fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }

    pub fn record(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0[bucket(nanos).min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The latency that this part of all did not exceed.
    pub fn quantile(&self, part: f64) -> Duration {
        let wanted = ((self.count() as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, bucket) in self.0.iter().enumerate() {
            seen += bucket.load(Ordering::Relaxed);
            if seen >= wanted {
                return Duration::from_nanos(upper_bound(at));
            }
        }
        Duration::ZERO
    }
}

/// The first two doublings' worth are exact; from there on each doubling is one more shift.
fn bucket(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(BUCKET_BITS + 1);
    (u64::from(shift) * BUCKETS_OF_DOUBLING + (nanos >> shift)) as usize
}

fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / BUCKETS_OF_DOUBLING).saturating_sub(1);
    ((bucket - shift * BUCKETS_OF_DOUBLING + 1) << shift) - 1
}
