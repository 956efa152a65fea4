//! `selvedge test`: the tests that stand beside filters.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::junit::junit;
use super::print::{self, fail};
use super::watch;
use crate::config::filters::Lowering;
use crate::config::values::show_size;
use crate::script::{
    Cost, Coverage, Covered, Failure, Report, ReportedFailure, ReportedFile, ReportedTest, Tested,
    test_file,
};

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Test {
    /// `*_test.rhai` files, or folders that hold them
    #[arg(default_value = "scripts", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tests that have this in their file's or function's name
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Fail if less of any filter's lines was run
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage_min: Option<u8>,
    /// Also write the results to a file, as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as JSON
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    /// Also print the most that a run of each filter's hooks used, of what it may use
    #[arg(long, conflicts_with = "json")]
    costs: bool,
    /// Run again whenever a script changes, until interrupted
    #[arg(long)]
    watch: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  every test passed
  1  a test failed, a file could not be used, nothing was found to run, or a filter's coverage
     is below the minimum
  2  wrong arguments";

/// What came of one test file.
type Outcome = (PathBuf, Result<Vec<Tested>, Failure>);

impl Test {
    pub fn run(self) -> ExitCode {
        if let Err(message) = Lowering::usual() {
            return fail(message);
        }
        if !self.watch {
            return self.run_once();
        }
        let list = || self.paths.iter().flat_map(|path| scripts(path)).collect::<Vec<_>>();
        let mut seen = watch::look(list());
        loop {
            self.run_once();
            say("watching for changes; Ctrl-C ends it");
            (seen, _) = watch::wait(&seen, list);
            say("");
        }
    }

    fn run_once(&self) -> ExitCode {
        let mut files = Vec::new();
        for path in &self.paths {
            if let Err(error) = collect(path, &mut files) {
                return fail(format!("{}: {error}", path.display()));
            }
        }
        if files.is_empty() {
            return fail("no *_test.rhai found");
        }
        let coverage = Coverage::default();
        let outcomes: Vec<Outcome> = files
            .into_iter()
            .map(|file| (file.clone(), self.test(&file, &coverage)))
            .filter(|(_, outcome)| !outcome.as_ref().is_ok_and(Vec::is_empty))
            .collect();
        if let Some(file) = &self.junit {
            let results: Vec<_> =
                outcomes.iter().map(|(file, it)| (&**file, it.as_deref())).collect();
            if let Err(error) = std::fs::write(file, junit(&results)) {
                return fail(format!("{}: {error}", file.display()));
            }
        }
        let covered = self.covered(&coverage);
        match self.json {
            true => print_json(&outcomes, &covered),
            false => print_text(&outcomes, &covered, &self.costs(&coverage)),
        }
        let failed = outcomes.iter().any(|(_, outcome)| match outcome {
            Ok(tested) => tested.iter().any(|test| test.failure.is_some()),
            Err(_) => true,
        });
        if outcomes.is_empty() {
            return fail(match &self.filter {
                Some(name) => format!("no test has \"{name}\" in its name"),
                None => "no test found".to_owned(),
            });
        }
        let enough = self.is_enough(&covered);
        if failed || !enough { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// A line for each filter, if they are wanted.
    fn costs(&self, coverage: &Coverage) -> Vec<String> {
        let line = |(file, cost): (PathBuf, Cost)| {
            let ((used, allowed), (held, most)) = (cost.operations, cost.memory);
            let bytes = |bytes: usize| show_size(bytes.div_ceil(1024) as u64 * 1024);
            let memory = format!("memory {} of {}", bytes(held), bytes(most));
            format!("{}: {used} of {allowed} operations, {memory}", file.display())
        };
        if self.costs { coverage.costs().into_iter().map(line).collect() } else { Vec::new() }
    }

    /// A file without any test is an error, unless only some tests are wanted.
    fn test(&self, file: &Path, coverage: &Coverage) -> Result<Vec<Tested>, Failure> {
        let wanted = |test: &str| {
            let name = format!("{}: {test}", file.display());
            self.filter.as_ref().is_none_or(|part| name.contains(part.as_str()))
        };
        let tested = test_file(file, &wanted, coverage)?;
        if tested.is_empty() && self.filter.is_none() {
            return Err(Failure::of_file(file, "no function begins with test_".to_owned()));
        }
        Ok(tested)
    }

    /// What was run, and what lies in the folders and was not even loaded.
    fn covered(&self, coverage: &Coverage) -> Vec<Covered> {
        let mut covered = coverage.files();
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let here = std::env::current_dir().unwrap_or_default();
        for it in &mut covered {
            if let Ok(inside) = it.file.strip_prefix(&here) {
                it.file = inside.to_owned();
            }
        }
        if self.filter.is_none() {
            let known: BTreeSet<PathBuf> = covered.iter().map(|it| real(&it.file)).collect();
            let folders = self.paths.iter().filter(|path| path.is_dir());
            let others = folders.flat_map(|path| scripts(path));
            let others = others.filter(|file| !is_test(file) && !known.contains(&real(file)));
            covered.extend(others.map(|file| Covered { file, lines: 0, missed: Vec::new() }));
        }
        covered.sort_by(|a, b| a.file.cmp(&b.file));
        covered
    }

    fn is_enough(&self, covered: &[Covered]) -> bool {
        let Some(least) = self.coverage_min.map(usize::from) else { return true };
        let below = covered.iter().filter(|it| percent(it) < least);
        let mut enough = true;
        for it in below {
            let (file, percent) = (it.file.display(), percent(it));
            print::err(&format!(
                "{file}: {percent}% of its lines are run, {least}% are asked for\n"
            ));
            enough = false;
        }
        enough
    }
}

/// A script that no test has loaded has no lines that are known.
fn percent(covered: &Covered) -> usize {
    if covered.lines == 0 { 0 } else { covered.percent() }
}

fn print_text(outcomes: &[Outcome], covered: &[Covered], costs: &[String]) {
    let (mut passed, mut failed) = (0, 0);
    for (file, outcome) in outcomes {
        let tests = match outcome {
            Ok(tests) => tests,
            Err(failure) => {
                say(&indented("FAIL  ", &failure.to_string()));
                failed += 1;
                continue;
            }
        };
        for test in tests {
            let name = format!("{}: {}", file.display(), test.name);
            match &test.failure {
                None => {
                    say(&format!("ok    {name}"));
                    passed += 1;
                }
                Some(failure) => {
                    say(&format!("FAIL  {name}"));
                    say(&indented("      ", &failure.to_string()));
                    failed += 1;
                }
            }
            test.printed.iter().for_each(|line| say(&indented("      | ", line)));
        }
    }
    for it in covered {
        say(&format!("{:>4}% {}{}", percent(it), it.file.display(), missed(it)));
    }
    costs.iter().for_each(|line| say(&format!("      {line}")));
    say(&format!("{passed} passed, {failed} failed"));
}

/// `: lines 3, 7-9 are not run`.
fn missed(covered: &Covered) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for line in &covered.missed {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *line => *last = *line,
            _ => ranges.push((*line, *line)),
        }
    }
    let shown = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match (covered.lines, covered.missed.len()) {
        (0, _) => ": no test loads it".to_owned(),
        (_, 0) => String::new(),
        (_, 1) => format!(": line {shown} is not run"),
        _ => format!(": lines {shown} are not run"),
    }
}

fn print_json(outcomes: &[Outcome], covered: &[Covered]) {
    let of = |failure: &Failure| ReportedFailure {
        file: failure.file.clone(),
        line: failure.line,
        column: failure.column,
        message: failure.message.clone(),
        source: failure.source_line.clone(),
    };
    let mut tests = Vec::new();
    for (file, outcome) in outcomes {
        let one = |name: &str, failure: Option<&Failure>| ReportedTest {
            file: file.clone(),
            name: name.to_owned(),
            failure: failure.map(of),
        };
        match outcome {
            Ok(tested) => tests.extend(tested.iter().map(|t| one(&t.name, t.failure.as_ref()))),
            Err(failure) => tests.push(one("", Some(failure))),
        }
    }
    let coverage = covered.iter().map(|it| ReportedFile {
        file: it.file.clone(),
        percent: percent(it),
        lines: it.lines,
        missed: it.missed.clone(),
    });
    let report = Report { tests, coverage: coverage.collect() };
    say(&format!("{:#}", serde_json::json!(report)));
}

/// The first line behind `first`, the others below it.
fn indented(first: &str, text: &str) -> String {
    let rest = if first.trim().is_empty() || first.ends_with("| ") { first } else { "      " };
    let lines = text.lines().enumerate();
    let lines = lines.map(|(at, line)| format!("{}{line}", if at == 0 { first } else { rest }));
    lines.collect::<Vec<_>>().join("\n")
}

/// The verdict is in the exit code, so a stdout that cannot be written to does not end the tests.
fn say(line: &str) {
    let _ = print::out(&format!("{line}\n"));
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        std::fs::read_dir(path)?;
        files.extend(scripts(path).into_iter().filter(|file| is_test(file)));
        return Ok(());
    }
    std::fs::metadata(path)?;
    files.push(path.to_owned());
    Ok(())
}

/// All scripts in a folder, or beside a file, in the order of their names.
fn scripts(path: &Path) -> Vec<PathBuf> {
    let folder = match path.is_dir() {
        true => path,
        false => {
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
        }
    };
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // One that cannot be read, or is gone by now, holds nothing.
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in entries.map(|entry| entry.path()) {
            match entry.extension() {
                // A link to a folder could lead in a circle.
                _ if entry.is_dir() && !entry.is_symlink() => folders.push(entry),
                Some(extension) if extension == "rhai" => found.push(entry),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_test.rhai"))
}
