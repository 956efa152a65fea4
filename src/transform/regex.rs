//! Matches of a regular expression replaced, exactly as if the body were one text.
//!
//! Searching piece by piece with an ordinary engine would miss what lies across an edge, or end a
//! match too early. So the automaton itself is kept between pieces: a simulation of the NFA (Pike's)
//! whose threads remember where they began. Only text that a live thread may still claim is held.

use regex_automata::meta;
use regex_automata::nfa::thompson::{self, NFA, State, WhichCaptures};
use regex_automata::util::captures::Captures;
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

use super::{CallbackError, Error, Stage, Verdict};

/// Bytes of the longest match; so much text is held back at most.
const WINDOW: usize = 64 << 10;
/// Bytes around a place that an assertion such as `\b` looks at: one character.
const LOOK: usize = 4;
/// Bytes of a compiled expression.
const SIZE: usize = 1 << 20;

/// A match's groups, the whole match first: name and text.
pub type Groups = Vec<(Option<String>, Option<String>)>;
pub type OnMatch = Box<dyn FnMut(Groups) -> Result<Verdict<Vec<u8>>, CallbackError> + Send>;

pub enum Replacement {
    /// `$1` and `${name}` stand for groups.
    Template(String),
    Callback(OnMatch),
}

#[derive(Debug, thiserror::Error)]
pub enum RegexError {
    #[error("{0}")]
    Syntax(String),
    #[error("an expression that matches the empty text has no use here")]
    Empty,
}

/// Where a thread is, and where it began.
type Thread = (StateID, u64);

pub struct ReplaceRegex {
    nfa: NFA,
    /// For the groups of a match that was found.
    groups: meta::Regex,
    captures: Captures,
    by: Replacement,
    /// Bytes that a match can begin with.
    begins: Box<[bool; 256]>,
    /// The text from `base` on; what lies before `sent` has gone out and is looked back at only.
    text: Vec<u8>,
    base: u64,
    sent: u64,
    at: u64,
    /// By priority.
    threads: Vec<Thread>,
    next: Vec<Thread>,
    /// The best match so far, which a thread of higher priority may still replace.
    best: Option<(u64, u64)>,
    /// States reached at this place, each marked by the place's number.
    reached: Vec<u64>,
    place: u64,
    stack: Vec<StateID>,
}

impl ReplaceRegex {
    pub fn new(pattern: &str, by: Replacement) -> Result<Self, RegexError> {
        let bad = |error: &dyn std::error::Error| {
            let cause = error.source().map(ToString::to_string);
            RegexError::Syntax(cause.unwrap_or_else(|| error.to_string()))
        };
        let config =
            thompson::Config::new().which_captures(WhichCaptures::None).nfa_size_limit(Some(SIZE));
        let mut compiler = thompson::Compiler::new();
        let compiler = compiler.configure(config).syntax(syntax::Config::new());
        let nfa = compiler.build(pattern).map_err(|error| bad(&error))?;
        if nfa.has_empty() {
            return Err(RegexError::Empty);
        }
        let config = meta::Config::new().nfa_size_limit(Some(SIZE));
        let groups = meta::Builder::new().configure(config).build(pattern);
        let groups = groups.map_err(|error| bad(&error))?;
        Ok(Self {
            begins: begins(&nfa),
            captures: groups.create_captures(),
            groups,
            by,
            text: Vec::new(),
            base: 0,
            sent: 0,
            at: 0,
            threads: Vec::new(),
            next: Vec::new(),
            best: None,
            reached: vec![0; nfa.states().len()],
            place: 0,
            stack: Vec::new(),
            nfa,
        })
    }

    fn end_of_text(&self) -> u64 {
        self.base + self.text.len() as u64
    }

    fn index(&self, position: u64) -> usize {
        // Within the text, which is in memory.
        (position - self.base) as usize
    }

    /// Runs as far as what follows cannot matter; to the very end when nothing follows.
    fn run(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let end = self.end_of_text();
        let look = if self.nfa.look_set_any().is_empty() { 1 } else { LOOK as u64 };
        while self.at + look <= end || last {
            if self.threads.is_empty() && self.best.is_none() {
                self.skip();
            }
            if self.at + look > end && !last {
                break;
            }
            self.step()?;
            let ended = self.at == end;
            if let Some(found) = self.best
                && (self.threads.is_empty() || ended)
            {
                self.replace(found, out)?;
                continue;
            }
            if ended {
                break;
            }
            self.at += 1;
        }
        self.send(last, out)
    }

    /// To the next byte that a match can begin with.
    fn skip(&mut self) {
        let rest = &self.text[self.index(self.at)..];
        let found = rest.iter().position(|byte| self.begins[usize::from(*byte)]);
        self.at += found.unwrap_or(rest.len()) as u64;
    }

    /// All threads at one place, then over its byte; those that go on are in `threads` after it.
    fn step(&mut self) -> Result<(), Error> {
        self.place += 1;
        self.next.clear();
        let threads = std::mem::take(&mut self.threads);
        let mut matched = None;
        for (state, began) in &threads {
            if self.follow(*state, *began) {
                matched = Some(*began);
                break;
            }
        }
        if matched.is_none() && self.best.is_none() {
            let began = self.at;
            // It cannot match here already: no match is empty.
            self.follow(self.nfa.start_anchored(), began);
        }
        self.threads = std::mem::replace(&mut self.next, threads);
        if let Some(began) = matched {
            self.best = Some((began, self.at));
        }
        match self.best {
            Some((began, _)) if self.at - began > WINDOW as u64 => {
                Err(Error::TooLong { what: "a match", most: WINDOW })
            }
            _ => Ok(()),
        }
    }

