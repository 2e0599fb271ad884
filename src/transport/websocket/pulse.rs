//! Listening to a client: its frames, and its signs of life.
//!
//! Whoever listens asks for a ping, and whoever writes sends it: the answer is due from when it was sent, so a slow reader, whose events
//! stand before the ping, has its time. While nothing is read nothing is due either.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use super::closing::End;

/// A quiet client is asked for a sign of life after this, and must give it in [`PONG_DUE`].
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PONG_DUE: Duration = Duration::from_secs(20);
/// Pings and pongs of a client in [`CONTROL_SPAN`]; one more ends the socket.
const CONTROL_MAX: u32 = 100;
const CONTROL_SPAN: Duration = Duration::from_secs(1);

/// Between the one who listens and the one who writes.
#[derive(Default)]
pub struct Pulse {
    wanted: Notify,
    sent: Notify,
}

impl Pulse {
    /// Waits until a ping is to be sent.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    pub fn sent(&self) {
        self.sent.notify_one();
    }
}

/// Where the client stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Was heard, or nothing was asked of it yet.
    Quiet,
    /// A ping is on its way to the writer.
    Asked,
    /// The ping was sent.
    Due,
}

/// Reads a socket's messages.
pub struct Listener {
    life: Life,
    since: Instant,
    control: u32,
    control_since: Instant,
}

impl Listener {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { life: Life::Quiet, since: now, control: 0, control_since: now }
    }

    /// The next text. Cancel safe.
    pub async fn text(
        &mut self,
        incoming: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
        pulse: &Pulse,
    ) -> Result<Utf8Bytes, End> {
        loop {
            match self.next(incoming, pulse).await? {
                Message::Text(text) => return Ok(text),
                Message::Binary(_) => return Err(End::told(1003, "TEXT_FRAMES_ONLY")),
                Message::Close(_) => return Err(End::Closed),
                // The library answers pings.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => self.count_control()?,
            }
        }
    }

    async fn next(&mut self, incoming: &mut (impl Stream<Item = Result<Message, Error>> + Unpin), pulse: &Pulse) -> Result<Message, End> {
        loop {
            let due = self.since + if self.life == Life::Due { PONG_DUE } else { PING_INTERVAL };
            tokio::select! {
                biased;
                message = incoming.next() => {
                    // Any message is a sign of life; a ping that is on its way stays so.
                    if self.life != Life::Asked {
                        self.enter(Life::Quiet);
                    }
                    return match message {
                        Some(Ok(message)) => Ok(message),
                        Some(Err(error)) => Err(End::of_error(&error)),
                        None => Err(End::Gone),
                    };
                }
                () = pulse.sent.notified(), if self.life == Life::Asked => self.enter(Life::Due),
                () = sleep_until(due), if self.life != Life::Asked => {
                    if self.life == Life::Due {
                        return Err(End::told(4408, "PONG_LATE"));
                    }
                    self.enter(Life::Asked);
                    pulse.wanted.notify_one();
                }
            }
        }
    }

    fn enter(&mut self, life: Life) {
        self.life = life;
        self.since = Instant::now();
    }

    fn count_control(&mut self) -> Result<(), End> {
        if self.control_since.elapsed() >= CONTROL_SPAN {
            self.control = 0;
            self.control_since = Instant::now();
        }
        self.control += 1;
        if self.control > CONTROL_MAX { Err(End::told(1008, "TOO_MANY_PINGS")) } else { Ok(()) }
    }
}
