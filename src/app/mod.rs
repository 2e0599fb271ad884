//! Where concrete types meet: the commands, and the server put together.

mod admin;
pub mod certs;
pub mod check;
pub mod connect;
mod dial;
mod fanout;
mod hints;
mod identity;
mod json;
mod lifecycle;
mod lines;
mod metrics;
mod panics;
mod plain;
mod probes;
pub mod server;
mod telemetry;
pub mod token;
mod traces;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{DatabaseArgs, ServeArgs};

/// A real-time messaging service: gRPC first, durable before acknowledged, one gapless order per chat.
#[derive(Parser)]
#[command(name = "chat-service", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date
    Migrate(DatabaseArgs),
    /// Print a token, signed with the development secret or the one in CHAT_AUTH_SECRET
    Token(token::TokenArgs),
    /// Make a CA and certificates for server and client
    GenCert(certs::GenCertArgs),
    /// Ask a running server whether it is ready; exit 0 or 1
    Health(admin::HealthArgs),
    /// Join a chat from the terminal
    Connect(connect::ConnectArgs),
    /// Prove the delivery promises on a running deployment; exit 0: they held, 1: violated, 2: could not run
    Check(check::CheckArgs),
}

/// Runs the command line's command. An error is one line on stderr, naming the setting and the mend.
pub fn main() -> ExitCode {
    crate::observe::process::begin();
    let cli = Cli::parse();
    crate::transport::tls::install_provider();
    let done = match cli.command.unwrap_or_else(|| Command::Serve(Box::new(cli.serve))) {
        Command::Serve(args) => runtime(server::run(*args)).map_err(|error| error.to_string()),
        Command::Migrate(args) => runtime(server::migrate(args)).map_err(|error| error.to_string()),
        Command::Token(args) => token::mint(&args).map(|token| println!("{token}")).map_err(|error| error.to_string()),
        Command::GenCert(args) => certs::generate(&args).map_err(|error| error.to_string()),
        Command::Health(args) => runtime(admin::health(args)).map_err(|error| error.to_string()),
        Command::Connect(args) => runtime(connect::run(args)).map_err(|error| error.to_string()),
        Command::Check(args) => return runtime(check::run(args)),
    };
    lines::flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat-service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the runtime needs threads and a poller");
    let done = runtime.block_on(work);
    // A task that blocks, like a read from the terminal, must not hold the exit.
    runtime.shutdown_background();
    done
}
