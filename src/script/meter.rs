//! What one run may use, and what it did use.

use std::fmt;
use std::time::Duration;

use crate::config::filters::FilterLimits;

/// The bounds of one run of a hook.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub operations: u64,
    /// Time on a worker thread, waiting not included.
    pub cpu: Duration,
    /// Time on a worker thread of all callbacks on one body together; each piece has `cpu`.
    pub body_cpu: Duration,
    /// Time in all.
    pub wall: Duration,
    /// Bytes allocated and not yet freed.
    pub memory: usize,
    /// Live fibers in the whole process; one more is refused as busy.
    pub fibers: usize,
}

/// So many scripts that wait in `fetch` hold about 280 MiB (17 KiB each, 12 of them stack, measured).
pub const LIVE_FIBERS: usize = 16_384;

impl std::convert::From<&FilterLimits> for Limits {
    fn from(limits: &FilterLimits) -> Self {
        Self {
            operations: limits.operations,
            cpu: limits.cpu,
            body_cpu: limits.body_cpu,
            wall: limits.wall,
            memory: limits.memory,
            fibers: LIVE_FIBERS,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    Operations,
    /// Microseconds.
    Cpu,
    /// Milliseconds.
    Wall,
    /// Bytes.
    Memory,
    /// Bytes of the stack.
    Stack,
    /// Calls inside of calls.
    Calls,
    /// Bytes of one string.
    String,
    /// Items of one array, or bytes of one blob.
    Array,
    /// Names of one map.
    Map,
}

impl LimitKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Calls => "calls",
            Self::String => "string",
            Self::Array => "array",
            Self::Map => "map",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Operations => "",
            Self::Cpu => "us",
            Self::Wall => "ms",
            Self::Memory | Self::Stack | Self::String => " bytes",
            Self::Calls => " deep",
            Self::Array | Self::Map => " items",
        }
    }

    /// Whether the engine only tells that there was more than allowed.
    fn is_uncounted(self) -> bool {
        matches!(self, Self::Calls | Self::String | Self::Array | Self::Map)
    }
}

/// The bound that a run met, in the unit of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitHit {
    pub kind: LimitKind,
    /// One more than allowed, where that is all that is known.
    pub used: u64,
    pub allowed: u64,
}

impl LimitHit {
    /// For what the engine bounds by itself.
    pub(super) fn above(kind: LimitKind, allowed: usize) -> Self {
        let allowed = allowed as u64;
        Self { kind, used: allowed.saturating_add(1), allowed }
    }
}

impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = (self.kind.name(), self.kind.unit());
        if self.kind.is_uncounted() {
            return write!(f, "the {name} limit: more than {}{unit}", self.allowed);
        }
        write!(f, "the {name} limit: {}{unit} used, {}{unit} allowed", self.used, self.allowed)
    }
}

/// What a run used.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunFigures {
    pub operations: u64,
    pub cpu: Duration,
    /// From the start to the end, waiting included.
    pub wall: Duration,
    /// The most bytes held at one time.
    pub peak_memory: usize,
    /// At the end, with what the run gave out and less what it was given.
    pub held: Held,
    /// How often it waited for a future.
    pub waits: u32,
}

/// What is allocated and not freed; less than nothing where others' was freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    pub bytes: isize,
    /// Blocks of the size in which Rhai keeps values that closures share.
    pub cells: isize,
}
