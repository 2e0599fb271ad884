//! Parses the command line and calls `app`.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat_service::app::main()
}
