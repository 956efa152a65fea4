//! Which lines of filters their tests have run.
//!
//! A covered script is compiled from a text in which a call stands before the first statement of
//! each line. Line numbers stay; columns are mapped back by [`Coverage::column`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rhai::{AST, ASTNode, Engine, Position, Stmt};

use super::fiber;
use super::meter::RunFigures;
use crate::config::filters::FilterLimits;

/// The call that notes a line.
const MARK: &str = "__ran";
/// What the engine counts for one such call, and gives back. A test compares the two.
const COST: i32 = 3;

/// What all covered scripts of one run of `selvedge test` have run; copies share it.
#[derive(Clone, Default)]
pub struct Coverage(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    marks: Vec<Mark>,
    ids: BTreeMap<(PathBuf, usize), usize>,
    costs: BTreeMap<PathBuf, Cost>,
}

/// The most that a run of a filter's hook used, of what it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub operations: (u64, u64),
    /// Bytes.
    pub memory: (usize, usize),
}

struct Mark {
    /// From 1: where the call was put, and how many characters it takes.
    column: usize,
    width: usize,
    ran: bool,
}

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    pub file: PathBuf,
    /// Lines with a statement.
    pub lines: usize,
    /// Those of them that no test ran.
    pub missed: Vec<usize>,
}

impl Covered {
    /// Of the lines with a statement, rounded down: 100 means all.
    pub fn percent(&self) -> usize {
        let ran = self.lines - self.missed.len();
        (ran * 100).checked_div(self.lines).unwrap_or(100)
    }
}

impl Coverage {
    /// Every file that was compiled, in the order of their names.
    pub fn files(&self) -> Vec<Covered> {
        let noted = self.0.lock();
        let mut files: BTreeMap<&Path, Covered> = BTreeMap::new();
        for ((file, line), id) in &noted.ids {
            let new = || Covered { file: file.clone(), lines: 0, missed: Vec::new() };
            let covered = files.entry(file).or_insert_with(new);
            covered.lines += 1;
            if !noted.marks[*id].ran {
                covered.missed.push(*line);
            }
        }
        files.into_values().collect()
    }

    /// One run of a filter's hook has ended.
    pub(super) fn used(&self, file: &Path, figures: &RunFigures, limits: &FilterLimits) {
        let mut noted = self.0.lock();
        let none = Cost { operations: (0, limits.operations), memory: (0, limits.memory) };
        let cost = noted.costs.entry(file.to_owned()).or_insert(none);
        cost.operations.0 = cost.operations.0.max(figures.operations);
        cost.memory.0 = cost.memory.0.max(figures.peak_memory);
    }

    /// By the filter's file.
    pub fn costs(&self) -> BTreeMap<PathBuf, Cost> {
        self.0.lock().costs.clone()
    }

    /// Where a column of the marked text is in the text as written.
    pub fn column(&self, file: &Path, line: usize, column: usize) -> usize {
        let noted = self.0.lock();
        let mark = noted.ids.get(&(file.to_owned(), line)).map(|id| &noted.marks[*id]);
        match mark {
            Some(mark) if column >= mark.column + mark.width => column - mark.width,
            Some(mark) if column > mark.column => mark.column,
            _ => column,
        }
    }

    /// Gives an engine the call.
    pub(super) fn register(&self, engine: &mut Engine) {
        let noted = self.clone();
        engine.register_fn(MARK, move |id: i64| {
            let id = usize::try_from(id).unwrap_or(usize::MAX);
            if let Some(mark) = noted.0.lock().marks.get_mut(id) {
                mark.ran = true;
            }
            fiber::refund(COST);
        });
    }

    /// The source with the calls in it. `ast` is what it was compiled to.
    pub(super) fn marked(&self, file: &Path, source: &str, ast: &AST) -> String {
        let before = before(source);
        let starts = statements(ast);
        let mut marked = String::with_capacity(source.len() * 2);
        for (index, line) in source.split_inclusive('\n').enumerate() {
            let offset = line.as_ptr() as usize - source.as_ptr() as usize;
            let columns = starts.range((index + 1, 0)..(index + 2, 0)).map(|(_, column)| *column);
            let mut places =
                columns.filter_map(|column| Some((column, at(line, column, offset, &before)?)));
            match places.next() {
                Some((column, place)) => {
                    let id = self.id(file, index + 1, column);
                    marked.push_str(&line[..place]);
                    marked.push_str(&call(id));
                    marked.push_str(&line[place..]);
                }
                None => marked.push_str(line),
            }
        }
        marked
    }

