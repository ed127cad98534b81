//! What a product allocates after the first of its size: the list of its parts, nothing that grows with K.

#![allow(clippy::unwrap_used)] // helpers outside of test functions; a failure is a failed test

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use moe_kernels::gemm::{Weight, gemm};
use moe_kernels::int_gemm::{IntProblem, IntWeight, int_gemms};
use moe_kernels::view::{Mat, MatMut};

/// Counts bytes.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that the second of two calls allocates.
fn second(mut call: impl FnMut() + Send) -> usize {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        call();
        let before = BYTES.load(Ordering::Relaxed);
        call();
        BYTES.load(Ordering::Relaxed) - before
    })
}

#[test]
fn buffers_are_kept() {
    let (m, n) = (64, 256);
    let floats = |k: usize| {
        let (x, w, mut out) = (vec![bf16::ONE; m * k], vec![bf16::ONE; k * n], vec![bf16::ZERO; m * n]);
        second(move || {
            let w = Weight::Strided(Mat::row_major(&w, n, k).unwrap().transposed());
            gemm(Mat::row_major(&x, m, k).unwrap(), w, None, MatMut::row_major(&mut out, m, n).unwrap()).unwrap();
        })
    };
    let ints = |k: usize| {
        let (x, w, mut out) = (vec![1i8; m * k], vec![1i8; k * n], vec![0i32; m * n]);
        second(move || {
            let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&w, k, n).unwrap()));
            let out = MatMut::row_major(&mut out, m, n).unwrap();
            let problem = IntProblem { x: Mat::row_major(&x, m, k).unwrap(), rows: 0..m, weight, out };
            int_gemms(vec![problem], |_, acc, out| out.copy_from_slice(acc)).unwrap();
        })
    };
    let found = [floats(100), floats(3000), ints(100), ints(3000)];
    assert_eq!([found[0], found[2]], [found[1], found[3]]);
    assert!(found.iter().all(|bytes| *bytes < 4096), "{found:?}");
}
