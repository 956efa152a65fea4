//! Purge rules: what is older than a rule and bears its mark is gone, wherever it lies.
//!
//! Nothing is searched for at a purge, so it takes microseconds with a million objects. A sweep
//! removes what the rules killed and then drops the rules (`sweep.rs`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

use super::head::Head;
use super::labels::Mark;
use super::wire::{Reader, Writer};

/// Rules by mark: 48 bytes each.
pub const MAX_RULES: usize = 1 << 20;
/// Prefix rules: each is compared with an object at its first hit after a purge.
pub const MAX_PREFIXES: usize = 1024;
/// Bytes of what a rule names.
pub const MAX_SCOPE_BYTES: usize = 8192;

/// What to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All variants of one key, by its primary hash.
    Key([u8; 16]),
    /// All keys that were made from one URL; see `Labels::url`.
    Url(String),
    Tag(String),
    /// What a label's URL begins with.
    Prefix(String),
    Host(String),
    All,
}

/// An order to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub scope: Scope,
    /// Stale instead of gone: it is revalidated, and may be served meanwhile.
    pub soft: bool,
}

/// Why a rule is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("there are {MAX_RULES} purge rules still at work; try again in a minute or purge all")]
    Full,
    #[error("there are {MAX_PREFIXES} prefix rules still at work; purge by tag or host, or all")]
    PrefixesFull,
    #[error("what is to be purged has no name")]
    Empty,
    #[error("what is to be purged has a name of more than {MAX_SCOPE_BYTES} bytes")]
    Long,
}

/// A rule with its place in the store's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dated {
    pub rule: Rule,
    pub seq: u64,
    /// When it was given, for the windows in which stale answers may be served.
    pub at: SystemTime,
}

/// What the rules say of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Stale since then.
    Stale(SystemTime),
    Gone,
}

/// The latest hard and soft rule for one mark; zero is none.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    hard: u64,
    soft: u64,
    /// Microseconds since 1970.
    soft_at: u64,
}

impl Cut {
    fn add(&mut self, dated: &Dated) {
        if !dated.rule.soft {
            self.hard = self.hard.max(dated.seq);
        } else if dated.seq > self.soft {
            self.soft = dated.seq;
            self.soft_at = micros(dated.at);
        }
    }

    fn join(&mut self, other: &Cut) {
        self.hard = self.hard.max(other.hard);
        if other.soft > self.soft {
            (self.soft, self.soft_at) = (other.soft, other.soft_at);
        }
    }

    fn verdict(&self, seq: u64) -> Verdict {
        if self.hard > seq {
            Verdict::Gone
        } else if self.soft > seq {
            Verdict::Stale(UNIX_EPOCH + Duration::from_micros(self.soft_at))
        } else {
            Verdict::Keep
        }
    }

    fn latest(&self) -> u64 {
        self.hard.max(self.soft)
    }
}

#[derive(Default)]
struct Table {
    marks: HashMap<Mark, Cut>,
    prefixes: HashMap<Box<str>, Cut>,
    all: Cut,
}

#[derive(Default)]
pub struct Rules {
    table: RwLock<Table>,
    /// The highest seq of any rule. Newer objects need no look at the table.
    latest: AtomicU64,
    /// Rises with each rule, so that an object is judged once for each.
    version: AtomicU64,
    /// Rules up to here may have been dropped.
    forgotten: AtomicU64,
}

impl Rules {
    /// Whether `rule` can be taken, before it is written to the journal.
    pub fn check(&self, rule: &Rule) -> Result<(), RuleError> {
        let name = rule.scope.name();
        if name.is_some_and(str::is_empty) {
            return Err(RuleError::Empty);
        }
        if name.is_some_and(|name| name.len() > MAX_SCOPE_BYTES) {
            return Err(RuleError::Long);
        }
        let table = self.table.read();
        match (&rule.scope, rule.scope.mark()) {
            (Scope::Prefix(prefix), _)
                if table.prefixes.len() >= MAX_PREFIXES
                    && !table.prefixes.contains_key(prefix.as_str()) =>
            {
                Err(RuleError::PrefixesFull)
            }
            (_, Some(mark))
                if table.marks.len() >= MAX_RULES && !table.marks.contains_key(&mark) =>
            {
                Err(RuleError::Full)
            }
            _ => Ok(()),
        }
    }

