//! A socket that takes nothing is given up.
//!
//! HTTP/2's own pings don't help against a client that doesn't read: they wait behind what can't be written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A socket whose writes fail when it took not a byte for `due`. Below TLS, so that any byte that goes out counts.
pub struct StallGuard<I> {
    io: I,
    /// `None`: it may take as long as it likes.
    due: Option<Duration>,
    /// Made at the first write that has to wait.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<I> StallGuard<I> {
    pub fn new(io: I, due: Option<Duration>) -> Self {
        Self { io, due, timer: None, waiting: false }
    }

    /// Passes on what a write said, unless it has waited for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        let Some(due) = self.due else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(due)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + due);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing for too long")))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for StallGuard<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for StallGuard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket has nothing of its own to flush.
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_when_nothing_was_taken_in_time_and_not_before() {
        let (near, mut far) = tokio::io::duplex(1);
        let mut guarded = StallGuard::new(near, Some(Duration::from_secs(60)));
        let reading = tokio::spawn(async move {
            // A slow reader, who takes a byte now and then.
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(59)).await;
                far.read_u8().await.unwrap();
            }
            far
        });
        let began = Instant::now();
        let error = guarded.write_all(b"12345").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 3 * 59 + 60, "counted from the last byte that was taken");
        drop(reading.await.unwrap());
    }
}
