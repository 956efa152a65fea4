//! `selvedge reload`: asks the admin address of a running server.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::admin::Admin;
use super::print::{answer, fail, report};
use crate::config::problem::Problem;

#[derive(Debug, Args)]
pub struct Reload {
    #[command(flatten)]
    admin: Admin,
}

/// What the server says then.
#[derive(Debug, Deserialize)]
struct Refused {
    problems: Vec<Problem>,
}

impl Reload {
    pub fn run(self) -> ExitCode {
        match self.admin.ask("POST", "/reload") {
            Ok((200, body)) => answer(&body),
            Ok((422, body)) => match serde_json::from_str::<Refused>(&body) {
                Ok(Refused { problems }) => report(&problems),
                Err(_) => fail(format!("reload refused\n{body}")),
            },
            Ok((status, _)) => {
                fail(format!("{}: status {status}: no admin address?", self.admin.admin))
            }
            Err(error) => fail(format!("{}: {error}", self.admin.admin)),
        }
    }
}
