//! HTTP/2's timer. It looks at the time of the next keep-alive PING in each of a connection's turns: that is polled only when it was woken, and wakes
//! the connection's task past the connection's own waker.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use pin_project_lite::pin_project;

use super::common::{Common, State};
use super::rarely::{Note, Who};

/// The timer of one connection.
pub struct RareTimer(Common);

impl RareTimer {
    pub fn new(common: Common) -> Self {
        Self(common)
    }
}

impl Timer for RareTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let sleep = tokio::time::sleep_until(deadline.into());
        Box::pin(RareSleep { sleep, note: self.0.note(), begun: false })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

pin_project! {
    struct RareSleep {
        #[pin]
        sleep: tokio::time::Sleep,
        note: Arc<Note<State>>,
        // It was polled, so it wakes.
        begun: bool,
    }
}

impl Sleep for RareSleep {}

impl Future for RareSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if !this.note.take_due(Who::Timer) && *this.begun {
            return Poll::Pending;
        }
        *this.begun = true;
        this.sleep.poll(&mut Context::from_waker(&Waker::from(Arc::clone(this.note))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_sleep_ends_at_its_time_also_where_another_one_was_polled_before() {
        let common = Common::new();
        poll_fn(|cx| {
            common.rarely().belongs_to(cx);
            Poll::Ready(())
        })
        .await;
        let timer = RareTimer::new(common);
        let began = timer.now();
        // By another waker, as the connection's.
        let ends = async |mut sleep: Pin<Box<dyn Sleep>>| {
            poll_fn(|_| sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()))).await;
        };
        for seconds in 1..=3 {
            ends(timer.sleep(Duration::from_secs(10))).await;
            assert_eq!(timer.now() - began, Duration::from_secs(10 * seconds));
        }
        let mut sleep = timer.sleep(Duration::from_secs(20));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        timer.reset(&mut sleep, timer.now() + Duration::from_secs(5));
        ends(sleep).await;
        assert_eq!(timer.now() - began, Duration::from_secs(35));
    }
}
