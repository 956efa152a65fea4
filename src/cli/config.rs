//! `selvedge config`: the configuration as it counts, with defaults.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::print::{answer, fail, report};
use crate::config;

#[derive(Debug, Args)]
pub struct Config {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

impl Config {
    pub fn run(self) -> ExitCode {
        match config::load(&self.config) {
            Ok(config) => match serde_yaml::to_string(&config.effective) {
                Ok(yaml) => answer(&yaml),
                Err(error) => fail(error),
            },
            Err(problems) => report(&problems),
        }
    }
}
