//! `selvedge cache`: what the running server has stored.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::admin::Admin;
use super::print::{answer, fail};

#[derive(Debug, Args)]
pub struct Cache {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What is stored for a URL: how old, which variants, and if nothing, why
    Explain {
        /// The URL, as clients ask for it
        url: String,
        #[command(flatten)]
        server: Admin,
    },
    /// How much is stored
    Status {
        #[command(flatten)]
        server: Admin,
    },
}

impl Cache {
    pub fn run(self) -> ExitCode {
        let (server, target) = match self.command {
            Command::Explain { url, server } => {
                let mut query = form_urlencoded::Serializer::new(String::from("/cache?"));
                query.append_pair("url", &url);
                (server, query.finish())
            }
            Command::Status { server } => (server, "/cache".to_owned()),
        };
        let admin = server.admin;
        match server.ask("GET", &target) {
            Ok((200, body)) => answer(&body),
            Ok((400, body)) => fail(body.trim_end()),
            Ok((status, _)) => fail(format!("{admin}: status {status}: no admin address?")),
            Err(error) => fail(format!("{admin}: {error}")),
        }
    }
}
