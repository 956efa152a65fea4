//! `selvedge test`: the tests that stand beside filters.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use crate::script::test_file;

#[derive(Debug, Args)]
pub struct Test {
    /// `*_test.rhai` files, or folders that hold them
    #[arg(default_value = "scripts")]
    paths: Vec<PathBuf>,
}

impl Test {
    pub fn run(self) -> ExitCode {
        let mut files = Vec::new();
        for path in &self.paths {
            if let Err(error) = collect(path, &mut files) {
                return super::print::fail(format!("{}: {error}", path.display()));
            }
        }
        if files.is_empty() {
            return super::print::fail("no *_test.rhai found");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => run_all(&files, &Arc::new(runtime)),
            Err(error) => super::print::fail(error),
        }
    }
}

fn run_all(files: &[PathBuf], runtime: &Arc<tokio::runtime::Runtime>) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let tests = match test_file(file, runtime) {
            Ok(tests) => tests,
            Err(error) => {
                super::print::err(&format!("{error}\n"));
                failed += 1;
                continue;
            }
        };
        if tests.is_empty() {
            super::print::err(&format!("{}: no function begins with test_\n", file.display()));
            failed += 1;
        }
        for test in tests {
            let name = format!("{}: {}", file.display(), test.name);
            match test.failure {
                None => {
                    say(&format!("ok    {name}"));
                    passed += 1;
                }
                Some(failure) => {
                    say(&format!("FAIL  {name}\n      {failure}"));
                    failed += 1;
                }
            }
        }
    }
    say(&format!("{passed} passed, {failed} failed"));
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The verdict is in the exit code, so a stdout that cannot be written to does not end the tests.
fn say(line: &str) {
    let _ = super::print::out(&format!("{line}\n"));
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        entries.sort();
        return entries
            .iter()
            .filter(|path| path.is_dir() || is_test(path))
            .try_for_each(|path| collect(path, files));
    }
    std::fs::metadata(path)?;
    files.push(path.to_owned());
    Ok(())
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_test.rhai"))
}
