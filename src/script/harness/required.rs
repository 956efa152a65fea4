//! `tests: required`: a filter's tests, run before it may serve.
//!
//! They run in a process of their own: a test cannot harm the proxy, and the fake clock of a test
//! does not stay in it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rhai::Position;
use serde::{Deserialize, Serialize};

use super::super::diagnostic::Diagnostic;
use crate::config::filters::Filter;

/// The longest time that one filter's tests may take.
const TIME: Duration = Duration::from_secs(60);

/// What `selvedge test --json` prints.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub tests: Vec<ReportedTest>,
    pub coverage: Vec<ReportedFile>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ReportedTest {
    pub file: PathBuf,
    /// Empty when the file itself cannot be used.
    pub name: String,
    pub failure: Option<ReportedFailure>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ReportedFailure {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
    pub message: String,
    pub source: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ReportedFile {
    pub file: PathBuf,
    pub percent: usize,
    pub lines: usize,
    pub missed: Vec<usize>,
}

/// What keeps a filter from serving: tests that fail, or that are not there.
pub fn required(filter: &Filter) -> Vec<Diagnostic> {
    let tests = tests_of(&filter.script);
    let whole = |message: String| vec![Diagnostic::at(&tests, "", Position::NONE, message)];
    if !tests.is_file() {
        return whole("tests are required, and this file is not there".to_owned());
    }
    let report = match in_a_process(&tests) {
        Ok(report) => report,
        Err(error) => return whole(format!("the required tests cannot be run: {error}")),
    };
    let failed: Vec<Diagnostic> = report.tests.into_iter().filter_map(diagnostic).collect();
    if !failed.is_empty() {
        return failed;
    }
    let ran =
        |file: &ReportedFile| same(&file.file, &filter.script) && file.missed.len() < file.lines;
    match report.coverage.iter().any(ran) {
        true => Vec::new(),
        false => whole(format!("no test here runs {}", filter.script.display())),
    }
}

/// `auth.rhai` has its tests in `auth_test.rhai`.
pub fn tests_of(script: &Path) -> PathBuf {
    let stem = script.file_stem().unwrap_or_default().to_string_lossy();
    script.with_file_name(format!("{stem}_test.rhai"))
}

fn same(left: &Path, right: &Path) -> bool {
    matches!((left.canonicalize(), right.canonicalize()), (Ok(left), Ok(right)) if left == right)
}

fn diagnostic(test: ReportedTest) -> Option<Diagnostic> {
    let failure = test.failure?;
    let name = if test.name.is_empty() { String::new() } else { format!("{} fails: ", test.name) };
    Some(Diagnostic {
        file: failure.file,
        line: failure.line,
        column: failure.column,
        message: format!("{name}{}", failure.message),
        source_line: failure.source,
        hint: None,
    })
}

fn in_a_process(tests: &Path) -> Result<Report, String> {
    // The very program that runs, also after its file was replaced.
    let program = Path::new("/proc/self/exe");
    let program = match program.exists() {
        true => program.to_owned(),
        false => std::env::current_exe().map_err(|error| error.to_string())?,
    };
    let mut command = Command::new(program);
    command.args(["test", "--json"]).arg(tests);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let Some(mut stdout) = child.stdout.take() else { return Err("no output".to_owned()) };
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text).map(|_| text);
        // Nobody listens any more after the time is up.
        let _ = sender.send(read.map_err(|error| error.to_string()));
    });
    let text = receiver.recv_timeout(TIME);
    if text.is_err() {
        // It may have ended by itself just now.
        let _ = child.kill();
    }
    child.wait().map_err(|error| error.to_string())?;
    let text = text.map_err(|error| match error {
        RecvTimeoutError::Timeout => format!("they take more than {TIME:?}"),
        RecvTimeoutError::Disconnected => "no output".to_owned(),
    })??;
    serde_json::from_str(&text).map_err(|error| format!("{error}"))
}
