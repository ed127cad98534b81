//! A legal call costs no allocation: rows are asked before every call that the backend makes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use ascend_sys::OPERATORS;

use crate::legal;

thread_local! {
    /// Allocations of this thread; other tests run beside this one.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every request goes to the system's allocator as it came; counting touches a thread-local cell that neither
// allocates nor has a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`, and the block came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while it does something.
fn allocations<T>(act: impl FnOnce() -> T) -> usize {
    let before = COUNT.with(Cell::get);
    black_box(act());
    COUNT.with(Cell::get) - before
}

#[test]
fn legal_calls_do_not_allocate() {
    assert_eq!(allocations(|| vec![1, 2, 3]), 1, "allocations are counted");
    for operator in OPERATORS {
        for call in legal(operator.id) {
            call.with(|call| {
                let row = operator.id.row();
                assert_eq!(allocations(|| row.validate(call)), 0, "{call:?}");
            });
        }
    }
}
