//! Parses the command line and calls `app`.

use std::process::ExitCode;

/// Each call allocates some dozens of times, on all threads at once.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chat_service::app::main()
}
