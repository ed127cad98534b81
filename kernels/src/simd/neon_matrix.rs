//! Micro-kernels for aarch64 with products of two rows of x and two columns at a time: `smmla` of int8, `bfmmla` of bf16.
//!
//! Stable Rust has no intrinsic for them; they are assembly of one instruction. `smmla` multiplies 2 x 8 numbers with 8 x 2. `bfmmla`
//! multiplies 2 x 4 with 4 x 2 and is two `bfdot`, the lower k first (source: Arm ARM, BFMatMulAddH without FEAT_EBF16), so that a
//! row has the same bits with it and with `bfdot`.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{bf16_dot, dot_four, halves, multiply_bf16_dot, multiply_int4_dot, multiply_int8_dot};
use super::{Ahead, Job, PANEL, Panels};

/// How lines of a panel are multiplied.
trait Matrix {
    /// Lines whose words are multiplied at a time; two words of x belong to them.
    const LINES: usize = 2;

    /// Of 4 columns two words each, in turn: those of two lines, or both parts of one.
    ///
    /// # Safety
    /// 4 words of each line can be read. The CPU has the instructions, as below.
    #[inline(always)]
    unsafe fn columns(line: *const u32) -> [uint32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (vld1q_u32(line), vld1q_u32(line.add(PANEL)));
            [vzip1q_u32(a, b), vzip2q_u32(a, b)]
        }
    }

    /// `acc + x @ w` of two rows and two columns, two words each.
    ///
    /// # Safety
    /// As above.
    unsafe fn multiply(acc: uint32x4_t, x: uint32x4_t, w: uint32x4_t) -> uint32x4_t;

    /// `acc + w * x` of 4 columns and a word of a row, where a line is left.
    ///
    /// # Safety
    /// As above.
    unsafe fn rest(acc: uint32x4_t, w: uint32x4_t, x: uint32x4_t) -> uint32x4_t;
}

/// `smmla` of four words of x and of columns.
///
/// # Safety
/// The CPU has it.
#[inline(always)]
unsafe fn matrix_of_int8(mut acc: uint32x4_t, x: uint32x4_t, w: uint32x4_t) -> uint32x4_t {
    // SAFETY: the caller's promise; registers alone are touched.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) acc, in(vreg) x, in(vreg) w,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

struct Bf16;

impl Matrix for Bf16 {
    #[inline(always)]
    unsafe fn multiply(mut acc: uint32x4_t, x: uint32x4_t, w: uint32x4_t) -> uint32x4_t {
        // SAFETY: the caller's promise; registers alone are touched.
        unsafe {
            asm!(
                "bfmmla {0:v}.4s, {1:v}.8h, {2:v}.8h",
                inout(vreg) acc, in(vreg) x, in(vreg) w,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }

    #[inline(always)]
    unsafe fn rest(acc: uint32x4_t, w: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vreinterpretq_u32_f32(bf16_dot(vreinterpretq_f32_u32(acc), w, x)) }
    }
}

struct Int8;

impl Matrix for Int8 {
    #[inline(always)]
    unsafe fn multiply(acc: uint32x4_t, x: uint32x4_t, w: uint32x4_t) -> uint32x4_t {
        // SAFETY: the caller's promise.
        unsafe { matrix_of_int8(acc, x, w) }
    }

    #[inline(always)]
    unsafe fn rest(acc: uint32x4_t, w: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let sum = dot_four(vreinterpretq_s32_u32(acc), vreinterpretq_s8_u32(w), vreinterpretq_s8_u32(x));
            vreinterpretq_u32_s32(sum)
        }
    }
}

/// The even numbers of a word, then the odd ones, as rows of x have them ([`super::Rows::EvenOdd`]).
struct Int4;

impl Matrix for Int4 {
    const LINES: usize = 1;

    #[inline(always)]
    unsafe fn columns(line: *const u32) -> [uint32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let words = vld1q_u32(line);
            let [even, odd] = [0, 1].map(|phase| vreinterpretq_u32_s8(halves(words, phase)));
            [vzip1q_u32(even, odd), vzip2q_u32(even, odd)]
        }
    }

    #[inline(always)]
    unsafe fn multiply(acc: uint32x4_t, x: uint32x4_t, w: uint32x4_t) -> uint32x4_t {
        // SAFETY: the caller's promise.
        unsafe { matrix_of_int8(acc, x, w) }
    }

    #[inline(always)]
    unsafe fn rest(acc: uint32x4_t, _: uint32x4_t, _: uint32x4_t) -> uint32x4_t {
        acc
    }
}

