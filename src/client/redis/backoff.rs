//! Pauses between tries to reach a server.

use std::time::Duration;

use rand::Rng;

/// The first pause, and the longest: so long a server that is back may stay unnoticed.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Twice as long each time, and random, so that nodes which lost a server together don't come back together.
#[derive(Debug)]
pub struct Backoff {
    pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { pause: PAUSE }
    }
}

impl Backoff {
    /// How long to wait before the next try.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        rand::rng().random_range(pause / 2..=pause)
    }

    pub fn reset(&mut self) {
        self.pause = PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.next_pause();
        }
        assert!((PAUSE_MAX / 2..=PAUSE_MAX).contains(&backoff.next_pause()));
        backoff.reset();
        assert!(backoff.next_pause() <= PAUSE);
    }
}
