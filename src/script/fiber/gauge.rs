//! The meter of one fiber: looked at from inside, by the script engine's progress callback.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use corosensei::Yielder;
// Under `selvedge test` this clock moves only while scripts wait: no limit depends on the machine.
use tokio::time::Instant;

use super::{Resume, Suspend, registers, stack};
use crate::script::meter::{Held, LimitHit, LimitKind, Limits, RunFigures};

/// Operations between two looks at the clock.
const CHECK_EVERY: i32 = 128;
/// Bytes that a native works through in the time of about one operation.
const BYTES_PER_OPERATION: usize = 64;
/// How long scripts run before they let their neighbours run: all that compute share it, since
/// who waits for one of them waits for the others in its queue as well.
const SLICE: Duration = Duration::from_micros(500);
/// A slice that took longer did not only compute as meant, so it is looked at more closely.
const UNSURE: Duration = Duration::from_millis(2);
/// A slice is at least this part of [`SLICE`]: below it, switching would cost more than a percent.
const MOST_PARTS: u32 = 10;

/// Fibers that used up a slice and have not waited since.
static COMPUTING: AtomicU32 = AtomicU32::new(0);

/// One that counts as computing, for as long as it lives.
pub struct Computing(());

impl Computing {
    pub fn begin() -> Self {
        COMPUTING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        COMPUTING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn slice() -> Duration {
    SLICE / COMPUTING.load(Ordering::Relaxed).clamp(1, MOST_PARTS)
}

/// Why a script has to end. Once set, every further operation and host call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Limit(LimitHit),
    /// Nobody waits for the result any more.
    Dropped,
}

/// State of one fiber; boxed, and touched only by the thread that polls it.
pub struct Gauge {
    pub yielder: Cell<*const Yielder<Resume, Suspend>>,
    limits: Cell<Limits>,
    started: Cell<Instant>,
    waits_forbidden: Cell<bool>,
    operations: Cell<u64>,
    cpu: Cell<Duration>,
    slice_start: Cell<Instant>,
    left: Cell<Instant>,
    stop: Cell<Option<Stop>>,
    memory: Cell<isize>,
    peak: Cell<isize>,
    cells: Cell<isize>,
    waits: Cell<u32>,
    stack_top: usize,
    stack_limit: usize,
    deep: Cell<bool>,
}

impl Gauge {
    pub fn new(limits: Limits, stack: &stack::FiberStack) -> Self {
        let now = Instant::now();
        Self {
            yielder: Cell::new(std::ptr::null()),
            limits: Cell::new(limits),
            started: Cell::new(now),
            waits_forbidden: Cell::new(false),
            operations: Cell::new(0),
            cpu: Cell::new(Duration::ZERO),
            slice_start: Cell::new(now),
            left: Cell::new(now),
            stop: Cell::new(None),
            memory: Cell::new(0),
            peak: Cell::new(0),
            cells: Cell::new(0),
            waits: Cell::new(0),
            stack_top: stack.top(),
            stack_limit: stack.script_limit(),
            deep: Cell::new(false),
        }
    }

    /// Puts this fiber's figures into the thread; gives what was there.
    pub fn enter(&self) -> registers::Registers {
        let now = Instant::now();
        self.slice_start.set(now);
        registers::begin_use(now);
        registers::swap(registers::Registers {
            gauge: self,
            fuel: CHECK_EVERY,
            stack_limit: self.stack_limit,
            memory: self.memory.get(),
            peak: self.peak.get(),
            memory_limit: isize::try_from(self.limits.get().memory).unwrap_or(isize::MAX),
            cells: self.cells.get(),
        })
    }

    /// The reverse of [`Gauge::enter`].
    pub fn leave(&self, outer: registers::Registers) {
        let inner = registers::swap(outer);
        self.memory.set(inner.memory);
        self.peak.set(inner.peak);
        self.cells.set(inner.cells);
        self.count_operations(inner.fuel);
        let now = Instant::now();
        self.cpu.set(self.cpu.get() + self.computed(now));
        self.left.set(now);
    }

    /// What this slice counts so far. Time passes also while a busy machine runs something else
    /// on this processor, which is not the script's fault.
    fn computed(&self, now: Instant) -> Duration {
        let passed = now - self.slice_start.get();
        if passed < UNSURE {
            return passed;
        }
        registers::used().map_or(passed, |used| passed.min(used.held_up()))
    }

    fn count_operations(&self, fuel_left: i32) {
        let used = u64::try_from(CHECK_EVERY.saturating_sub(fuel_left)).unwrap_or(0);
        self.operations.set(self.operations.get() + used);
    }

    pub fn figures(&self) -> RunFigures {
        RunFigures {
            operations: self.operations.get(),
            cpu: self.cpu.get(),
            wall: self.left.get() - self.started.get(),
            peak_memory: usize::try_from(self.peak.get()).unwrap_or(0),
            held: Held { bytes: self.memory.get(), cells: self.cells.get() },
            waits: self.waits.get(),
        }
    }

