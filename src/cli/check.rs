//! `selvedge check`: every problem of a configuration in one run, scripts and certificates included.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::costs::Costs;
use super::grants::Grants;
use super::print::{answer, fail, report};
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config};
use crate::script::Diagnostic;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;
use crate::tls::TlsTable;

#[derive(Debug, Args)]
pub struct Check {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Problems, or grants, as a JSON array on stdout
    #[arg(long)]
    json: bool,
    /// If all is well, print what each filter may reach and use
    #[arg(long)]
    grants: bool,
    /// If all is well, print which functions run as closures, and what Rhai's evaluator still runs
    #[arg(long, conflicts_with = "grants")]
    explain_cost: bool,
}

impl Check {
    pub fn run(self) -> ExitCode {
        let problems = problems(&self.config);
        if self.grants && problems.is_empty() {
            return self.print_grants();
        }
        if self.explain_cost && problems.is_empty() {
            return self.print_costs();
        }
        if self.json {
            let printed = answer(&format!("{:#}\n", serde_json::json!(problems)));
            return if problems.is_empty() { printed } else { ExitCode::FAILURE };
        }
        if !problems.is_empty() {
            return report(&problems);
        }
        answer(&format!("{}: ok\n", self.config.display()))
    }

    fn print_grants(&self) -> ExitCode {
        let config = match config::load(&self.config) {
            Ok(config) => config,
            // Changed since it was checked.
            Err(problems) => return report(&problems),
        };
        match Grants::of(&config) {
            Ok(grants) if self.json => {
                let grants: Vec<_> = grants.iter().map(Grants::json).collect();
                answer(&format!("{:#}\n", serde_json::json!(grants)))
            }
            Ok(grants) if grants.is_empty() => answer("there are no filters\n"),
            Ok(grants) => answer(&grants.iter().map(Grants::text).collect::<Vec<_>>().join("\n")),
            Err(diagnostics) => refused(&diagnostics),
        }
    }

    fn print_costs(&self) -> ExitCode {
        let config = match config::load(&self.config) {
            Ok(config) => config,
            // Changed since it was checked.
            Err(problems) => return report(&problems),
        };
        match Costs::of(&config) {
            Ok(costs) if self.json => {
                let costs: Vec<_> = costs.iter().map(Costs::json).collect();
                answer(&format!("{:#}\n", serde_json::json!(costs)))
            }
            Ok(costs) if costs.is_empty() => answer("there are no filters\n"),
            Ok(costs) => answer(&costs.iter().map(Costs::text).collect::<Vec<_>>().join("\n")),
            Err(diagnostics) => refused(&diagnostics),
        }
    }
}

fn refused(diagnostics: &[Diagnostic]) -> ExitCode {
    let lines = diagnostics.iter().map(ToString::to_string);
    fail(lines.collect::<Vec<_>>().join("\n"))
}

/// Everything that would keep `run` from serving this file, but for its sockets.
pub fn problems(file: &Path) -> Vec<Problem> {
    config::load(file).map_or_else(|problems| problems, |config| deeper(config, file))
}

/// The same for text that is in hand.
pub fn problems_in(text: &str, file: &Path) -> Vec<Problem> {
    config::parse(text, file).map_or_else(|problems| problems, |config| deeper(config, file))
}

/// What only certificates, scripts and the routes together show.
fn deeper(config: Config, file: &Path) -> Vec<Problem> {
    let mut found = certificates(&config, file);
    found.extend(access_log(&config, file));
    match Metrics::new() {
        Ok(metrics) => {
            found.extend(Snapshot::build(config, file, &metrics, None).err().into_iter().flatten())
        }
        Err(error) => {
            let mut problems = Problems::new(file);
            problems.add(Default::default(), "metrics", error.to_string(), None);
            found.extend(problems.into_sorted());
        }
    }
    found.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    found
}

/// `run` makes the file, but not the folder.
fn access_log(config: &Config, file: &Path) -> Vec<Problem> {
    let mut problems = Problems::new(file);
    if let Some(path) = &config.access_log.path {
        let folder = path.value.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            path.problem(&mut problems, format!("{} is not a folder", folder.display()), None);
        } else if path.value.is_dir() {
            path.problem(&mut problems, format!("{} is a folder", path.value.display()), None);
        }
    }
    problems.into_sorted()
}

fn certificates(config: &Config, file: &Path) -> Vec<Problem> {
    let mut problems = Problems::new(file);
    for (listener, at) in config.listeners.iter().zip(&config.places.listeners) {
        if let Some(Err(error)) = listener.tls.as_ref().map(TlsTable::load) {
            let path = format!("listeners.{}.tls", listener.name);
            problems.add(*at, &path, error.to_string(), None);
        }
    }
    problems.into_sorted()
}
