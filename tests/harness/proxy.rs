//! A TCP proxy that cuts, delays, stalls, swallows and drops what goes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::resp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Each piece waits this long, in both directions.
    Delay(Duration),
    /// Nothing goes through; connections stay open.
    Stall,
    /// The answer to an append on a PostgreSQL connection is dropped, and the connection with it: the append has happened, or not.
    CutAppendAnswers,
    /// Answers wait this long, so that appends are no faster than that.
    SlowAnswers(Duration),
    /// What the server says is read and lost; connections stay open.
    SwallowAnswers,
    /// Of the messages that Redis pushes one in so many goes through, 0: none; answers all do.
    DropMessages {
        pass_every: u64,
    },
}

pub struct Proxy {
    pub port: u16,
    mode: watch::Sender<Mode>,
    /// Raised to cut every connection.
    cut: watch::Sender<u64>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// How often a mode did something to a connection.
    bites: AtomicU64,
    /// Whether the server is a Redis.
    redis: bool,
    /// Messages that came while messages are dropped.
    messages: AtomicU64,
}

impl State {
    fn bite(&self) {
        self.bites.fetch_add(1, Ordering::Relaxed);
    }

    fn drops_message(&self, pass_every: u64) -> bool {
        let number = self.messages.fetch_add(1, Ordering::Relaxed);
        let drops = pass_every == 0 || !number.is_multiple_of(pass_every);
        if drops {
            self.bite();
        }
        drops
    }
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        Self::start(target, State::default()).await
    }

    pub async fn to_redis(target: SocketAddr) -> Self {
        Self::start(target, State { redis: true, ..State::default() }).await
    }

    async fn start(target: SocketAddr, state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, cut, state) = (watch::Sender::new(Mode::Pass), watch::Sender::new(0), Arc::new(state));
        let (modes, cuts, shared) = (mode.clone(), cut.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (modes, mut cut, state) = (modes.subscribe(), cuts.subscribe(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // A target that is down refuses; the client sees its connection end.
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        () = connection(client, server, modes, &state) => {}
                        _ = cut.changed() => state.bite(),
                    }
                });
            }
        });
        Self { port, mode, cut, state }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub fn cut_all(&self) {
        self.cut.send_modify(|generation| *generation += 1);
    }

    pub fn bites(&self) -> u64 {
        self.state.bites.load(Ordering::Relaxed)
    }
}

async fn connection(client: TcpStream, server: TcpStream, modes: watch::Receiver<Mode>, state: &State) {
    // Cut hard: what is under way is gone.
    for socket in [&client, &server] {
        socket.set_nodelay(true).ok();
        socket.set_zero_linger().ok();
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // Pieces of the client that ask for an append, and answers since the first of them.
    let asked = AtomicU64::new(0);
    tokio::select! {
        () = pump(from_client, to_server, modes.clone(), state, &asked, true) => {}
        () = pump(from_server, to_client, modes, state, &asked, false) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    state: &State,
    asked: &AtomicU64,
    from_client: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    // How many of the statements that append were prepared.
    let mut prepared = 0;
    // What Redis has said and isn't whole yet.
    let mut held = Vec::new();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let piece = &buffer[..length];
        if from_client && piece.windows(11).any(|window| window == b"chat_append") {
            asked.fetch_add(1, Ordering::Relaxed);
        }
        let mode = *modes.borrow_and_update();
        match mode {
            Mode::Pass => {}
            Mode::Delay(pause) => {
                state.bite();
                tokio::time::sleep(pause).await;
            }
            Mode::SlowAnswers(pause) if !from_client => tokio::time::sleep(pause).await,
            Mode::SlowAnswers(_) => {}
            Mode::Stall => {
                state.bite();
                if modes.wait_for(|mode| *mode != Mode::Stall).await.is_err() {
                    return;
                }
            }
            // The answer behind a statement's text is to its preparation; the others are to appends.
            Mode::CutAppendAnswers if !from_client && prepared > 0 && prepared == asked.load(Ordering::Relaxed) => {
                state.bite();
                return;
            }
            Mode::SwallowAnswers if !from_client => {
                state.bite();
                continue;
            }
            Mode::CutAppendAnswers | Mode::SwallowAnswers | Mode::DropMessages { .. } => {}
        }
        if !from_client {
            prepared = asked.load(Ordering::Relaxed);
        }
        let written = if state.redis && !from_client {
            held.extend_from_slice(&buffer[..length]);
            let passed = resp::pass(&mut held, || matches!(mode, Mode::DropMessages { pass_every } if state.drops_message(pass_every)));
            to.write_all(&passed).await
        } else {
            to.write_all(&buffer[..length]).await
        };
        if written.is_err() {
            return;
        }
    }
}
