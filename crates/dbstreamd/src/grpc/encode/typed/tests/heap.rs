//! What a thread holds on the heap, counted by an allocator for the tests.
#![expect(unsafe_code, reason = "an allocator is unsafe; this one only counts what the system's does")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn add(bytes: usize) {
    HELD.set(HELD.get().saturating_add_unsigned(bytes));
    PEAK.set(PEAK.get().max(HELD.get()));
}

fn take(bytes: usize) {
    HELD.set(HELD.get().saturating_sub_unsigned(bytes));
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: what the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        take(layout.size());
        // SAFETY: what the caller promised.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if both were there at once, which they may be.
        add(size);
        take(layout.size());
        // SAFETY: what the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// How many bytes this thread held at most while it did this, beyond what it held before.
pub(super) fn most_held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get().abs_diff(before))
}
