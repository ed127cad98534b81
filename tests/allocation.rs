//! The safe layer allocates no host memory of its own on the calling thread once it is warm: no more than the same vendor
//! calls made without it; and none at all where these are another library's, whose memory is not counted here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected ends, and says so")]

#[allow(dead_code, reason = "shared with the conformance suite")]
#[path = "conformance/kinds.rs"]
mod kinds;
#[allow(dead_code, reason = "shared with the benchmark")]
mod raw_add;
#[path = "conformance/synthetic.rs"]
mod synthetic;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;

use ascend_moe::backend::Environment;
use ascend_moe::{Cann, CaptureMode, Choice, Implementation, Release, Stream};
use ascend_sys::load::SearchEnv;
use cann_sim::tree::{self, Layout as Tree};
use cann_sim::{Config, Mode, Sim};
use kinds::kinds;
use raw_add::Add;
use tempfile::TempDir;

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

/// The simulator's shared library, which brings an allocator of its own.
fn library() -> (TempDir, Cann) {
    let library = std::env::var_os("CANN_SIM_LIBRARY").map(PathBuf::from);
    let library = library.or_else(|| tree::library_beside(&std::env::current_exe().unwrap())).unwrap();
    let root = tempfile::tempdir().unwrap();
    tree::make(root.path(), &library, Tree::Split, Release::new(9, 1, 0)).unwrap();
    let search = SearchEnv { home_path: Some(root.path().to_owned()), ..SearchEnv::default() };
    let cann = Cann::open_in(Choice::Cann, &Environment { search, ..Environment::default() }).unwrap();
    assert_eq!(cann.implementation(), Implementation::SimulatorLibrary);
    (root, cann)
}

#[test]
fn passes_of_every_kind_allocate_nothing() {
    const TOKENS: usize = 21;
    let (_root, cann) = library();
    let device = cann.device(0).unwrap();
    let [stream, side] = [0, 1].map(|_| Stream::new(&device).unwrap());
    let made = allocations_of(|| drop(Stream::new(&device).unwrap()));
    assert!(made > 0, "the counter counts");
    for kind in kinds() {
        let layer = kind.layer(&stream);
        let padded = kind.given(&device, TOKENS, 2);
        let given = kind.given(&device, TOKENS, 2).unpadded();
        let mut outputs = [0, 1].map(|_| layer.new_output(TOKENS).unwrap());
        let (ids, weights) = layer.router().route(&stream, given.input()).unwrap();
        let mut routed = layer.forward_routed(&stream, given.x.view(), ids.view(), weights.view()).unwrap();
        layer.forward_into(&stream, padded.input(), &mut outputs[0]).unwrap();
        let capture = || layer.forward_into(&stream, padded.input(), &mut outputs[0]);
        let graph = stream.capture(CaptureMode::Global, capture).unwrap();
        let [output, overlapped] = &mut outputs;
        let mut run = || {
            layer.forward_into(&stream, padded.input(), output).unwrap();
            layer.forward_into(&stream, given.input(), output).unwrap();
            layer.forward_chunked(&stream, given.input(), 8, output).unwrap();
            layer.forward_overlapped(&stream, &side, given.input(), overlapped).unwrap();
            let (x, ids, weights) = (given.x.view(), ids.view(), weights.view());
            layer.forward_routed_into(&stream, x, ids, weights, &mut routed).unwrap();
            graph.launch(&stream).unwrap();
        };
        (0..3).for_each(|_| run());
        for round in 0..3 {
            assert_eq!(allocations_of(&mut run), 0, "{}, round {round}", kind.name);
        }
        stream.synchronize().unwrap();
        side.synchronize().unwrap();
    }
}
