//! The command `connect`: a chat in the terminal. History and live messages on stdout; lines of stdin are sent.
//!
//! - [`state`]: what was seen and what is not yet acknowledged; pure.
//! - `client`: connections, the loop, the terminal.

mod client;
mod state;

use std::path::PathBuf;

use clap::Args;

pub use client::run;

use super::dial::DialError;

#[derive(Args)]
pub struct ConnectArgs {
    /// The chat to join; none with --create
    pub chat_id: Option<String>,
    /// The server; http:// for one without TLS
    #[arg(long, env = "CHAT_ADDR", default_value = "https://localhost:50051")]
    pub addr: String,
    /// The CA that signed the server's certificate, PEM
    #[arg(long, env = "CHAT_CA", default_value = "certs/ca.pem")]
    pub ca: PathBuf,
    /// Your token
    #[arg(long, env = "CHAT_TOKEN", hide_env_values = true)]
    pub token: String,
    /// Create a chat with this title first, and join it
    #[arg(long, value_name = "TITLE", conflicts_with = "chat_id")]
    pub create: Option<String>,
    /// A member of the created chat; may be repeated
    #[arg(long = "with", value_name = "USER", requires = "create")]
    pub members: Vec<String>,
    /// Show messages behind this sequence; 0: the whole history
    #[arg(long, default_value_t = 0)]
    pub after: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("name a chat, or create one with --create TITLE --with USER")]
    NoChat,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the server refuses: {0}")]
    Refused(String),
    #[error("can't write to the terminal: {0}; is what reads it still there?")]
    Output(std::io::Error),
    #[error("you have left the chat: {0}")]
    Left(&'static str),
    #[error("{0} of your messages were not acknowledged in time; they may not be stored")]
    Unacknowledged(usize),
}
