//! What a task waits for beside its work, and what seldom comes: timers, the server's stop, the end of an access.
//!
//! Polled whenever the task is, each of them would cost a lock or two, for each message that goes through. So they have a waker of their own, which
//! notes that it was called and wakes the task: only then they are polled.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::Either;

/// The waker of what seldom comes.
pub struct Rarely {
    woken: Arc<Woken>,
    /// The task that is woken.
    task: Option<Waker>,
}

struct Woken {
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Rarely {
    pub fn new() -> Self {
        // What was never polled has to be.
        Self { woken: Arc::new(Woken { woken: AtomicBool::new(true), task: Mutex::default() }), task: None }
    }

    /// Whether the waker was called since this was asked last: then all that has it is to be polled. If not, the task is woken when it is.
    pub fn is_due(&mut self, cx: &Context<'_>) -> bool {
        if self.task.as_ref().is_none_or(|task| !task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            self.woken.lock().clone_from(&self.task);
        }
        // Only for the first a write.
        self.woken.woken.load(Ordering::Acquire) && self.woken.woken.swap(false, Ordering::AcqRel)
    }

    /// The waker, which outlives what is done with it.
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.woken))
    }
}

impl Woken {
    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // First: whoever is woken finds it.
        self.woken.store(true, Ordering::Release);
        if let Some(task) = &*self.lock() {
            task.wake_by_ref();
        }
    }
}

/// Waits for `work`, or for `rare`, which is polled only when it was woken. If both are ready it is the work. Both are pointers: what
/// an async function is given is kept twice.
pub async fn either<W: Future + Unpin, R: Future + Unpin>(work: &mut W, mut rare: R) -> Either<W::Output, R::Output> {
    let mut rarely = Rarely::new();
    poll_fn(move |cx| {
        if let Poll::Ready(done) = Pin::new(&mut *work).poll(cx) {
            return Poll::Ready(Either::Left(done));
        }
        if rarely.is_due(cx) {
            return Pin::new(&mut rare).poll(&mut Context::from_waker(&rarely.waker())).map(Either::Right);
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task() -> (Arc<Task>, Waker) {
        let task = Arc::new(Task::default());
        (Arc::clone(&task), Waker::from(task))
    }

    #[test]
    fn it_is_due_at_first_and_then_once_for_each_time_that_it_was_woken() {
        let (task, waker) = task();
        let (mut rarely, cx) = (Rarely::new(), Context::from_waker(&waker));
        assert_eq!((rarely.is_due(&cx), rarely.is_due(&cx)), (true, false));
        rarely.waker().wake_by_ref();
        rarely.waker().wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 2, "the task is woken");
        assert_eq!((rarely.is_due(&cx), rarely.is_due(&cx)), (true, false));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_comes_first_ends_the_wait() {
        let after = |ms| Box::pin(tokio::time::sleep(std::time::Duration::from_millis(ms)));
        assert!(matches!(either(&mut after(1), after(2)).await, Either::Left(())));
        assert!(matches!(either(&mut after(2), after(1)).await, Either::Right(())));
        assert!(matches!(either(&mut after(1), after(1)).await, Either::Left(())));
    }

    #[test]
    fn the_task_that_asked_last_is_woken() {
        let ((first, first_waker), (second, second_waker)) = (task(), task());
        let mut rarely = Rarely::new();
        rarely.is_due(&Context::from_waker(&first_waker));
        rarely.is_due(&Context::from_waker(&second_waker));
        rarely.waker().wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
    }
}
