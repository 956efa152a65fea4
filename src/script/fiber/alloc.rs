//! The process's allocator: mimalloc, with a count of what the running fiber holds.

use std::alloc::{GlobalAlloc, Layout};

use mimalloc::MiMalloc;

use super::registers::count_bytes;

/// To be declared as the `#[global_allocator]`; without it, scripts have no memory limit.
pub struct CountingAlloc {
    inner: MiMalloc,
}

impl CountingAlloc {
    pub const fn new() -> Self {
        Self { inner: MiMalloc }
    }
}

impl Default for CountingAlloc {
    fn default() -> Self {
        Self::new()
    }
}

// A layout's size is at most `isize::MAX`, so the casts keep their value.
// SAFETY: every call goes unchanged to mimalloc, which keeps the contract of `GlobalAlloc`.
// Counting neither allocates nor unwinds: it moves integers in const thread-locals.
unsafe impl GlobalAlloc for CountingAlloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_bytes(layout.size() as isize);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { self.inner.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count_bytes(-(layout.size() as isize));
        // SAFETY: the caller's guarantees are passed on.
        unsafe { self.inner.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_bytes(layout.size() as isize);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count_bytes((new_size as isize).wrapping_sub(layout.size() as isize));
        // SAFETY: the caller's guarantees are passed on.
        unsafe { self.inner.realloc(pointer, layout, new_size) }
    }
}
