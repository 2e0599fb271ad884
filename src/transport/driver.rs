//! Drives a connection, and a few of its streams, in one task.
//!
//! A stream in a task of its own that is woken, for a delivery or an answer, wakes the connection, and that writes: two tasks' turns for each message.
//! So up to [`STREAMS_HERE_MAX`] streams of a connection, and most clients have no more, are polled in its task, and behind them in the same turn the
//! connection. Further ones, and those that arrive together with another, are tasks: there may be many of them, and other threads may have them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::task::coop;

use super::common::{Common, Due, State, Turn};
use super::rarely::Rarely;
use super::stream_task::StreamTask;

/// Streams that live in their connection's task.
pub const STREAMS_HERE_MAX: usize = 2;
/// How often connection and streams may wake one another before other tasks have their turn.
const ROUNDS_MAX: usize = 8;

/// A connection and the streams in its task.
pub struct Driver<C> {
    connection: Pin<Box<C>>,
    streams: Vec<Option<StreamTask>>,
    common: Common,
    connection_waker: Waker,
    streams_waker: Waker,
    /// The task that both wake.
    rarely: Rarely<State>,
}

impl<C> Driver<C> {
    pub fn new(connection: Pin<Box<C>>, common: Common) -> Self {
        let waker = |due| Waker::from(Arc::new(Wakes { common: common.clone(), due }));
        let (connection_waker, streams_waker) = (waker(Due::CONNECTION), waker(Due::STREAMS));
        let rarely = common.rarely();
        Self { connection, streams: Vec::new(), common, connection_waker, streams_waker, rarely }
    }

    /// The connection, to be changed; then it is polled.
    pub fn driven(&mut self) -> Pin<&mut C> {
        self.common.wake(Due::CONNECTION);
        self.connection.as_mut()
    }

    fn poll_streams(&mut self) {
        if let Some(stream) = self.common.take_stream() {
            // There would be room for four at once, and most connections have one.
            self.streams.reserve_exact(1);
            self.streams.push(Some(stream));
        }
        let mut cx = Context::from_waker(&self.streams_waker);
        self.streams.retain_mut(|stream| {
            // The hook has logged a panic.
            drop(catch_unwind(AssertUnwindSafe(|| poll(stream, &mut cx))));
            stream.is_some()
        });
    }
}

/// Polls a stream, and drops it where it ends or panics, which resets it: within the panic, so that what goes with it knows why.
fn poll(stream: &mut Option<StreamTask>, cx: &mut Context<'_>) {
    struct Ending<'a>(&'a mut Option<StreamTask>);

    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            *self.0 = None;
        }
    }

    let ending = Ending(stream);
    if let Some(stream) = ending.0
        && Pin::new(stream).poll(cx).is_pending()
    {
        std::mem::forget(ending);
    }
}

impl<C: Future> Future for Driver<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        self.rarely.belongs_to(cx);
        let mut due = self.common.begin();
        for round in 1.. {
            if due.has(Due::STREAMS) {
                self.poll_streams();
            }
            // Behind the streams, for what they have sent. Where nothing is due, whoever woke the task knew.
            let has_sent = self.common.take_connection();
            if has_sent || !due.has(Due::STREAMS) || due.has(Due::CONNECTION) {
                self.common.set_turn(if self.common.turn() == Turn::PutOff { Turn::Writes } else { Turn::Fresh });
                let Self { connection, connection_waker, .. } = &mut *self;
                if let Poll::Ready(ended) = connection.as_mut().poll(&mut Context::from_waker(connection_waker)) {
                    return Poll::Ready(ended);
                }
            }
            // A write that is put off waits for the tasks that are due; and without a budget all of this waits. What has become due since stays so.
            if round == ROUNDS_MAX || self.common.turn() == Turn::PutOff || !coop::has_budget_remaining() {
                break;
            }
            match self.common.end() {
                Some(more) => due = more,
                None => return Poll::Pending,
            }
        }
        self.common.break_off();
        Poll::Pending
    }
}

impl<C> Drop for Driver<C> {
    fn drop(&mut self) {
        // It holds what holds it.
        drop(self.common.close());
    }
}

struct Wakes {
    common: Common,
    due: Due,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.common.wake(self.due);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;
    use hyper::rt::Executor;

    use super::*;
    use crate::transport::counting::Wakeups;
    use crate::transport::rarely::Who;
    use crate::transport::stream_task::StreamExecutor;

    type Log = Arc<Mutex<Vec<String>>>;

    struct OnDrop<F: Fn()>(F);

    impl<F: Fn()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    /// A connection that notes its turns, and a driver for it.
    struct Driven {
        driver: Driver<BoxFuture<'static, ()>>,
        streams: StreamExecutor,
        log: Log,
        /// As HTTP/2 has it, for a stream that has sent.
        connection: Arc<Mutex<Option<Waker>>>,
        wakeups: Wakeups,
    }