    fn id(&self, file: &Path, line: usize, column: usize) -> usize {
        let mut noted = self.0.lock();
        let key = (file.to_owned(), line);
        if let Some(id) = noted.ids.get(&key) {
            return *id;
        }
        let id = noted.marks.len();
        let width = call(id).len();
        noted.marks.push(Mark { column, width, ran: false });
        noted.ids.insert(key, id);
        id
    }
}

fn call(id: usize) -> String {
    format!("{MARK}({id});")
}

/// Lines and columns of all statements in functions.
fn statements(ast: &AST) -> BTreeSet<(usize, usize)> {
    let mut found = BTreeSet::new();
    ast.clone_functions_only().walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(stmt)) = path.last() {
            let start = start(stmt);
            if let (Some(line), Some(column)) = (start.line(), start.position()) {
                found.insert((line, column));
            }
        }
        true
    });
    found
}

/// Where a statement begins; Rhai tells for an assignment where its operator is.
fn start(stmt: &Stmt) -> Position {
    let namespaced = |call: &rhai::FnCallExpr, position: Position| match call.namespace.is_empty() {
        true => position,
        false => call.namespace.position(),
    };
    match stmt {
        Stmt::Assignment(assignment) => assignment.1.lhs.start_position(),
        Stmt::FnCall(call, position) => namespaced(call, *position),
        Stmt::Expr(expr) => match &**expr {
            rhai::Expr::FnCall(call, position) => namespaced(call, *position),
            expr => expr.start_position(),
        },
        stmt => stmt.position(),
    }
}

/// The byte of a line where a statement begins, if another statement can stand before it: what
/// comes first must be the start of a block, or the end of a statement.
fn at(line: &str, column: usize, offset: usize, before: &[u8]) -> Option<usize> {
    let (place, _) = line.char_indices().nth(column.checked_sub(1)?)?;
    matches!(before.get(offset + place), Some(b'{' | b'}' | b';')).then_some(place)
}

/// For each byte of the source the last byte of code before it; 0 in comments and in text.
fn before(source: &str) -> Vec<u8> {
    let bytes = source.as_bytes();
    let mut before = vec![0; bytes.len()];
    let (mut last, mut at) = (b'{', 0);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let opaque = opaque(rest);
        if !(opaque > 0 && rest[0] == b'/') {
            before[at] = last;
            last = if rest[0].is_ascii_whitespace() { last } else { rest[0] };
        }
        at += opaque.max(1);
    }
    before
}

/// The length of a comment or a text that starts here; 0 for anything else.
fn opaque(rest: &[u8]) -> usize {
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => comment(rest),
        [b'"' | b'\'', ..] => quoted(rest),
        [b'#', ..] => raw(rest),
        [b'`', ..] => template(rest),
        _ => 0,
    }
}

/// The length of a comment that may hold others.
fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a text in quotes, with them.
fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != rest[0] {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of a text such as `##"a "#" b"##`; 0 for any other use of `#`.
fn raw(rest: &[u8]) -> usize {
    let hashes = rest.iter().take_while(|b| **b == b'#').count();
    if rest.get(hashes) != Some(&b'"') {
        return 0;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let inside = &rest[hashes + 1..];
    let found = inside.windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |found| hashes + 1 + found + end.len())
}

/// The length of a text in backticks, with the code in its `${...}`.
fn template(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (1, 0_usize);
    while at < rest.len() {
        match (&rest[at..], depth) {
            ([b'`', ..], 0) => return at + 1,
            ([b'$', b'{', ..], 0) => (at, depth) = (at + 2, 1),
            (_, 0) => at += 1,
            ([b'{', ..], _) => (at, depth) = (at + 1, depth + 1),
            ([b'}', ..], _) => (at, depth) = (at + 1, depth - 1),
            (inside, _) => at += opaque(inside).max(1),
        }
    }
    rest.len()
}
