//! `selvedge reload`: asks the admin address of a running server.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::operator::Admin;
use super::print::{answer, fail, report};
use crate::config::problem::Problem;

#[derive(Debug, Args)]
pub struct Reload {
    #[command(flatten)]
    server: Admin,
}

/// What the server says then.
#[derive(Debug, Deserialize)]
struct Refused {
    problems: Vec<Problem>,
}

impl Reload {
    pub fn run(self) -> ExitCode {
        let admin = self.server.admin;
        match self.server.ask("POST", "/reload") {
            Ok((200, body)) => answer(&body),
            Ok((422, body)) => match serde_json::from_str::<Refused>(&body) {
                Ok(Refused { problems }) => report(&problems),
                Err(_) => fail(format!("reload refused\n{body}")),
            },
            Ok((status, _)) => fail(format!("{admin}: status {status}: no admin address?")),
            Err(error) => fail(format!("{admin}: {error}")),
        }
    }
}