    /// From here on the rule is obeyed.
    pub fn add(&self, dated: &Dated) {
        let mut table = self.table.write();
        match (&dated.rule.scope, dated.rule.scope.mark()) {
            (Scope::Prefix(prefix), _) => {
                table.prefixes.entry(prefix.as_str().into()).or_default().add(dated);
            }
            (_, Some(mark)) => table.marks.entry(mark).or_default().add(dated),
            (_, None) => table.all.add(dated),
        }
        self.latest.fetch_max(dated.seq, Ordering::AcqRel);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes whenever a verdict could.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn verdict(&self, head: &Head) -> Verdict {
        if self.latest.load(Ordering::Acquire) <= head.seq {
            return Verdict::Keep;
        }
        let table = self.table.read();
        let mut cut = table.all;
        for found in head.marks.iter().filter_map(|mark| table.marks.get(mark)) {
            cut.join(found);
        }
        if !table.prefixes.is_empty() {
            let url = head.url();
            for (prefix, found) in &table.prefixes {
                if url.starts_with(prefix.as_ref()) {
                    cut.join(found);
                }
            }
        }
        cut.verdict(head.seq)
    }

    pub fn len(&self) -> usize {
        let table = self.table.read();
        table.marks.len() + table.prefixes.len() + usize::from(table.all.latest() > 0)
    }

    /// Says that rules up to `seq` may be dropped from now on.
    pub fn forget(&self, seq: u64) {
        self.forgotten.fetch_max(seq, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Whether rules may be lost that concern what began at `seq`. To be asked once it is where a
    /// sweep looks for it.
    pub fn forgot(&self, seq: u64) -> bool {
        fence(Ordering::SeqCst);
        seq <= self.forgotten.load(Ordering::SeqCst)
    }

    /// Drops the rules up to `seq`.
    pub fn drop_until(&self, seq: u64) {
        let mut table = self.table.write();
        table.marks.retain(|_, cut| cut.latest() > seq);
        table.prefixes.retain(|_, cut| cut.latest() > seq);
        if table.all.latest() <= seq {
            table.all = Cut::default();
        }
    }
}

impl Scope {
    fn mark(&self) -> Option<Mark> {
        match self {
            Scope::Key(primary) => Some(Mark::key(primary)),
            Scope::Url(url) => Some(Mark::url(url)),
            Scope::Tag(tag) => Some(Mark::tag(tag)),
            Scope::Host(host) => Some(Mark::host(host)),
            Scope::Prefix(_) | Scope::All => None,
        }
    }

    /// The mark whose holders are counted; see `census.rs`.
    pub fn counted(&self) -> Option<Mark> {
        self.mark().filter(|_| !matches!(self, Scope::Key(_)))
    }

    fn name(&self) -> Option<&str> {
        match self {
            Scope::Url(name) | Scope::Tag(name) | Scope::Prefix(name) | Scope::Host(name) => {
                Some(name)
            }
            Scope::Key(_) | Scope::All => None,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Scope::Key(_) => 0,
            Scope::Url(_) => 1,
            Scope::Tag(_) => 2,
            Scope::Prefix(_) => 3,
            Scope::Host(_) => 4,
            Scope::All => 5,
        }
    }
}

impl Dated {
    /// As the journal keeps it.
    pub fn write(&self, out: &mut Writer) -> Option<()> {
        out.u64(self.seq);
        out.u64(micros(self.at));
        out.u8(u8::from(self.rule.soft));
        out.u8(self.rule.scope.kind());
        match &self.rule.scope {
            Scope::Key(primary) => out.bytes(primary),
            scope => out.bytes(scope.name().unwrap_or_default().as_bytes()),
        }
    }

    pub fn read(from: &mut Reader<'_>) -> Option<Dated> {
        let (seq, at) = (from.u64()?, UNIX_EPOCH + Duration::from_micros(from.u64()?));
        let soft = from.u8()? != 0;
        let kind = from.u8()?;
        let name = from.bytes()?;
        let text = || Some(std::str::from_utf8(name).ok()?.to_owned());
        let scope = match kind {
            0 => Scope::Key(name.try_into().ok()?),
            1 => Scope::Url(text()?),
            2 => Scope::Tag(text()?),
            3 => Scope::Prefix(text()?),
            4 => Scope::Host(text()?),
            5 => Scope::All,
            _ => return None,
        };
        Some(Dated { rule: Rule { scope, soft }, seq, at })
    }
}

fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(since).unwrap_or(u64::MAX)
}
