//! `selvedge check`: every problem of a configuration in one run. Exit 0 when there is none, else 1.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config};
use crate::routing::Router;

#[derive(Debug, Args)]
pub struct Check {
    /// The configuration file.
    #[arg(short, long)]
    config: PathBuf,
    /// Problems as a JSON array on stdout.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(self) -> ExitCode {
        let problems = match config::load(&self.config) {
            Ok(config) => self.conflicts(&config),
            Err(problems) => problems,
        };
        if self.json {
            println!("{}", serde_json::json!(problems));
        } else {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
        }
        if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn conflicts(&self, config: &Config) -> Vec<Problem> {
        let mut problems = Problems::new(&self.config);
        for conflict in Router::build(&config.routes).err().into_iter().flatten() {
            let at = config.places.routes.first().copied().unwrap_or_default();
            problems.add(at, "routes", conflict.to_string(), None);
        }
        problems.into_sorted()
    }
}
