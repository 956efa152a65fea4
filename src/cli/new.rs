//! `selvedge new`: files to start from. What is there already is never touched.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::print::{answer, fail};

#[derive(Debug, Args)]
pub struct New {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A filter and its test
    Filter(NewFilter),
}

#[derive(Debug, Args)]
struct NewFilter {
    /// Letters, digits, - and _
    #[arg(value_parser = name)]
    name: String,
    /// Where to write it
    #[arg(long, default_value = "scripts")]
    folder: PathBuf,
}

const FILTER: &str = include_str!("template/filter.rhai");
const TEST: &str = include_str!("template/filter_test.rhai");

impl New {
    pub fn run(self) -> ExitCode {
        let What::Filter(filter) = self.what;
        filter.run()
    }
}

impl NewFilter {
    fn run(self) -> ExitCode {
        let script = self.folder.join(format!("{}.rhai", self.name));
        let test = self.folder.join(format!("{}_test.rhai", self.name));
        let written = std::fs::create_dir_all(&self.folder)
            .map_err(|error| format!("{}: {error}", self.folder.display()))
            .and_then(|()| self.write(&script, &test));
        match written {
            Ok(()) => {
                let (script, test) = (script.display(), test.display());
                answer(&format!("{script}\n{test}\nNow try: selvedge test {test}\n"))
            }
            Err(error) => fail(error),
        }
    }

    /// Both or none.
    fn write(&self, script: &Path, test: &Path) -> Result<(), String> {
        let fill = |template: &str| {
            let template = template.replace("{{name}}", &self.name);
            let template = template.replace("{{file}}", &script.display().to_string());
            template.replace("{{test}}", &test.display().to_string())
        };
        create(script, &fill(FILTER)).map_err(|error| told(script, &error))?;
        create(test, &fill(TEST)).map_err(|error| {
            // Ours: it was not there a moment ago.
            let _ = std::fs::remove_file(script);
            told(test, &error)
        })
    }
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}

fn told(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AlreadyExists => format!("{} exists already", path.display()),
        _ => format!("{}: {error}", path.display()),
    }
}

/// A name that is right in a path, in the configuration and in a log.
fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.starts_with('-') || !text.chars().all(plain) {
        return Err("a name has letters, digits, - and _, and does not begin with -".to_owned());
    }
    if text.ends_with("_test") {
        return Err("a script whose name ends with _test is taken for tests".to_owned());
    }
    Ok(text.to_owned())
}
