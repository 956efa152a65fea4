//! Purge rules: what is older than a rule and bears its mark is gone, wherever it lies.
//!
//! Nothing is searched for at a purge, so it takes microseconds with a million objects. A sweep
//! removes what the rules killed and then drops the rules (`sweep.rs`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

use super::clock::Clock;
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

/// What a rule is looked up by. The journal needs no names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Mark(Mark),
    Prefix(Box<str>),
    All,
}

/// A rule with its place in the store's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dated {
    pub target: Target,
    pub soft: bool,
    pub seq: u64,
    /// Microseconds since 1970: when it was given, for the windows in which stale answers may be
    /// served.
    pub at: u64,
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
        if !dated.soft {
            self.hard = self.hard.max(dated.seq);
        } else if dated.seq > self.soft {
            self.soft = dated.seq;
            self.soft_at = dated.at;
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

    fn dated(&self, target: &Target) -> Vec<Dated> {
        let one = |seq, soft, at| Dated { target: target.clone(), soft, seq, at };
        let both = [one(self.hard, false, 0), one(self.soft, true, self.soft_at)];
        both.into_iter().filter(|dated| dated.seq > 0).collect()
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
        match rule.scope.target() {
            Target::Prefix(prefix) if !table.prefixes.contains_key(&prefix) => {
                let full = table.prefixes.len() >= MAX_PREFIXES;
                if full { Err(RuleError::PrefixesFull) } else { Ok(()) }
            }
            Target::Mark(mark) if !table.marks.contains_key(&mark) => {
                let full = table.marks.len() >= MAX_RULES;
                if full { Err(RuleError::Full) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// From here on the rule is obeyed.
    ///
    /// It is dated while nobody can be judged: what was found alive before, and is renewed later,
    /// began before the rule and falls under it.
    pub fn enact(&self, rule: &Rule, clock: &Clock) -> Dated {
        let mut table = self.table.write();
        let dated = Dated::new(rule, clock.next(), SystemTime::now());
        self.insert(&mut table, &dated);
        dated
    }

    /// Takes up a rule of an earlier process.
    pub fn resume(&self, dated: &Dated) {
        self.insert(&mut self.table.write(), dated);
    }

    fn insert(&self, table: &mut Table, dated: &Dated) {
        match &dated.target {
            Target::Prefix(prefix) => table.prefixes.entry(prefix.clone()).or_default().add(dated),
            Target::Mark(mark) => table.marks.entry(*mark).or_default().add(dated),
            Target::All => table.all.add(dated),
        }
        self.latest.fetch_max(dated.seq, Ordering::AcqRel);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// All rules at work, for a new journal.
    pub fn all(&self) -> Vec<Dated> {
        let table = self.table.read();
        let mut all = table.all.dated(&Target::All);
        for (mark, cut) in &table.marks {
            all.extend(cut.dated(&Target::Mark(*mark)));
        }
        for (prefix, cut) in &table.prefixes {
            all.extend(cut.dated(&Target::Prefix(prefix.clone())));
        }
        all
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
    fn target(&self) -> Target {
        match self {
            Scope::Key(primary) => Target::Mark(Mark::key(primary)),
            Scope::Url(url) => Target::Mark(Mark::url(url)),
            Scope::Tag(tag) => Target::Mark(Mark::tag(tag)),
            Scope::Host(host) => Target::Mark(Mark::host(host)),
            Scope::Prefix(prefix) => Target::Prefix(prefix.as_str().into()),
            Scope::All => Target::All,
        }
    }

    /// The mark whose holders are counted; see `census.rs`.
    pub fn counted(&self) -> Option<Mark> {
        match (self, self.target()) {
            (Scope::Key(_), _) => None,
            (_, Target::Mark(mark)) => Some(mark),
            _ => None,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Scope::Url(name) | Scope::Tag(name) | Scope::Prefix(name) | Scope::Host(name) => {
                Some(name)
            }
            Scope::Key(_) | Scope::All => None,
        }
    }
}

impl Dated {
    pub fn new(rule: &Rule, seq: u64, at: SystemTime) -> Dated {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        Dated { target: rule.scope.target(), soft: rule.soft, seq, at }
    }

    /// As the journal keeps it. `None` is a prefix of more than 4 GiB.
    pub fn write(&self, out: &mut Writer) -> Option<()> {
        out.u64(self.seq);
        out.u64(self.at);
        out.u8(u8::from(self.soft));
        match &self.target {
            Target::All => out.u8(0),
            Target::Mark(mark) => {
                out.u8(1);
                out.u64(mark.0);
            }
            Target::Prefix(prefix) => {
                out.u8(2);
                out.bytes(prefix.as_bytes())?;
            }
        }
        Some(())
    }

    pub fn read(from: &mut Reader<'_>) -> Option<Dated> {
        let (seq, at, soft) = (from.u64()?, from.u64()?, from.u8()? != 0);
        let target = match from.u8()? {
            0 => Target::All,
            1 => Target::Mark(Mark(from.u64()?)),
            2 => Target::Prefix(std::str::from_utf8(from.bytes()?).ok()?.into()),
            _ => return None,
        };
        Some(Dated { target, soft, seq, at })
    }
}