    impl Driven {
        fn new() -> Self {
            let (common, log, connection) = (Common::new(), Log::default(), Arc::new(Mutex::new(None::<Waker>)));
            let (turns, waker) = (Arc::clone(&log), Arc::clone(&connection));
            let polled: BoxFuture<'static, ()> = Box::pin(poll_fn(move |cx| {
                turns.lock().unwrap().push("connection".to_owned());
                *waker.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            }));
            let driver = Driver::new(Box::pin(polled), common.clone());
            Self { driver, streams: StreamExecutor::new(common), log, connection, wakeups: Wakeups::default() }
        }

        /// A stream that notes its turns, and sends in each; the waker of its task.
        fn stream(&self, name: &'static str) -> Arc<Mutex<Option<Waker>>> {
            let (log, connection, waker) = (Arc::clone(&self.log), Arc::clone(&self.connection), Arc::new(Mutex::new(None)));
            let mine = Arc::clone(&waker);
            self.streams.execute(poll_fn(move |cx| {
                log.lock().unwrap().push(name.to_owned());
                *mine.lock().unwrap() = Some(cx.waker().clone());
                connection.lock().unwrap().take().into_iter().for_each(Waker::wake);
                Poll::Pending
            }));
            waker
        }

        /// What had its turn.
        fn turn(&mut self) -> Vec<String> {
            assert!(Pin::new(&mut self.driver).poll(&mut Context::from_waker(&self.wakeups.waker())).is_pending());
            std::mem::take(&mut self.log.lock().unwrap())
        }
    }

    fn wake(waker: &Mutex<Option<Waker>>) {
        waker.lock().unwrap().clone().into_iter().for_each(Waker::wake);
    }

    #[tokio::test]
    async fn a_stream_that_is_woken_and_the_connection_that_it_sends_by_have_one_turn() {
        let mut driven = Driven::new();
        let stream = driven.stream("stream");
        driven.turn();
        driven.wakeups.take();
        for _ in 0..3 {
            wake(&stream);
            wake(&stream);
            assert_eq!(driven.wakeups.take(), 1);
            assert_eq!(driven.turn(), ["stream", "connection"]);
            assert_eq!(driven.wakeups.take(), 0, "what it sent wakes nobody once more");
        }
    }

    #[tokio::test]
    async fn what_wakes_the_connection_alone_polls_no_stream() {
        let mut driven = Driven::new();
        driven.stream("stream");
        driven.turn();
        let connection = Arc::clone(&driven.connection);
        wake(&connection);
        assert_eq!(driven.turn(), ["connection"]);
    }

    #[tokio::test]
    async fn the_connections_timer_is_heard_also_where_a_stream_is_woken_at_the_same_time() {
        let mut driven = Driven::new();
        let mut sends = false;
        let stream = Arc::new(Mutex::new(None));
        let (log, mine) = (Arc::clone(&driven.log), Arc::clone(&stream));
        driven.streams.execute(poll_fn(move |cx| {
            log.lock().unwrap().push("stream".to_owned());
            *mine.lock().unwrap() = Some(cx.waker().clone());
            Poll::Pending
        }));
        let timer = driven.driver.common.note();
        driven.turn();
        for _ in 0..2 {
            timer.take_due(Who::Timer);
            wake(&stream);
            if sends {
                timer.wake_by_ref();
            }
            let expected: &[&str] = if sends { &["stream", "connection"] } else { &["stream"] };
            assert_eq!(driven.turn(), expected);
            sends = true;
        }
    }

    #[tokio::test]
    async fn those_who_wake_one_another_let_other_tasks_go_first_now_and_then_and_none_is_forgotten() {
        let mut driven = Driven::new();
        let (log, connection, left) = (Arc::clone(&driven.log), Arc::clone(&driven.connection), AtomicUsize::new(3 * ROUNDS_MAX));
        driven.streams.execute(poll_fn(move |cx| {
            log.lock().unwrap().push("stream".to_owned());
            connection.lock().unwrap().take().into_iter().for_each(Waker::wake);
            if left.fetch_sub(1, Ordering::Relaxed) > 1 {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }));
        let mut polled = 0;
        for _ in 0..3 {
            let turn = driven.turn();
            assert_eq!(driven.wakeups.take(), 1, "another turn is asked for");
            polled += turn.iter().filter(|who| *who == "stream").count();
        }
        polled += driven.turn().iter().filter(|who| *who == "stream").count();
        assert_eq!((polled, driven.wakeups.take()), (3 * ROUNDS_MAX, 0));
    }

    #[tokio::test]
    async fn only_the_first_streams_are_here_and_an_ended_one_makes_room() {
        let mut driven = Driven::new();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        driven.streams.execute(async move { drop(ended.await) });
        driven.turn();
        driven.stream("second");
        driven.turn();
        driven.stream("a task");
        assert_eq!(driven.turn(), ["connection"]);
        drop(end);
        driven.turn();
        driven.stream("third");
        assert!(driven.turn().contains(&"third".to_owned()));
        tokio::task::yield_now().await;
        assert_eq!(*driven.log.lock().unwrap(), ["a task"]);
    }

    #[tokio::test]
    async fn a_stream_that_panics_goes_and_the_others_stay() {
        let mut driven = Driven::new();
        let other = driven.stream("other");
        driven.turn();
        let (told, panicked) = std::sync::mpsc::channel();
        let held = OnDrop(move || told.send(std::thread::panicking()).unwrap());
        driven.streams.execute(async move {
            let _held = held;
            panic!("as it should")
        });
        driven.turn();
        assert_eq!(panicked.recv(), Ok(true), "what goes with it knows why");
        driven.streams.execute(async { drop(OnDrop(|| panic!("as it should"))) });
        driven.turn();
        wake(&other);
        assert_eq!(driven.turn(), ["other", "connection"]);
        assert_eq!(driven.driver.streams.len(), 1);
    }

    #[tokio::test]
    async fn the_streams_go_with_the_connection() {
        let mut driven = Driven::new();
        let (polled, arrived) = (Arc::new(()), Arc::new(()));
        let stream = |held: &Arc<()>| {
            let held = Arc::clone(held);
            async move {
                let _held = held;
                std::future::pending::<()>().await;
            }
        };
        driven.streams.execute(stream(&polled));
        driven.turn();
        driven.streams.execute(stream(&arrived));
        drop(driven.driver);
        assert_eq!((Arc::strong_count(&polled), Arc::strong_count(&arrived)), (1, 1));
        // Behind its end there is no place.
        driven.streams.execute(stream(&arrived));
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&arrived), 2, "it is a task");
    }
}
