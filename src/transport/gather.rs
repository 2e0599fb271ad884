//! Writes of one connection's streams, gathered.
//!
//! What a chat's streams on one connection are given comes at about the same moment, each from a task of its own, and each wakes the connection.
//! Written at once, nearly every frame would be a write of its own, with a TLS record and a system call. So a connection with several streams
//! lets the tasks that are due already go first, once, before it writes: then there is more to write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::common::{Common, Turn};

/// What drives a connection.
pub struct InTurns<C> {
    connection: Pin<Box<C>>,
    common: Common,
}

impl<C> InTurns<C> {
    pub fn new(connection: Pin<Box<C>>, common: Common) -> Self {
        Self { connection, common }
    }

    pub fn driven(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<C: Future> Future for InTurns<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        self.common.set_turn(if self.common.turn() == Turn::PutOff { Turn::Writes } else { Turn::Fresh });
        self.connection.as_mut().poll(cx)
    }
}

/// A connection whose first write in a turn waits for the next turn, which is asked for, where it has several streams.
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

    fn puts_off(&self, cx: &Context<'_>) -> bool {
        if self.common.turn() == Turn::Writes || self.blocked || self.common.streams_open() < 2 {
            return false;
        }
        self.common.set_turn(Turn::PutOff);
        // A task that wakes itself while it runs comes behind those that are due.
        cx.waker().wake_by_ref();
        true
    }
}

impl<I: Unpin> Gather<I> {
    /// Writes, unless this is put off.
    fn gathered<T>(&mut self, cx: &mut Context<'_>, write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.puts_off(cx) {
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
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection that has two frames to write whenever it is polled; says how many it could.
    struct Connection(Gather<Vec<u8>>);

    impl Future for Connection {
        type Output = usize;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<usize> {
            let mut write = || Pin::new(&mut self.0).poll_write(cx, b"frame").is_ready();
            let written = [write(), write()];
            Poll::Ready(written.into_iter().filter(|written| *written).count())
        }
    }

    fn connection() -> (InTurns<Connection>, Common) {
        let common = Common::new();
        let connection = Connection(Gather::new(Vec::new(), common.clone()));
        (InTurns::new(Box::pin(connection), common.clone()), common)
    }

    fn turn(connection: &mut InTurns<Connection>) -> (usize, usize) {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        match Pin::new(connection).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(written) => (written, wakes.0.load(Ordering::Relaxed)),
            Poll::Pending => unreachable!("it is always ready"),
        }
    }

    #[tokio::test]
    async fn with_several_streams_every_other_turn_writes_all_there_is_and_is_asked_for() {
        let (mut connection, common) = connection();
        let _streams = (common.begin_stream(), common.begin_stream());
        for _ in 0..2 {
            let (written, wakes) = turn(&mut connection);
            assert!(written == 0 && wakes > 0, "put off, and polled again");
            assert_eq!(turn(&mut connection), (2, 0));
        }
    }

    #[tokio::test]
    async fn with_one_stream_nothing_is_put_off() {
        let (mut connection, common) = connection();
        let stream = common.begin_stream();
        assert_eq!(turn(&mut connection), (2, 0));
        drop(stream);
        assert_eq!(turn(&mut connection), (2, 0));
    }
}
