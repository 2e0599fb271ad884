//! What the checker's clients did and saw, as JSON lines.
//!
//! One record a line, in the order in which it happened to its client; records of different clients may stand in either order.
//! Times are microseconds since the run began. A history is whole when it ends with [`Record::End`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Raised when records change their meaning.
pub const VERSION: u32 = 1;

/// A connection of one of the run's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Via {
    pub client: u32,
    /// 1, 2, 3, … for the client.
    pub connection: u32,
}

/// Chats are named by their place in [`Record::Run`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Record {
    /// The first record.
    Run { version: u32, chats: Vec<String> },
    /// A connection to one of the run's addresses, and the beginning of a stream on it.
    Connected {
        #[serde(flatten)]
        via: Via,
        /// Which address it was: its place in `--addr`.
        #[serde(default)]
        node: usize,
    },
    /// The server has taken a join that asked for what is behind `after`.
    Joined {
        #[serde(flatten)]
        via: Via,
        chat: usize,
        after: i64,
    },
    /// A message was handed to the transport. The first attempt with an id decides its text; another text is a probe that the server
    /// must refuse.
    Attempt {
        #[serde(flatten)]
        via: Via,
        chat: usize,
        sender: String,
        id: String,
        text: String,
    },
    Acknowledged {
        #[serde(flatten)]
        via: Via,
        chat: usize,
        sender: String,
        id: String,
        sequence: i64,
        created_at_us: i64,
        /// The answer to a probe: an id that was acknowledged before, with another text.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        probe: bool,
    },
    /// A send (with its id) or a join was refused.
    Rejected {
        #[serde(flatten)]
        via: Via,
        chat: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        code: String,
        reason: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        probe: bool,
    },
    Delivered {
        #[serde(flatten)]
        via: Via,
        chat: usize,
        #[serde(flatten)]
        message: Message,
    },
    Disconnected {
        #[serde(flatten)]
        via: Via,
        why: String,
    },
    /// What ListMessages says in the end, after every send was settled.
    Listed {
        chat: usize,
        #[serde(flatten)]
        message: Message,
    },
    /// The last record.
    End {
        /// Clients that read every chat from its beginning, and were delivered everything until the server ended their streams.
        readers: Vec<u32>,
        /// The chats' last sequences, by GetChat.
        last_sequences: Vec<i64>,
    },
}

/// A message as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub sequence: i64,
    pub sender: String,
    pub id: String,
    pub text: String,
    pub created_at_us: i64,
}

/// A record with its time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    pub t_us: u64,
    #[serde(flatten)]
    pub record: Record,
}

/// Writes a history. The first failure to write is kept for the end.
pub struct Writer {
    began: Instant,
    file: Mutex<(BufWriter<File>, io::Result<()>)>,
}

impl Writer {
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { began: Instant::now(), file: Mutex::new((BufWriter::new(File::create(path)?), Ok(()))) })
    }

    pub fn write(&self, record: Record) {
        let line = Line { t_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX), record };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (out, failed) = &mut *file;
        if failed.is_ok() {
            *failed = serde_json::to_writer(&mut *out, &line).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"));
        }
    }

    pub fn finish(&self) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut file.1, Ok(()))?;
        file.0.flush()
    }
}

/// Why a history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("line {line} is no record: {source}")]
    Line { line: usize, source: serde_json::Error },
}

/// Reads a history line by line: it may be larger than memory.
pub fn read(path: &Path) -> io::Result<impl Iterator<Item = Result<Line, ReadError>> + use<>> {
    let lines = BufReader::with_capacity(256 * 1024, File::open(path)?).lines();
    Ok(lines.enumerate().map(|(at, line)| serde_json::from_str(&line?).map_err(|source| ReadError::Line { line: at + 1, source })))
}
