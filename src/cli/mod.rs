//! Arguments to commands; one file per command.

mod check;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A programmable reverse proxy.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report every problem of a configuration.
    Check(check::Check),
    /// Print the JSON Schema of the configuration.
    Schema,
}

/// Runs the command that the arguments name.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Check(check) => check.run(),
        Command::Schema => {
            println!("{:#}", crate::config::reference::json_schema());
            ExitCode::SUCCESS
        }
    }
}
