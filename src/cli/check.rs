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
use crate::snapshot::{Snapshot, read_lists};
use crate::state::Lists;
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
        let shown = self.loaded(|config, lists| {
            let grants = Grants::of(config, lists)?;
            Ok(match self.json {
                true => array(grants.iter().map(Grants::json).collect()),
                false => paragraphs(grants.iter().map(Grants::text).collect()),
            })
        });
        shown.map_or_else(|code| code, |text| answer(&text))
    }

    fn print_costs(&self) -> ExitCode {
        let shown = self.loaded(|config, lists| {
            let costs = Costs::of(config, lists)?;
            Ok(match self.json {
                true => array(costs.iter().map(Costs::json).collect()),
                false => paragraphs(costs.iter().map(Costs::text).collect()),
            })
        });
        shown.map_or_else(|code| code, |text| answer(&text))
    }

    /// What `show` makes of the configuration, which was sound when it was checked.
    fn loaded(
        &self,
        show: impl FnOnce(&Config, &Lists) -> Result<String, Vec<Diagnostic>>,
    ) -> Result<String, ExitCode> {
        let config = config::load(&self.config).map_err(|problems| report(&problems))?;
        let lists = read_lists(&config, None, &self.config);
        let lists = lists.map_err(|problems| report(&problems))?;
        show(&config, &lists).map_err(|diagnostics| {
            let lines = diagnostics.iter().map(ToString::to_string);
            fail(lines.collect::<Vec<_>>().join("\n"))
        })
    }
}

fn array(values: Vec<serde_json::Value>) -> String {
    format!("{:#}\n", serde_json::json!(values))
}

fn paragraphs(texts: Vec<String>) -> String {
    if texts.is_empty() { "there are no filters\n".to_owned() } else { texts.join("\n") }
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
