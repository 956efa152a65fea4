//! What is wrong with a configuration, and where: every problem of a run, not the first one.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A place in a file; lines and columns count from 1, and 0 stands for no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pos {
    pub line: usize,
    pub column: usize,
}

/// One thing that must be changed before the configuration can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
    /// The key's path: `routes[1].upstream`.
    pub path: String,
    pub message: String,
    /// What to write instead, when that can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The line itself, where it is one of a script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One line; whoever has room for it shows `source` below.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file.display())?,
            line => write!(f, "{}:{line}:{}: ", self.file.display(), self.column)?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Collects problems while a configuration is read and resolved.
#[derive(Debug)]
pub struct Problems {
    file: PathBuf,
    found: Vec<Problem>,
}

impl Problems {
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), found: Vec::new() }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The folder that relative paths of the configuration start from.
    pub fn base(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    pub fn add(&mut self, at: Pos, path: &str, message: impl Into<String>, hint: Option<String>) {
        self.found.push(Problem {
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            path: path.to_owned(),
            message: message.into(),
            hint,
            source: None,
        });
    }

    /// A problem found elsewhere, such as in a script.
    pub fn push(&mut self, problem: Problem) {
        self.found.push(problem);
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All problems, in the order of their places.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort_by(|a, b| {
            (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message))
        });
        self.found.dedup();
        self.found
    }
}

/// `did you mean "x"?` for the nearest of `valid`, or the whole list while it is short.
pub fn nearest<'a>(given: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const LIST_UP_TO: usize = 16;
    let valid: Vec<&str> = valid.into_iter().collect();
    let best = valid
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len().max(given.len()) / 3);
    match best {
        Some((_, name)) => Some(format!("did you mean \"{name}\"?")),
        None if valid.is_empty() || valid.len() > LIST_UP_TO => None,
        None => Some(format!("one of: {}", valid.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_gets_its_nearest_name_and_a_stranger_gets_the_list() {
        let keys = ["listeners", "upstreams", "routes"];
        assert_eq!(nearest("upstream", keys), Some("did you mean \"upstreams\"?".into()));
        assert_eq!(nearest("qqq", keys), Some("one of: listeners, upstreams, routes".into()));
        assert_eq!(nearest("qqq", []), None);
    }
}
