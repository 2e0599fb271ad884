//! Start-up with a database that isn't there yet, as where both are started together.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::server::StartError;

/// Between the first tries; doubled each time, up to the most.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Opens until it works, or fails for a reason that waiting doesn't mend, or `wait` is over. Tells once that it waits.
pub(super) async fn until_there<T, F>(wait: Duration, open: impl Fn() -> F, tell: fn(&str)) -> Result<T, StartError>
where
    F: Future<Output = Result<T, StartError>>,
{
    let began = Instant::now();
    let mut pause = PAUSE;
    let mut told = false;
    loop {
        match open().await {
            Err(error) if error.may_pass() && began.elapsed() + pause <= wait => {
                if !std::mem::replace(&mut told, true) {
                    tell(&format!("{error}; it is waited for, {wait:?} at most (CHAT_DATABASE_WAIT)"));
                }
            }
            done => return done,
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::repository::StoreError;

    /// Opens at try number `works_at`, and fails by `error` before.
    async fn tries(wait: Duration, works_at: u32, error: fn() -> StoreError) -> (Result<(), StartError>, u32) {
        let tried = Cell::new(0);
        let open = || {
            tried.set(tried.get() + 1);
            let done: Result<(), StartError> = if tried.get() == works_at { Ok(()) } else { Err(error().into()) };
            std::future::ready(done)
        };
        let done = until_there(wait, open, |_| {}).await;
        (done, tried.get())
    }

    fn away() -> StoreError {
        StoreError::TimedOut(Duration::ZERO)
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_comes_in_time_is_waited_for() {
        let (done, tried) = tries(Duration::from_secs(30), 5, away).await;
        assert!(done.is_ok() && tried == 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_in_time_and_with_zero_at_once() {
        let began = Instant::now();
        assert!(tries(Duration::from_secs(30), 0, away).await.0.is_err());
        assert!(began.elapsed() <= Duration::from_secs(30));
        let (done, tried) = tries(Duration::ZERO, 0, away).await;
        assert!(done.is_err() && tried == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waiting_does_not_mend_is_told_at_once() {
        let (done, tried) = tries(Duration::from_secs(30), 0, || StoreError::SchemaTooOld).await;
        assert!(done.is_err() && tried == 1);
    }
}
