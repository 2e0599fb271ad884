//! Parses the command line and calls `app`.

use std::process::ExitCode;

/// A delivery is allocated by one thread and freed by another, a thousand times for a message.
#[cfg(not(feature = "system-allocator"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chat_service::app::main()
}