    /// All states that `state` leads to without a byte; true when one of them is a match, below
    /// which no thread counts.
    fn follow(&mut self, state: StateID, began: u64) -> bool {
        let index = self.index(self.at);
        let byte = self.text.get(index).copied();
        self.stack.clear();
        self.stack.push(state);
        while let Some(id) = self.stack.pop() {
            if std::mem::replace(&mut self.reached[id.as_usize()], self.place) == self.place {
                continue;
            }
            let over = match self.nfa.state(id) {
                State::ByteRange { trans } => {
                    byte.filter(|byte| trans.matches_byte(*byte)).map(|_| trans.next)
                }
                State::Sparse(sparse) => byte.and_then(|byte| sparse.matches_byte(byte)),
                State::Dense(dense) => byte.and_then(|byte| dense.matches_byte(byte)),
                State::Look { look, next } => {
                    // What was sent is kept as far as this may look back.
                    if self.nfa.look_matcher().matches(*look, &self.text, index) {
                        self.stack.push(*next);
                    }
                    None
                }
                State::Union { alternates } => {
                    self.stack.extend(alternates.iter().rev());
                    None
                }
                State::BinaryUnion { alt1, alt2 } => {
                    self.stack.extend([alt2, alt1]);
                    None
                }
                State::Capture { next, .. } => {
                    self.stack.push(*next);
                    None
                }
                State::Fail => None,
                State::Match { .. } => return true,
            };
            self.next.extend(over.map(|next| (next, began)));
        }
        false
    }

    /// Sends what lies before a match, then what takes its place; goes on behind it.
    fn replace(&mut self, (began, ended): (u64, u64), out: &mut Vec<u8>) -> Result<(), Error> {
        if began < self.sent {
            return Err(Error::TooLong { what: "a match", most: WINDOW });
        }
        let (sent, start, end) = (self.index(self.sent), self.index(began), self.index(ended));
        out.extend_from_slice(&self.text[sent..start]);
        let input = Input::new(&self.text).span(start..end).anchored(Anchored::Yes);
        match &mut self.by {
            Replacement::Template(template) if !template.contains('$') => {
                out.extend_from_slice(template.as_bytes());
            }
            Replacement::Template(template) => {
                self.groups.search_captures(&input, &mut self.captures);
                self.captures.interpolate_bytes_into(&self.text, template.as_bytes(), out);
            }
            Replacement::Callback(callback) => {
                self.groups.search_captures(&input, &mut self.captures);
                let names = self.captures.group_info().pattern_names(meta_pattern());
                let groups = names.enumerate().map(|(index, name)| {
                    let span = self.captures.get_group(index);
                    let text =
                        span.map(|span| String::from_utf8_lossy(&self.text[span.range()]).into());
                    (name.map(str::to_owned), text)
                });
                match callback(groups.collect()).map_err(Error::Callback)? {
                    Verdict::Keep => out.extend_from_slice(&self.text[start..end]),
                    Verdict::Replace(new) => out.extend(new),
                    Verdict::Drop => {}
                }
            }
        }
        (self.sent, self.at, self.best) = (ended, ended, None);
        self.threads.clear();
        Ok(())
    }

    /// Sends what no thread can claim any more, and forgets it.
    fn send(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let claimed = self.threads.iter().map(|(_, began)| *began).min();
        let claimed = if last { self.end_of_text() } else { claimed.unwrap_or(self.at) };
        // A thread from before the window may die unharmed, but must not match.
        let until = claimed.max(self.at.saturating_sub(WINDOW as u64)).max(self.sent);
        out.extend_from_slice(&self.text[self.index(self.sent)..self.index(until)]);
        self.sent = until;
        let forget = self.index(until.min(self.at)).saturating_sub(LOOK);
        self.text.drain(..forget);
        self.base += forget as u64;
        Ok(())
    }
}

/// The one pattern there is.
fn meta_pattern() -> regex_automata::PatternID {
    regex_automata::PatternID::ZERO
}

/// The bytes that the states behind the start take, as if all assertions held.
fn begins(nfa: &NFA) -> Box<[bool; 256]> {
    let mut begins = Box::new([false; 256]);
    let mut seen = vec![false; nfa.states().len()];
    let mut stack = vec![nfa.start_anchored()];
    while let Some(id) = stack.pop() {
        if std::mem::replace(&mut seen[id.as_usize()], true) {
            continue;
        }
        match nfa.state(id) {
            State::Look { next, .. } | State::Capture { next, .. } => stack.push(*next),
            State::Union { alternates } => stack.extend(alternates.iter()),
            State::BinaryUnion { alt1, alt2 } => stack.extend([alt1, alt2]),
            State::Fail | State::Match { .. } => {}
            state => {
                for byte in 0..=u8::MAX {
                    let takes = match state {
                        State::ByteRange { trans } => trans.matches_byte(byte),
                        State::Sparse(sparse) => sparse.matches_byte(byte).is_some(),
                        State::Dense(dense) => dense.matches_byte(byte).is_some(),
                        _ => false,
                    };
                    begins[usize::from(byte)] |= takes;
                }
            }
        }
    }
    begins
}

impl Stage for ReplaceRegex {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.text.extend_from_slice(piece);
        self.run(false, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.run(true, out)
    }
}
