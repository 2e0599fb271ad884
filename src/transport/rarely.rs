//! What a task waits for beside its work, and what seldom comes: timers, the server's stop, the end of an access.
//!
//! Polled whenever the task is, each of them would cost a lock or two, for each message that goes through. So they have a waker of their own, which
//! notes that it was called and wakes the task: only then they are polled.
//!
//! What a delivery touches in memory is most of its cost where many thousand connections share the caches. So the note stands beside what else the
//! task touches in each turn.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::Either;

/// Who seldom waits, in one task: when one of them is woken, each polls once what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The task, beside its work.
    Task = 1,
    /// A timer within its work.
    Timer = 2,
}

const ALL: u8 = Who::Task as u8 | Who::Timer as u8;

/// The waker of what seldom comes.
pub struct Rarely<T> {
    note: Arc<Note<T>>,
    /// The task that is woken.
    task: Option<Waker>,
}

/// That the waker was called, beside what the task shares with others.
pub struct Note<T> {
    /// Whose turn it is to poll.
    due: AtomicU8,
    task: Mutex<Option<Waker>>,
    pub beside: T,
}

impl<T> Note<T> {
    pub fn new(beside: T) -> Arc<Self> {
        // What was never polled has to be. A timer begins by itself.
        Arc::new(Self { due: AtomicU8::new(Who::Task as u8), task: Mutex::default(), beside })
    }

    /// Whether somebody has still to poll what it waits for.
    pub fn is_due(&self, who: Who) -> bool {
        self.due.load(Ordering::Acquire) & who as u8 != 0
    }

    /// The same, for who polls it now.
    pub fn take_due(&self, who: Who) -> bool {
        let mine = who as u8;
        // Only for the first a write.
        self.is_due(who) && self.due.fetch_and(!mine, Ordering::AcqRel) & mine != 0
    }

    pub fn wake_task(&self) {
        if let Some(task) = &*self.lock() {
            task.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + Sync + 'static> Rarely<T> {
    pub fn new(note: &Arc<Note<T>>) -> Self {
        Self { note: Arc::clone(note), task: None }
    }

    /// The task that is woken is the one that polls.
    pub fn belongs_to(&mut self, cx: &Context<'_>) {
        if self.task.as_ref().is_none_or(|task| !task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            *self.note.lock() = Some(cx.waker().clone());
        }
    }

    /// Whether the waker was called since this was asked last: then all that has it is to be polled. If not, the task is woken when it is.
    pub fn is_due(&mut self, cx: &Context<'_>) -> bool {
        self.belongs_to(cx);
        self.note.take_due(Who::Task)
    }

    /// The waker, which outlives what is done with it.
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.note))
    }
}

impl<T: Send + Sync + 'static> Wake for Note<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // First: whoever is woken finds it.
        self.due.store(ALL, Ordering::Release);
        self.wake_task();
    }
}

/// Waits for `work`, or for `rare`, which is polled only when it was woken. If both are ready it is the work. Both are pointers: what
/// an async function is given is kept twice.
pub async fn either<T, W, R>(mut rarely: Rarely<T>, work: &mut W, mut rare: R) -> Either<W::Output, R::Output>
where
    T: Send + Sync + 'static,
    W: Future + Unpin,
    R: Future + Unpin,
{
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
    use super::*;
    use crate::transport::counting::Wakeups;

    #[test]
    fn it_is_due_at_first_and_then_once_for_each_time_that_it_was_woken() {
        let task = Wakeups::default();
        let waker = task.waker();
        let (note, cx) = (Note::new(()), Context::from_waker(&waker));
        let mut rarely = Rarely::new(&note);
        assert_eq!((rarely.is_due(&cx), rarely.is_due(&cx)), (true, false));
        rarely.waker().wake_by_ref();
        rarely.waker().wake();
        assert_eq!(task.take(), 2, "the task is woken");
        assert_eq!((rarely.is_due(&cx), rarely.is_due(&cx)), (true, false));
        assert_eq!((note.take_due(Who::Timer), note.take_due(Who::Timer)), (true, false), "whoever else waits has a turn of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_comes_first_ends_the_wait() {
        let after = |ms| Box::pin(tokio::time::sleep(std::time::Duration::from_millis(ms)));
        let rarely = || Rarely::new(&Note::new(()));
        assert!(matches!(either(rarely(), &mut after(1), after(2)).await, Either::Left(())));
        assert!(matches!(either(rarely(), &mut after(2), after(1)).await, Either::Right(())));
        assert!(matches!(either(rarely(), &mut after(1), after(1)).await, Either::Left(())));
    }

    #[test]
    fn the_task_that_asked_last_is_woken() {
        let (first, second) = (Wakeups::default(), Wakeups::default());
        let mut rarely = Rarely::new(&Note::new(()));
        rarely.is_due(&Context::from_waker(&first.waker()));
        rarely.is_due(&Context::from_waker(&second.waker()));
        rarely.waker().wake();
        assert_eq!((first.take(), second.take()), (0, 1));
    }
}
