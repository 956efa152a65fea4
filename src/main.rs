//! Arguments to `cli`, its answer to the exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    selvedge::cli::run(selvedge::cli::Cli::parse())
}
