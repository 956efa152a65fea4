//! Arguments to commands; one file per command.

mod admin;
mod api;
mod cache;
pub mod check;
mod config;
mod costs;
mod demo;
mod demo_origin;
mod dev;
pub mod docs;
mod grants;
mod junit;
mod new;
mod print;
mod purge;
mod reload;
mod routes;
mod run;
mod test;
mod upstream;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A programmable reverse proxy: sandboxed Rhai filters on Pingora
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done: nothing wrong, drained, reloaded, or the reader of the output left
  1  a problem of the configuration, a script, a certificate, an address or a test; a refused
     reload; a request that no route serves (routes --explain)
  2  wrong arguments

Errors and logs go to stderr, results to stdout.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a configuration, or one upstream without any
    Run(run::Run),
    /// Serve a configuration to an author: reload on changes, show each request
    Dev(dev::Dev),
    /// Serve a demonstration with origins of its own, and print what to try
    Demo(demo::Demo),
    /// Report every problem of a configuration
    Check(check::Check),
    /// Print the effective configuration, with defaults
    Config(config::Config),
    /// List the routes, or explain which one a request takes
    Routes(routes::Routes),
    /// Have the running server reload its configuration
    Reload(reload::Reload),
    /// Have the running server forget stored responses
    Purge(purge::Purge),
    /// Tell what the running server has stored
    Cache(cache::Cache),
    /// Show the running server's upstreams, or take an endpoint out and in
    Upstream(upstream::Upstream),
    /// Run the tests beside filters
    Test(test::Test),
    /// Write a new filter and its test
    New(new::New),
    /// Print what filters can call
    Api(api::Api),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Write the generated references into a folder
    #[command(hide = true)]
    Docs(docs::Docs),
}

/// Runs the command that the arguments name.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Run(run) => run.run(),
        Command::Dev(dev) => dev.run(),
        Command::Demo(demo) => demo.run(),
        Command::Check(check) => check.run(),
        Command::Config(config) => config.run(),
        Command::Routes(routes) => routes.run(),
        Command::Reload(reload) => reload.run(),
        Command::Purge(purge) => purge.run(),
        Command::Cache(cache) => cache.run(),
        Command::Upstream(upstream) => upstream.run(),
        Command::Test(test) => test.run(),
        Command::New(new) => new.run(),
        Command::Api(api) => api.run(),
        Command::Schema => {
            print::answer(&format!("{:#}\n", crate::config::reference::json_schema()))
        }
        Command::Docs(docs) => docs.run(),
    }
}