/// A job of `R` rows in `PAIRS` pairs, the last of one row where they are odd, and `V` times 4 columns, with all accumulators in
/// registers: of each pair of rows and of columns 2 x 2.
///
/// # Safety
/// As [`super::tile::tile`].
#[inline(always)]
unsafe fn tile<M: Matrix, const R: usize, const PAIRS: usize, const V: usize>(job: &mut Job<'_>) {
    let &mut Job { x_stride, w_stride, acc: first, acc_stride, .. } = job;
    let column = |v: usize| (v * 4 / PANEL, v * 4 % PANEL);
    // SAFETY: the caller lets every word of the job be read and every accumulator be written.
    unsafe {
        let zero = vdupq_n_u32(0);
        let acc_at = |r: usize, v: usize| {
            let (panel, lane) = column(v);
            first.add(r * acc_stride + panel).cast::<u32>().add(lane)
        };
        let mut acc = [[[zero; 2]; V]; PAIRS];
        if !job.fresh {
            for (pair, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    let row = |r: usize| if r < R { vld1q_u32(acc_at(r, v)) } else { zero };
                    *acc = turned([row(2 * pair), row(2 * pair + 1)]);
                }
            }
        }
        // Two words of a row, or none.
        let words = |x: *const u32, r: usize| {
            if r < R { vld1_u32(x.add(r * x_stride)) } else { vdup_n_u32(0) }
        };
        let (mut x, mut steps) = (job.x, job.steps);
        // The line that remains and where its words of x are.
        let mut last = None;
        while steps > 0 {
            let (mut w, made) = match &mut job.w {
                Panels::Made(w) => (*w, steps),
                Panels::Fed { most, make } => {
                    let made = steps.min(*most);
                    (make(made), made)
                }
            };
            steps -= made;
            let mut left = made / M::LINES;
            while left > 0 {
                let some = left.min(Ahead::STEPS / M::LINES);
                job.ahead.fetch();
                for _ in 0..some {
                    let mut pairs = [zero; PAIRS];
                    for (pair, words_of_pair) in pairs.iter_mut().enumerate() {
                        *words_of_pair = vcombine_u32(words(x, 2 * pair), words(x, 2 * pair + 1));
                    }
                    for v in 0..V {
                        let (panel, lane) = column(v);
                        let columns = M::columns(w.add(panel * w_stride).cast::<u32>().add(lane));
                        for (acc, x) in acc.iter_mut().zip(pairs) {
                            for (acc, columns) in acc[v].iter_mut().zip(columns) {
                                *acc = M::multiply(*acc, x, columns);
                            }
                        }
                    }
                    (x, w) = (x.add(2), w.add(M::LINES));
                }
                left -= some;
            }
            if made % M::LINES > 0 {
                debug_assert_eq!(steps, 0, "lines are made in twos but for the last");
                last = Some((w, x));
            }
        }
        for (pair, acc) in acc.into_iter().enumerate() {
            for (v, acc) in acc.into_iter().enumerate() {
                for (r, mut acc) in (2 * pair..R).zip(turned(acc)) {
                    if let Some((w, x)) = last {
                        let (panel, lane) = column(v);
                        let words = vld1q_u32(w.add(panel * w_stride).cast::<u32>().add(lane));
                        acc = M::rest(acc, words, vld1q_dup_u32(x.add(r * x_stride)));
                    }
                    vst1q_u32(acc_at(r, v), acc);
                }
            }
        }
    }
}

/// Of two rows of 4 columns two matrices of 2 x 2, and back.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn turned([a, b]: [uint32x4_t; 2]) -> [uint32x4_t; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b));
        [vreinterpretq_u32_u64(vzip1q_u64(a, b)), vreinterpretq_u32_u64(vzip2q_u64(a, b))]
    }
}

/// A function of this name and these features; one row, half of whose products would be for nothing, is left to `$one`.
macro_rules! entry {
    ($name:ident, $features:literal, $matrix:ty, $one:ident) => {
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(job: &mut Job<'_>) {
            // SAFETY: the caller's promise; the instructions are enabled here.
            unsafe {
                match (job.panels, job.rows) {
                    (_, 1) => $one(job),
                    (1, 2) => tile::<$matrix, 2, 1, 4>(job),
                    (2, 2) => tile::<$matrix, 2, 1, 8>(job),
                    (1, 3) => tile::<$matrix, 3, 2, 4>(job),
                    (1, 4) => tile::<$matrix, 4, 2, 4>(job),
                    (1, 5) => tile::<$matrix, 5, 3, 4>(job),
                    (1, 6) => tile::<$matrix, 6, 3, 4>(job),
                    tile => debug_assert!(false, "no tile of {tile:?} panels and rows"),
                }
            }
        }
    };
}

entry!(multiply_bf16_matrix, "neon,bf16", Bf16, multiply_bf16_dot);
entry!(multiply_int8_matrix, "neon,dotprod,i8mm", Int8, multiply_int8_dot);
entry!(multiply_int4_matrix, "neon,dotprod,i8mm", Int4, multiply_int4_dot);
