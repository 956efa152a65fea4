//! The process's allocator: mimalloc, with a count of what the running fiber holds.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;
use std::sync::RwLock;
use std::sync::atomic::AtomicUsize;

use libmimalloc_sys as mi;

use super::registers::{count_bytes, count_cells};

/// What mimalloc aligns every block to that is not smaller (its `MI_MAX_ALIGN_SIZE`).
const ALIGNED_ANYWAY: usize = 16;

/// Whether a block is aligned as asked for without saying so: a shorter way in mimalloc.
const fn aligned_anyway(size: usize, align: usize) -> bool {
    align <= ALIGNED_ANYWAY && align <= size
}

/// The block in which Rhai keeps a value that closures share, an `Arc` of a lock. Only such values
/// can hold each other.
const CELL: Layout = Layout::new::<(AtomicUsize, AtomicUsize, RwLock<rhai::Dynamic>)>();
pub const CELL_BYTES: isize = CELL.size() as isize;

#[inline]
fn taken(layout: Layout) {
    count_bytes(layout.size() as isize);
    if is_cell(layout) {
        count_cells(1);
    }
}

#[inline]
fn given_back(layout: Layout) {
    count_bytes(-(layout.size() as isize));
    if is_cell(layout) {
        count_cells(-1);
    }
}

#[inline]
const fn is_cell(layout: Layout) -> bool {
    layout.size() == CELL.size() && layout.align() == CELL.align()
}

/// To be declared as the `#[global_allocator]`; without it, scripts have no memory limit.
#[derive(Default)]
pub struct CountingAlloc;

impl CountingAlloc {
    pub const fn new() -> Self {
        Self
    }
}

// A layout's size is at most `isize::MAX`, so the casts keep their value.
// SAFETY: mimalloc keeps the contract of `GlobalAlloc`: blocks of at least the size asked for,
// aligned as asked for (see `aligned_anyway`), null when there is no memory, and any block may be
// freed by `mi_free`. Counting neither allocates nor unwinds: it moves integers in const
// thread-locals.
unsafe impl GlobalAlloc for CountingAlloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout);
        // SAFETY: any size and any power of two are fine.
        unsafe {
            if aligned_anyway(layout.size(), layout.align()) {
                mi::mi_malloc(layout.size()).cast()
            } else {
                mi::mi_malloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        given_back(layout);
        // SAFETY: the caller guarantees that the block came from here.
        unsafe { mi::mi_free(pointer.cast::<c_void>()) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout);
        // SAFETY: any size and any power of two are fine.
        unsafe {
            if aligned_anyway(layout.size(), layout.align()) {
                mi::mi_zalloc(layout.size()).cast()
            } else {
                mi::mi_zalloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count_bytes((new_size as isize).wrapping_sub(layout.size() as isize));
        let is_to_be = new_size == CELL.size() && layout.align() == CELL.align();
        match (is_cell(layout), is_to_be) {
            (true, false) => count_cells(-1),
            (false, true) => count_cells(1),
            _ => {}
        }
        // SAFETY: the caller guarantees that the block came from here with this alignment.
        unsafe {
            if aligned_anyway(new_size, layout.align()) {
                mi::mi_realloc(pointer.cast(), new_size).cast()
            } else {
                mi::mi_realloc_aligned(pointer.cast(), new_size, layout.align()).cast()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_as_asked_for() {
        let allocator = CountingAlloc::new();
        for align in [1, 2, 4, 8, 16, 32, 64, 4096] {
            for size in (1..200).chain([1000, 5000, 70_000]) {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                let grown = Layout::from_size_align(size * 3 + 1, align).expect("a layout");
                // SAFETY: sizes are not zero; each block is freed once, with its last layout.
                unsafe {
                    let block = allocator.alloc(layout);
                    assert!(block.addr().is_multiple_of(align) && !block.is_null(), "{layout:?}");
                    let block = allocator.realloc(block, layout, grown.size());
                    assert!(block.addr().is_multiple_of(align) && !block.is_null(), "{grown:?}");
                    allocator.dealloc(block, grown);
                    let block = allocator.alloc_zeroed(layout);
                    assert!(block.addr().is_multiple_of(align) && *block == 0, "{layout:?}");
                    allocator.dealloc(block, layout);
                }
            }
        }
    }
}
