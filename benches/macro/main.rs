//! The whole server against its ceiling: the real binary, on PostgreSQL and on SQLite, beside **bare tonic**, a process that
//! serves the same RPCs with TLS and nothing else: no storage, no tokens, a tokio broadcast a chat ([`bare`]).
//!
//! One client ([`wire`]) drives both, in turns, round after round; what counts is the ratio of each round's pair. docs/performance.md
//! says what each row does. scripts/bench.sh runs it; arguments: nothing for the whole, `guard` for CI's short form, `growth` for
//! the rows that need large databases.

mod bare;
mod bench;
mod board;
mod growth;
mod load;
mod machine;
mod options;
mod process;
mod rows;
mod site;
mod stats;
mod stores;
mod wire;

use std::process::ExitCode;

use bench::Bench;
use board::Board;
use options::{Mode, Options};

/// Whatever went wrong: it is told and fails its row.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Done<T> = Result<T, Failure>;

fn main() -> ExitCode {
    chat_service::transport::tls::install_provider();
    // Cargo adds flags of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let [word, cert, key] = arguments.as_slice()
        && word == bare::WORD
    {
        return done(bare::serve(cert.as_ref(), key.as_ref()).map(|()| true));
    }
    let options = match Options::read(arguments.first().map(String::as_str)) {
        Ok(options) => options,
        Err(error) => return done(Err(error)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(options.client_threads).enable_all().build();
    let run = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(run(options)));
    done(run)
}

/// Whether every goal was met.
async fn run(options: Options) -> Done<bool> {
    let bench = Bench::prepare(options).await?;
    let machine = machine::describe(&bench).await?;
    machine.print();
    let mut board = Board::new(&bench.options);
    match bench.options.mode {
        Mode::Whole | Mode::Guard => rows::play_all(&bench, &mut board).await,
        Mode::Growth => growth::play_all(&bench, &mut board).await,
    }
    board.finish(&bench, &machine)
}

fn done(run: Done<bool>) -> ExitCode {
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}
