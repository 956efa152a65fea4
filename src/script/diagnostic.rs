//! What is wrong with a script, in a form that points at the place.

use std::fmt;
use std::path::{Path, PathBuf};

use rhai::Position;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub file: PathBuf,
    /// From 1; 0 when the place is not known.
    pub line: usize,
    pub column: usize,
    pub message: String,
    pub source_line: String,
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(super) fn at(file: &Path, source: &str, position: Position, message: String) -> Self {
        let line = position.line().unwrap_or(0);
        Self {
            file: file.to_owned(),
            line,
            column: position.position().unwrap_or(0),
            message,
            source_line: source_line(source, line),
            hint: None,
        }
    }

    pub(super) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

/// A line of the source, from 1; empty when there is none.
pub(super) fn source_line(source: &str, line: usize) -> String {
    let found = line.checked_sub(1).and_then(|index| source.lines().nth(index));
    found.unwrap_or_default().to_owned()
}

/// Where a function is defined, which Rhai does not tell.
pub(super) fn definition(source: &str, function: &str) -> Position {
    let defines = |line: &str| {
        let rest = line.trim_start().trim_start_matches("private ");
        let rest = rest.strip_prefix("fn ")?.trim_start().strip_prefix(function)?;
        rest.trim_start().starts_with('(').then_some(())
    };
    let line = source.lines().position(|line| defines(line).is_some());
    line.and_then(|index| u16::try_from(index + 1).ok())
        .map_or(Position::NONE, |line| Position::new(line, 1))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, message, source_line, .. } = self;
        match line {
            0 => write!(f, "{}: {message}", self.file.display())?,
            _ => write!(f, "{}:{line}:{column}: {message}", self.file.display())?,
        }
        if !source_line.is_empty() {
            write!(f, "\n  {line} | {source_line}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}
