//! What commands print. A reader that leaves early, as `head` does, ends the output and is no error.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use crate::config::problem::Problem;

/// Text to stdout; what follows it is for the caller to decide.
pub fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Text to stdout as all that a command does.
pub fn answer(text: &str) -> ExitCode {
    match out(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format!("stdout: {error}")),
    }
}

/// One error to stderr.
pub fn fail(error: impl std::fmt::Display) -> ExitCode {
    err(&format!("selvedge: {error}\n"));
    ExitCode::FAILURE
}

/// Problems to stderr, one a line, and the line of a script below the one about it.
pub fn report(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        err(&format!("{problem}\n"));
        if let Some(line) = &problem.source {
            err(&format!("    {line}\n"));
        }
    }
    let plural = if problems.len() == 1 { "problem" } else { "problems" };
    err(&format!("{} {plural}\n", problems.len()));
    ExitCode::FAILURE
}

/// Text to stderr. If that is closed there is nobody left to tell.
pub fn err(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
