//! The thread's view of the fiber that runs on it: a few cells, swapped at each switch.
//!
//! A fiber may be resumed on another thread, so no address of a thread-local may live across a
//! suspension: every access is in a function that is never inlined and never suspends.

use std::cell::Cell;

use tokio::time::Instant;

use super::gauge::Gauge;
use super::usage::{Mark, Usage};
use crate::script::meter::Held;

#[derive(Clone, Copy)]
pub struct Registers {
    /// The running fiber's gauge; null outside of fibers.
    pub gauge: *const Gauge,
    /// Operations until the next look at the clock.
    pub fuel: i32,
    /// The lowest address that the script's frames may reach.
    pub stack_limit: usize,
    /// Bytes that the fiber holds.
    pub memory: isize,
    /// The most that it held; above it the allocator takes its slow path.
    pub peak: isize,
    pub memory_limit: isize,
    /// Blocks of the size of shared values that the fiber holds.
    pub cells: isize,
}

impl Registers {
    const OUTSIDE: Self = Self {
        gauge: std::ptr::null(),
        fuel: i32::MAX,
        stack_limit: 0,
        memory: 0,
        peak: isize::MAX,
        memory_limit: isize::MAX,
        cells: 0,
    };
}

thread_local! {
    // Const and without a destructor: no lazy start and no allocation, so the allocator may use it.
    static REGISTERS: Cells = const { Cells::new(Registers::OUTSIDE) };
}

struct Cells {
    gauge: Cell<*const Gauge>,
    fuel: Cell<i32>,
    stack_limit: Cell<usize>,
    memory: Cell<isize>,
    peak: Cell<isize>,
    memory_limit: Cell<isize>,
    cells: Cell<isize>,
    /// The thread's own use at some moment not long before the fiber began to run.
    mark: Cell<Option<Mark>>,
}

impl Cells {
    const fn new(r: Registers) -> Self {
        Self {
            gauge: Cell::new(r.gauge),
            fuel: Cell::new(r.fuel),
            stack_limit: Cell::new(r.stack_limit),
            memory: Cell::new(r.memory),
            peak: Cell::new(r.peak),
            memory_limit: Cell::new(r.memory_limit),
            cells: Cell::new(r.cells),
            mark: Cell::new(None),
        }
    }
}

/// A fiber begins to run: from here on [`used`] counts, or from a moment shortly before.
#[inline(never)]
pub fn begin_use(now: Instant) {
    REGISTERS.with(|cells| {
        if cells.mark.get().is_none_or(|mark| mark.is_old(now)) {
            cells.mark.set(Usage::now().map(|usage| Mark::new(now, usage)));
        }
    });
}

/// What the thread itself used since then; None where the system does not tell.
#[inline(never)]
pub fn used() -> Option<Usage> {
    REGISTERS.with(|cells| Some(Usage::now()?.since(cells.mark.get()?.usage())))
}

#[inline(never)]
pub fn swap(new: Registers) -> Registers {
    REGISTERS.with(|cells| Registers {
        gauge: cells.gauge.replace(new.gauge),
        fuel: cells.fuel.replace(new.fuel),
        stack_limit: cells.stack_limit.replace(new.stack_limit),
        memory: cells.memory.replace(new.memory),
        peak: cells.peak.replace(new.peak),
        memory_limit: cells.memory_limit.replace(new.memory_limit),
        cells: cells.cells.replace(new.cells),
    })
}

#[inline(never)]
pub fn gauge() -> *const Gauge {
    REGISTERS.with(|cells| cells.gauge.get())
}

#[inline(never)]
pub fn memory() -> isize {
    REGISTERS.with(|cells| cells.memory.get())
}

/// Bytes that the running fiber may still take; no bound outside of fibers.
#[inline(never)]
pub fn room() -> usize {
    REGISTERS.with(|cells| {
        let left = cells.memory_limit.get().saturating_sub(cells.memory.get());
        usize::try_from(left).unwrap_or(0)
    })
}

#[inline(never)]
pub fn fuel() -> i32 {
    REGISTERS.with(|cells| cells.fuel.get())
}

#[inline(never)]
pub fn set_fuel(fuel: i32) {
    REGISTERS.with(|cells| cells.fuel.set(fuel));
}

/// Counts operations. True when the fiber must look at its limits.
#[inline(never)]
pub fn burn(operations: i32, stack_pointer: usize) -> bool {
    REGISTERS.with(|cells| {
        let fuel = cells.fuel.get().saturating_sub(operations);
        cells.fuel.set(fuel);
        fuel < 0 || stack_pointer < cells.stack_limit.get()
    })
}

/// Counts bytes taken (or given back, when negative) by the running fiber.
#[inline]
pub fn count_bytes(bytes: isize) {
    REGISTERS.with(|cells| {
        let memory = cells.memory.get().wrapping_add(bytes);
        cells.memory.set(memory);
        if memory > cells.peak.get() {
            new_peak(cells, memory);
        }
    });
}

/// Counts blocks of the size of shared values in the same way.
#[inline]
pub fn count_cells(count: isize) {
    REGISTERS.with(|cells| cells.cells.set(cells.cells.get().wrapping_add(count)));
}

/// What this thread counts as held, on a fiber or outside of one.
#[inline(never)]
pub fn held() -> Held {
    REGISTERS.with(|cells| Held { bytes: cells.memory.get(), cells: cells.cells.get() })
}

#[cold]
fn new_peak(cells: &Cells, memory: isize) {
    cells.peak.set(memory);
    if memory > cells.memory_limit.get() {
        cells.fuel.set(0);
    }
}
