//! Looks at what a client sends, frame by frame, without touching it: which protocol it speaks, and whether it floods the connection with
//! frames that cost work and carry nothing.
//!
//! HTTP/2's library answers each PING and SETTINGS in bounded memory, but as often as asked. Rapid resets, CONTINUATION floods and small DATA
//! frames it bounds itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::common::{Common, Protocol};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER_BYTES: usize = 9;
/// What frames are counted over.
const SPAN: Duration = Duration::from_secs(1);

/// A connection whose reads fail when more frames come than may.
pub struct FrameGuard<I> {
    io: I,
    reader: Reader,
}

impl<I> FrameGuard<I> {
    /// `frames_max`: how many frames that carry nothing may come in a second.
    pub fn new(io: I, frames_max: u32, common: Common) -> Self {
        Self { io, reader: Reader { common, phase: Phase::Preface(0), frames_max, span_began: None, frames: 0 } }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for FrameGuard<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        Poll::Ready(self.reader.take(&buf.filled()[before..]))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for FrameGuard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
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

struct Reader {
    common: Common,
    phase: Phase,
    frames_max: u32,
    span_began: Option<Instant>,
    /// That came since the span began and carry nothing.
    frames: u32,
}

/// What the next byte belongs to.
enum Phase {
    /// The preface, so much of which has come.
    Preface(usize),
    /// Nothing that is looked at.
    Http1,
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    /// A payload, so much of which is still to come.
    Payload(usize),
}

impl Reader {
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.phase {
                Phase::Http1 => return Ok(()),
                Phase::Preface(have) => {
                    let count = bytes.len().min(PREFACE.len() - *have);
                    let (now, rest) = bytes.split_at(count);
                    if PREFACE[*have..*have + count] != *now {
                        self.common.speaks(Protocol::Http1);
                        self.phase = Phase::Http1;
                        return Ok(());
                    }
                    *have += count;
                    if *have == PREFACE.len() {
                        self.common.speaks(Protocol::Http2);
                        self.phase = Phase::Header { bytes: [0; HEADER_BYTES], have: 0 };
                    }
                    bytes = rest;
                }
                Phase::Header { bytes: header, have } => {
                    let count = bytes.len().min(HEADER_BYTES - *have);
                    let (now, rest) = bytes.split_at(count);
                    header[*have..*have + count].copy_from_slice(now);
                    *have += count;
                    bytes = rest;
                    if *have == HEADER_BYTES {
                        let (length, kind) = (u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize, header[3]);
                        self.phase = match length {
                            0 => Phase::Header { bytes: [0; HEADER_BYTES], have: 0 },
                            length => Phase::Payload(length),
                        };
                        self.count(kind)?;
                    }
                }
                Phase::Payload(left) => {
                    let count = bytes.len().min(*left);
                    *left -= count;
                    bytes = &bytes[count..];
                    if *left == 0 {
                        self.phase = Phase::Header { bytes: [0; HEADER_BYTES], have: 0 };
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: u8) -> io::Result<()> {
        // DATA and HEADERS are what a connection is for. An honest reader sends a WINDOW_UPDATE for nearly each frame that it takes.
        if matches!(kind, 0 | 1 | 8) {
            return Ok(());
        }
        let now = Instant::now();
        if self.span_began.is_none_or(|began| now.duration_since(began) >= SPAN) {
            self.span_began = Some(now);
            self.frames = 0;
        }
        self.frames += 1;
        if self.frames > self.frames_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client floods the connection with control frames"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const DATA: [u8; 12] = [0, 0, 3, 0, 0, 0, 0, 0, 1, 6, 6, 6];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

    fn reader(frames_max: u32) -> Reader {
        FrameGuard::new((), frames_max, Common::new()).reader
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_nothing_are_counted_however_the_bytes_are_cut() {
        let flow: Vec<u8> = [PREFACE, &PING[..], &DATA, &SETTINGS_ACK, &DATA, &PING].concat();
        for size in 1..=flow.len() {
            let (mut enough, mut few) = (reader(3), reader(2));
            assert!(flow.chunks(size).all(|part| enough.take(part).is_ok()), "{size}");
            assert!(!flow.chunks(size).all(|part| few.take(part).is_ok()), "{size}");
            assert_eq!(enough.common.protocol(), Protocol::Http2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_count_begins_again_each_second() {
        let mut reader = reader(2);
        reader.take(PREFACE).unwrap();
        for _ in 0..3 {
            reader.take(&PING).unwrap();
            reader.take(&PING).unwrap();
            tokio::time::advance(SPAN).await;
        }
        reader.take(&PING).unwrap();
        reader.take(&PING).unwrap();
        assert!(reader.take(&PING).is_err());
    }

    #[tokio::test]
    async fn what_is_no_preface_is_http1_and_what_is_none_yet_is_unknown() {
        let mut reader = reader(0);
        reader.take(b"P").unwrap();
        assert_eq!(reader.common.protocol(), Protocol::Unknown);
        reader.take(b"OST / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(reader.common.protocol(), Protocol::Http1);
        reader.take(&PING).unwrap();
    }
}
