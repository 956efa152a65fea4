//! Why a test failed, and where, in the words that its author reads.

use std::fmt;
use std::path::{Path, PathBuf};

use rhai::{EvalAltResult, Position};

use crate::script::diagnostic::{definition, source_line};
use crate::script::fault::text_of;

/// A test file.
pub struct Source {
    pub file: PathBuf,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub file: PathBuf,
    /// From 1; 0 when it is about the whole file.
    pub line: usize,
    pub column: usize,
    /// One line, or several where values are long.
    pub message: String,
    pub source_line: String,
    /// Lines of the same file that led there, innermost first.
    pub called_from: Vec<usize>,
}

impl Failure {
    pub fn of_file(file: &Path, message: String) -> Self {
        let (source_line, called_from) = (String::new(), Vec::new());
        Self { file: file.to_owned(), line: 0, column: 0, message, source_line, called_from }
    }

    pub(super) fn at(source: &Source, position: Position, message: String) -> Self {
        let line = position.line().unwrap_or(0);
        Self {
            line,
            column: position.position().unwrap_or(0),
            source_line: source_line(&source.text, line),
            ..Self::of_file(&source.file, message)
        }
    }

    /// Of a whole function.
    pub(super) fn of_function(source: &Source, name: &str, message: String) -> Self {
        Self::at(source, definition(&source.text, name), message)
    }

    pub(super) fn of(source: &Source, error: &EvalAltResult) -> Self {
        let (mut at, mut calls, mut file) = (error, Vec::new(), None);
        while let EvalAltResult::ErrorInFunctionCall(_, name, inner, position)
        | EvalAltResult::ErrorInModule(name, inner, position) = at
        {
            calls.extend(position.line());
            if !name.is_empty() {
                file = Some(PathBuf::from(name.as_str()));
            }
            at = inner;
        }
        calls.reverse();
        let mut failure = Self::at(source, at.position(), text_of(at));
        // An imported file's text is not at hand.
        if let Some(file) = file.filter(|file| *file != source.file) {
            failure.file = file;
            failure.source_line.clear();
        }
        failure.called_from = calls;
        failure
    }

    /// `file:line:column`, as far as it is known.
    pub fn place(&self) -> String {
        match self.line {
            0 => self.file.display().to_string(),
            line => format!("{}:{line}:{}", self.file.display(), self.column),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.message)?;
        if !self.source_line.is_empty() {
            write!(f, "\n  {} | {}", self.line, self.source_line)?;
        }
        for line in &self.called_from {
            write!(f, "\n  called from line {line}")?;
        }
        Ok(())
    }
}
