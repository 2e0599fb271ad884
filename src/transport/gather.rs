//! Writes of one connection's streams, gathered.
//!
//! What a chat's streams on one connection are given comes at about the same moment, each from a task of its own, and each wakes the connection.
//! Written at once, nearly every frame would be a write of its own, with a TLS record and a system call. So a connection whose streams have tasks
//! lets those that are due already go first, once, before it writes: then there is more to write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::common::{Common, Turn};

/// A connection whose first write in a turn waits for the next turn, which is asked for, where it has several streams, and not all of them in its task.
pub struct Gather<I> {
    io: I,
    common: Common,
    /// The last write found no room: there is more to write anyhow.
    blocked: bool,
}

impl<I> Gather<I> {
    pub fn new(io: I, common: Common) -> Self {
        Self { io, common, blocked: false }
    }

    fn puts_off(&self) -> bool {
        if self.common.turn() == Turn::Writes || self.blocked || !self.common.has_many_streams() {
            return false;
        }
        // The connection's driver has the next turn come behind the tasks that are due.
        self.common.set_turn(Turn::PutOff);
        true
    }
}

impl<I: Unpin> Gather<I> {
    /// Writes, unless this is put off.
    fn gathered<T>(&mut self, cx: &mut Context<'_>, write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.puts_off() {
            return Poll::Pending;
        }
        let written = write(Pin::new(&mut self.io), cx);
        self.blocked = written.is_pending();
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Gather<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gather<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.gathered(cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.gathered(cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use hyper::rt::Executor;

    use crate::transport::counting::Wakeups;
    use crate::transport::driver::{Driver, STREAMS_HERE_MAX};
    use crate::transport::stream_task::StreamExecutor;

    /// A connection that has two frames to write whenever it is polled, and counts those that it could.
    struct Connection {
        io: Gather<Vec<u8>>,
        written: Arc<AtomicUsize>,
    }

    impl Future for Connection {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            for _ in 0..2 {
                let written = Pin::new(&mut self.io).poll_write(cx, b"frame").is_ready();
                self.written.fetch_add(usize::from(written), Ordering::Relaxed);
            }
            Poll::Pending
        }
    }

    struct Driven {
        driver: Driver<Connection>,
        written: Arc<AtomicUsize>,
        common: Common,
    }

    fn driven() -> Driven {
        let (common, written) = (Common::new(), Arc::default());
        let connection = Connection { io: Gather::new(Vec::new(), common.clone()), written: Arc::clone(&written) };
        Driven { driver: Driver::new(Box::pin(connection), common.clone()), written, common }
    }

    impl Driven {
        /// How many frames were written, and how often another turn was asked for.
        fn turn(&mut self) -> (usize, usize) {
            let wakeups = Wakeups::default();
            assert!(Pin::new(&mut self.driver).poll(&mut Context::from_waker(&wakeups.waker())).is_pending());
            (self.written.swap(0, Ordering::Relaxed), wakeups.take())
        }
    }

    #[tokio::test]
    async fn with_streams_elsewhere_every_other_turn_writes_all_there_is_and_is_asked_for() {
        let mut driven = driven();
        let _streams = (driven.common.begin_stream(), driven.common.begin_stream());
        for _ in 0..2 {
            assert_eq!(driven.turn(), (0, 1), "put off, and polled again");
            assert_eq!(driven.turn(), (2, 0));
        }
    }

    #[tokio::test]
    async fn with_streams_of_its_own_task_alone_or_with_one_nothing_is_put_off() {
        let mut driven = driven();
        let elsewhere = driven.common.begin_stream();
        assert_eq!(driven.turn(), (2, 0));
        drop(elsewhere);
        let streams = StreamExecutor::new(driven.common.clone());
        for _ in 0..STREAMS_HERE_MAX {
            streams.execute(std::future::pending());
            driven.driver.driven();
            assert_eq!(driven.turn(), (2, 0));
        }
    }
}
