//! The safe layer allocates no host memory of its own on the calling thread once it is warm: no more than the same vendor
//! calls made without it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected ends, and says so")]

#[allow(dead_code, reason = "shared with the benchmark")]
mod raw_add;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ascend_moe::Cann;
use cann_sim::{Config, Mode, Sim};
use raw_add::Add;

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    run();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_safe_layer_allocates_no_more_than_the_raw_calls() {
    let config = Config { mode: Mode::Strict, hbm: Some(1 << 30), trace_capacity: 0, ..Config::default() };
    let sim = Sim::start(config).unwrap();
    let cann = Cann::from_table(sim.table()).unwrap();
    let mut add = Add::new(&cann).unwrap();
    let (mut safe, mut raw) = (Vec::with_capacity(300), Vec::with_capacity(300));
    for _ in 0..300 {
        safe.push(allocations_of(|| add.safe().unwrap()));
        add.stream.synchronize().unwrap();
        raw.push(allocations_of(|| add.raw().unwrap()));
        add.stream.synchronize().unwrap();
    }
    assert_eq!(add.sum().unwrap(), [3.5; raw_add::LEN]);
    // The simulator's own containers grow now and then, in either's rounds: the usual round tells.
    let usual = |counts: &mut Vec<u64>| {
        counts.sort_unstable();
        counts[counts.len() / 2]
    };
    let (safe, raw) = (usual(&mut safe), usual(&mut raw));
    assert!(raw > 0, "the counter counts: the simulator allocates in every call");
    assert!(safe <= raw, "{safe} allocations through the safe layer, {raw} without it");
    // What only the layer does allocates nothing at all.
    add.stream.synchronize().unwrap();
    let own = allocations_of(|| drop(add.stream.sequence().unwrap()));
    assert_eq!(own, 0, "a sequence");
    drop((add, cann));
    assert_eq!(sim.report(), []);
}