    /// Counts from here on within these limits, as for another run. Memory is what it is.
    pub fn renew(&self, limits: Limits) {
        self.limits.set(limits);
        self.started.set(Instant::now());
        self.left.set(self.started.get());
        self.operations.set(0);
        self.cpu.set(Duration::ZERO);
        self.peak.set(self.memory.get());
        self.stop.set(None);
    }

    /// The fiber is about to wait for a future.
    pub fn count_wait(&self) {
        self.waits.set(self.waits.get().saturating_add(1));
    }

    pub fn forbid_waits(&self, forbidden: bool) {
        self.waits_forbidden.set(forbidden);
    }

    pub fn may_not_wait(&self) -> bool {
        self.waits_forbidden.get()
    }

    pub fn stopped(&self) -> Option<Stop> {
        self.stop.get()
    }

    pub fn stop(&self, stop: Stop) {
        self.stop.set(Some(stop));
    }

    /// Gives back what the running fiber does not use of its stack any more.
    pub fn trim_stack(&self) {
        stack::trim_unused(self.stack_top);
    }

    pub fn is_deep(&self) -> bool {
        self.deep.get()
    }

    /// How long until the wall limit.
    pub fn wall_left(&self) -> Duration {
        self.limits.get().wall.saturating_sub(self.started.get().elapsed())
    }

    pub fn wall_hit(&self) -> LimitHit {
        let ms =
            |time: Duration| u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        LimitHit {
            kind: LimitKind::Wall,
            used: ms(self.started.get().elapsed()),
            allowed: ms(self.limits.get().wall),
        }
    }

    /// Looks at all limits; false when one is met. A script that waits often burns too little
    /// between two waits to come here by itself, so each wait does.
    pub fn check(&self, stack_pointer: usize) -> bool {
        self.check_at(Instant::now(), stack_pointer)
    }

    fn check_at(&self, now: Instant, stack_pointer: usize) -> bool {
        if self.stop.get().is_none() {
            self.count_operations(registers::fuel());
            self.stop.set(self.limit_hit(now, stack_pointer).map(Stop::Limit));
        }
        // Full, so that what is counted at a switch is what was burnt since.
        registers::set_fuel(CHECK_EVERY);
        self.stop.get().is_none()
    }

    /// The slow path of the progress callback: limits, then the slice. True: go on.
    fn look(&self, stack_pointer: usize) -> bool {
        if stack::is_deep(self.stack_top, stack_pointer) {
            self.deep.set(true);
        }
        let now = Instant::now();
        if self.check_at(now, stack_pointer) && now - self.slice_start.get() >= slice() {
            super::suspend(self, Suspend::Slice);
        }
        let go_on = self.stop.get().is_none();
        if !go_on {
            registers::set_fuel(0);
        }
        go_on
    }

    fn limit_hit(&self, now: Instant, stack_pointer: usize) -> Option<LimitHit> {
        let limits = self.limits.get();
        let micros =
            |time: Duration| u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let cpu = self.cpu.get() + self.computed(now);
        let memory = usize::try_from(registers::memory()).unwrap_or(0);
        let hit = |kind, used, allowed| Some(LimitHit { kind, used, allowed });
        if stack_pointer < self.stack_limit {
            let used = (self.stack_top - stack_pointer) as u64;
            return hit(LimitKind::Stack, used, (self.stack_top - self.stack_limit) as u64);
        }
        if memory > limits.memory {
            return hit(LimitKind::Memory, memory as u64, limits.memory as u64);
        }
        if self.operations.get() > limits.operations {
            return hit(LimitKind::Operations, self.operations.get(), limits.operations);
        }
        if cpu > limits.cpu {
            return hit(LimitKind::Cpu, micros(cpu), micros(limits.cpu));
        }
        (now - self.started.get() >= limits.wall).then(|| self.wall_hit())
    }
}

/// For `Engine::on_progress`: counts one operation; false when the script must end.
#[inline]
pub fn progress() -> bool {
    burn(1)
}

/// For lowered code: as [`progress`], for several operations at once.
#[inline]
pub fn burn(operations: u32) -> bool {
    let marker = 0u8;
    let stack_pointer = std::ptr::addr_of!(marker) as usize;
    let operations = i32::try_from(operations).unwrap_or(i32::MAX);
    !registers::burn(operations, stack_pointer) || look(stack_pointer)
}

/// For natives: counts their work on so many bytes, which the engine does not see.
pub fn charge(bytes: usize) {
    let operations = i32::try_from(bytes / BYTES_PER_OPERATION).unwrap_or(i32::MAX);
    if operations > 0 {
        registers::set_fuel(registers::fuel().saturating_sub(operations));
    }
}

/// The reverse of [`charge`], for what is counted and is not the script's own work.
pub fn refund(operations: i32) {
    registers::set_fuel(registers::fuel().saturating_add(operations));
}

#[inline(never)]
fn look(stack_pointer: usize) -> bool {
    let gauge = registers::gauge();
    if gauge.is_null() {
        registers::set_fuel(i32::MAX);
        return true;
    }
    // SAFETY: the pointer is set only while `Fiber::resume` runs this fiber on this thread, and
    // the fiber owns the box that it points to.
    unsafe { &*gauge }.look(stack_pointer)
}
