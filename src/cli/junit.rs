//! Test results in the JUnit form that CI systems read.

use std::path::Path;
use std::time::Duration;

use crate::script::{Failure, Tested};

/// One test file's results, or why it could not be used.
pub type Results<'r> = (&'r Path, Result<&'r [Tested], &'r Failure>);

pub fn junit(results: &[Results]) -> String {
    let suites: String = results.iter().map(suite).collect();
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n{suites}</testsuites>\n")
}

fn suite((file, tested): &Results) -> String {
    let name = escaped(&file.display().to_string());
    let (count, failed, took, cases) = match tested {
        Ok(tested) => (
            tested.len(),
            tested.iter().filter(|test| test.failure.is_some()).count(),
            tested.iter().map(|test| test.took).sum(),
            tested.iter().map(|test| case(&name, test)).collect(),
        ),
        Err(failure) => (1, 1, Duration::ZERO, case_of_file(&name, failure)),
    };
    let time = took.as_secs_f64();
    format!(
        "  <testsuite name=\"{name}\" tests=\"{count}\" failures=\"{failed}\" time=\"{time:.3}\">\n\
         {cases}  </testsuite>\n"
    )
}

fn case(file: &str, test: &Tested) -> String {
    let (name, time) = (escaped(&test.name), test.took.as_secs_f64());
    let head = format!("    <testcase classname=\"{file}\" name=\"{name}\" time=\"{time:.3}\"");
    match &test.failure {
        None => format!("{head}/>\n"),
        Some(failure) => format!("{head}>\n{}    </testcase>\n", failed(failure)),
    }
}

fn case_of_file(file: &str, failure: &Failure) -> String {
    let failed = failed(failure);
    format!(
        "    <testcase classname=\"{file}\" name=\"the file\" time=\"0.000\">\n{failed}    \
         </testcase>\n"
    )
}

fn failed(failure: &Failure) -> String {
    let first = failure.message.lines().next().unwrap_or_default();
    let (message, text) = (escaped(first), escaped(&failure.to_string()));
    format!("      <failure message=\"{message}\">{text}</failure>\n")
}

/// XML has no form at all for most control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_message_leaves_its_place() {
        assert_eq!(escaped("a<b>&\"c\"\u{1b}[0m"), "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}[0m");
    }
}
