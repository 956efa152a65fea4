//! `selvedge dev`: serves a configuration to whoever writes its filters.
//!
//! It is `run` with three things beside it: a look at the files twice a second and a reload when
//! they changed, each request on stdout, and error pages that show the filter's line to requests
//! from this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_yaml::Value;

use super::print::{out, report};
use super::run::{Process, announce, serve};
use super::watch;
use crate::admin::Reload;
use crate::config::{self, Config, Input};
use crate::script;
use crate::server;
use crate::snapshot::read_lists;

/// Keys of the configuration that name files which `run` reads.
const FILES: [&str; 6] = ["script", "file", "cert", "key", "ca", "client_ca"];

#[derive(Debug, Args)]
pub struct Dev {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    process: Process,
}

impl Dev {
    pub fn run(self) -> ExitCode {
        let config = match config::load(&self.config) {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        let file = self.config.clone();
        let files = files(&file, Some(&config), Vec::new());
        let dev = server::Dev {
            show: Box::new(say),
            watch: Box::new(move |reload| keep_fresh(&file, files, &reload)),
        };
        serve(Input::File(self.config), config, &self.process, Some(dev), announce)
    }
}

/// Reloads after each change, for as long as the program runs.
fn keep_fresh(file: &Path, mut files: Vec<PathBuf>, reload: &Arc<dyn Reload>) {
    let mut seen = watch::look(files.clone());
    loop {
        let (_, changed) = watch::wait(&seen, || files.clone());
        // Looked at before they are read: what changes meanwhile is seen next time.
        seen = watch::look(files.clone());
        let names: Vec<String> = changed.iter().map(|file| file.display().to_string()).collect();
        say(&format!("changed: {}\n", names.join(", ")));
        if let Err(problems) = reload.reload() {
            for problem in &problems {
                if let Some(line) = &problem.source {
                    say(&format!("{}:{} | {line}\n", problem.file.display(), problem.line));
                }
            }
            say("the last good version goes on serving\n");
        }
        files = self::files(file, config::load(file).ok().as_ref(), files);
        files.iter().for_each(|file| {
            seen.entry(file.clone()).or_insert_with(|| watch::look([file.clone()])[file]);
        });
        seen.retain(|known, _| files.contains(known));
    }
}

/// What there is to watch. A configuration or a script that is broken just now does not say what
/// it needs, so what was watched `before` stays.
fn files(file: &Path, config: Option<&Config>, before: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut files = vec![file.to_owned()];
    let mut broken = config.is_none();
    if let Some(config) = config {
        named(&config.effective, &mut files);
        let lists = read_lists(config, None, file);
        broken |= lists.is_err();
        let lists = lists.unwrap_or_default();
        for filter in &config.filters {
            match script::compile(filter, &lists) {
                Ok(script) => files.extend(script.files()),
                Err(_) => broken = true,
            }
            files.push(script::tests_of(&filter.script));
        }
    }
    if broken {
        files.extend(before);
    }
    files.sort();
    files.dedup();
    files
}

/// Files that the configuration names, wherever they stand in it.
fn named(value: &Value, files: &mut Vec<PathBuf>) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                match (key.as_str(), value.as_str()) {
                    (Some(key), Some(path)) if FILES.contains(&key) => files.push(path.into()),
                    // Free-form data of a filter, in which these words may mean anything.
                    (Some("config"), _) => {}
                    _ => named(value, files),
                }
            }
        }
        Value::Sequence(list) => list.iter().for_each(|value| named(value, files)),
        _ => {}
    }
}

/// A closed stdout is no reason not to serve.
fn say(text: &str) {
    let _ = out(text);
}
