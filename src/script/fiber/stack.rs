//! Stacks of fibers: mapped lazily, guarded below, pooled.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use corosensei::stack::{Stack, StackPointer};
use parking_lot::Mutex;

const PAGE: usize = 4096;
/// Virtual only: a run touches a few pages. Most of it is for natives that recurse over deeply
/// nested values (drop, clone, compare), which nothing else can stop.
const STACK: usize = 64 << 20;
/// What the script's own frames may use of it.
const FOR_SCRIPT: usize = 8 << 20;
/// Pages below this depth go back to the kernel when a deep stack is pooled.
const KEEP_RESIDENT: usize = 64 << 10;
/// Pooled stacks; more are unmapped when they come back.
const POOLED: usize = 1024;
/// A pooled stack is trimmed each so many uses, in case a native went deep unseen.
const TRIM_EVERY: u32 = 256;

pub struct FiberStack {
    mapping: usize,
    uses: u32,
}

impl FiberStack {
    fn map() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing
        // that exists.
        let mapping = unsafe {
            libc::mmap(std::ptr::null_mut(), PAGE + STACK, libc::PROT_NONE, flags, -1, 0)
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { mapping: mapping as usize, uses: 0 };
        // SAFETY: the range lies inside the mapping that we just made and alone own.
        let done = unsafe {
            libc::mprotect(stack.bottom() as *mut _, STACK, libc::PROT_READ | libc::PROT_WRITE)
        };
        if done == 0 { Ok(stack) } else { Err(io::Error::last_os_error()) }
    }

    /// The lowest usable address; the guard page lies below it.
    fn bottom(&self) -> usize {
        self.mapping + PAGE
    }

    pub fn top(&self) -> usize {
        self.mapping + PAGE + STACK
    }

    /// The lowest address for the script's own frames.
    pub fn script_limit(&self) -> usize {
        self.top() - FOR_SCRIPT
    }

    fn trim(&self) {
        // SAFETY: the range lies inside our mapping, and no frame lives on a stack in the pool.
        unsafe {
            libc::madvise(self.bottom() as *mut _, STACK - KEEP_RESIDENT, libc::MADV_DONTNEED);
        }
    }
}

impl Drop for FiberStack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and no frame lives on it any more: a stack
        // is dropped only by the pool, or after its coroutine is done.
        unsafe { libc::munmap(self.mapping as *mut _, PAGE + STACK) };
    }
}

// SAFETY: `base` and `limit` are the page-aligned ends of a mapping that lives as long as `self`
// and has its guard page at the low end.
unsafe impl Stack for FiberStack {
    fn base(&self) -> StackPointer {
        // Never zero: the kernel maps nothing at address zero.
        StackPointer::new(self.top()).unwrap_or(StackPointer::MAX)
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.mapping).unwrap_or(StackPointer::MIN)
    }
}

/// Why a fiber could not start.
#[derive(Debug, thiserror::Error)]
pub enum NoStack {
    #[error("{live} scripts are running, as many as may")]
    Busy { live: usize },
    #[error("no memory for a script's stack: {0}")]
    Map(#[from] io::Error),
}

static POOL: Pool = Pool { free: Mutex::new(Vec::new()), live: AtomicUsize::new(0) };

struct Pool {
    free: Mutex<Vec<FiberStack>>,
    live: AtomicUsize,
}

pub fn take(most: usize) -> Result<FiberStack, NoStack> {
    let live = POOL.live.fetch_add(1, Ordering::Relaxed);
    if live >= most {
        forget();
        return Err(NoStack::Busy { live });
    }
    let pooled = POOL.free.lock().pop();
    match pooled {
        Some(stack) => Ok(stack),
        None => FiberStack::map().map_err(|error| {
            forget();
            NoStack::Map(error)
        }),
    }
}

pub fn give_back(mut stack: FiberStack, deep: bool) {
    forget();
    stack.uses += 1;
    if deep || stack.uses.is_multiple_of(TRIM_EVERY) {
        stack.trim();
    }
    let mut free = POOL.free.lock();
    if free.len() < POOLED {
        free.push(stack);
    }
}

/// A stack that does not come back: its fiber is counted as ended.
pub fn forget() {
    POOL.live.fetch_sub(1, Ordering::Relaxed);
}

/// From so many live fibers on, those that wait give back what they no longer use of their stack.
const MANY: usize = 512;
/// What [`trim_unused`] itself may use below its marker, ten times over.
const OWN_FRAME: usize = 1024;

/// Called by a fiber that is about to wait: gives the pages below the caller's frame, which some
/// native touched before, back to the kernel. Among few fibers it is not worth the system call.
#[inline(never)]
pub fn trim_unused(top: usize) {
    if POOL.live.load(Ordering::Relaxed) < MANY {
        return;
    }
    let marker = 0u8;
    let used_to = (std::ptr::addr_of!(marker) as usize - OWN_FRAME) & !(PAGE - 1);
    let from = top - KEEP_RESIDENT;
    if from < used_to {
        // SAFETY: the range lies inside the running fiber's stack, whose top this is, and below
        // every live frame: those of the callers are above the marker, and this function's own
        // and `madvise`'s are within `OWN_FRAME` of it. What lies lower is dead.
        unsafe { libc::madvise(from as *mut _, used_to - from, libc::MADV_DONTNEED) };
    }
}

/// Whether this address is so deep that the stack is worth trimming.
pub fn is_deep(top: usize, stack_pointer: usize) -> bool {
    top.saturating_sub(stack_pointer) > 4 * KEEP_RESIDENT
}
