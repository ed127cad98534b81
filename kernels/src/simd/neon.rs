//! Micro-kernels for aarch64: NEON, its dot product of int8, its dot product of bf16, and its matrix products of both
//! (`neon_matrix.rs`).
//!
//! Stable Rust has no intrinsic for the dot products; they are assembly of one instruction. `bfdot` takes denormal inputs for 0,
//! gives 0 for denormal results and rounds to odd, and adds the two products before the accumulator (source: Arm ARM, BFDotAdd
//! without FEAT_EBF16).

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon_matrix::{multiply_bf16_matrix, multiply_int4_matrix, multiply_int8_matrix};
use super::tile::{Dot, entry, interleave, transpose_words};
use super::{Job, Kernel, LINE_BYTES, Rows, Turn, Weave, Words, fetch, per_line};

/// For 1 to 6 rows, panels of a register tile: at most 24 of the 32 registers are accumulators.
const PANELS: &[usize] = &[2, 2, 1, 1, 1, 1];

static PLAIN_F32: Kernel = of(Words::F32, Rows::F32, multiply_f32);
static PLAIN_BF16: Kernel = of(Words::Bf16, Rows::F32, multiply_bf16);
static INT8_DOT: Kernel = of(Words::Int8, Rows::Words, multiply_int8_dot);
static INT4_DOT: Kernel = of(Words::Int4, Rows::EvenOdd, multiply_int4_dot);

pub(super) fn kernel(words: Words) -> &'static Kernel {
    static INT8: Kernel = of(Words::Int8, Rows::Words, multiply_int8);
    static INT4: Kernel = of(Words::Int4, Rows::EvenOdd, multiply_int4);
    match words {
        Words::F32 => &PLAIN_F32,
        Words::Bf16 => &PLAIN_BF16,
        Words::Int8 => &INT8,
        Words::Int4 => &INT4,
    }
}

pub(super) fn dot_kernel(words: Words) -> &'static Kernel {
    match words {
        Words::F32 => &PLAIN_F32,
        Words::Bf16 => &PLAIN_BF16,
        Words::Int8 => &INT8_DOT,
        Words::Int4 => &INT4_DOT,
    }
}

pub(super) fn bf16_kernel(words: Words) -> &'static Kernel {
    static BF16_DOT: Kernel = of(Words::Bf16, Rows::Words, multiply_bf16_dot);
    match words {
        Words::F32 => &PLAIN_F32,
        Words::Bf16 => &BF16_DOT,
        Words::Int8 => &INT8_DOT,
        Words::Int4 => &INT4_DOT,
    }
}

pub(super) fn matrix_kernel(words: Words) -> &'static Kernel {
    static BF16: Kernel = of(Words::Bf16, Rows::Words, multiply_bf16_matrix);
    static INT8: Kernel = of(Words::Int8, Rows::Words, multiply_int8_matrix);
    static INT4: Kernel = of(Words::Int4, Rows::EvenOdd, multiply_int4_matrix);
    match words {
        Words::F32 => &PLAIN_F32,
        Words::Bf16 => &BF16,
        Words::Int8 => &INT8,
        Words::Int4 => &INT4,
    }
}

/// For rows of f32.
pub(super) fn mixed_kernel(words: Words) -> &'static Kernel {
    static INT8: Kernel = of(Words::Int8, Rows::F32, multiply_wide_int8);
    static INT4: Kernel = of(Words::Int4, Rows::F32, multiply_wide_int4);
    match words {
        Words::Int8 => &INT8,
        Words::Int4 => &INT4,
        Words::F32 | Words::Bf16 => kernel(words),
    }
}

const fn of(words: Words, x: Rows, multiply: unsafe fn(&mut Job<'_>)) -> Kernel {
    Kernel {
        words,
        x,
        flip: 0,
        excess: 0,
        panels: PANELS,
        multiply,
        rows_in_place: None,
        of_numbers: None,
        columns_in_place: None,
        transpose,
        interleave: vector_interleave,
    }
}

entry!(multiply_f32, "neon", F32, [1: 1 2 3 4 5 6, 2: 1 2]);
entry!(multiply_bf16, "neon", Bf16, [1: 1 2 3 4 5 6, 2: 1 2]);
entry!(multiply_int8, "neon", Int8, [1: 1 2 3 4 5 6, 2: 1 2]);
entry!(multiply_int8_dot, "neon,dotprod", Int8Dot, [1: 1 2 3 4 5 6, 2: 1 2]);
entry!(multiply_int4, "neon", Int4, [1: 1 2 3 4 5 6, 2: 1 2]);
entry!(multiply_int4_dot, "neon,dotprod", Int4Dot, [1: 1 2 3 4 5 6, 2: 1 2]);
entry!(multiply_wide_int8, "neon", WideInt8, [1: 1 2 3 4 5 6, 2: 1 2]);
entry!(multiply_wide_int4, "neon", WideInt4, [1: 1 2 3 4 5 6, 2: 1 2]);
entry!(multiply_bf16_dot, "neon,bf16", Bf16Dot, [1: 1 2 3 4 5 6, 2: 1 2]);

#[target_feature(enable = "neon")]
unsafe fn vector_interleave(weave: &Weave) {
    // SAFETY: the caller's promise.
    unsafe { interleave(weave) }
}

/// [`Turn`], 4 words of 4 columns at a time.
#[target_feature(enable = "neon")]
unsafe fn transpose(turn: &Turn) {
    let &Turn { stride, panels, piece, flip, ahead, to_stride, .. } = turn;
    let mask = vdupq_n_u32(flip);
    let per_line = per_line(stride);
    for start in (0..turn.words).step_by(piece) {
        let turn = turn.after(start);
        let words = piece.min(turn.words) & !3;
        for quarter in 0..4 * panels {
            let from = turn.from.wrapping_add(4 * quarter * stride);
            let to = turn.to.wrapping_add(quarter / 4 * to_stride);
            if ahead != 0 {
                // The end of a line's bytes: where they are not aligned, the rest is in the line before.
                let end = from.wrapping_add(LINE_BYTES - 1).wrapping_add(ahead);
                (0..4).step_by(per_line).for_each(|i| fetch(end.wrapping_add(i * stride)));
            }
            for step in (0..words).step_by(4) {
                // SAFETY: the caller lets all words of 16 columns of each panel be read and as many lines be written.
                unsafe {
                    let load = |i: usize| vreinterpretq_u32_u8(vld1q_u8(from.add(i * stride + 4 * step)));
                    let (a, b, c, d) = (load(0), load(1), load(2), load(3));
                    let (ac_low, ac_high) = (vzip1q_u32(a, c), vzip2q_u32(a, c));
                    let (bd_low, bd_high) = (vzip1q_u32(b, d), vzip2q_u32(b, d));
                    let lines = [
                        vzip1q_u32(ac_low, bd_low),
                        vzip2q_u32(ac_low, bd_low),
                        vzip1q_u32(ac_high, bd_high),
                        vzip2q_u32(ac_high, bd_high),
                    ];
                    for (i, line) in lines.into_iter().enumerate() {
                        vst1q_u32(to.add(step + i).cast::<u32>().add(quarter % 4 * 4), veorq_u32(line, mask));
                    }
                }
            }
        }
        if words < piece.min(turn.words) {
            let rest = piece.min(turn.words) - words;
            let (from, to) = (turn.from.wrapping_add(4 * words), turn.to.wrapping_add(words));
            // SAFETY: the caller's promise, of a part of what it promised.
            unsafe { transpose_words(&Turn { from, to, words: rest, ..turn }) }
        }
    }
}

/// A type of accumulators, of words and of words of x, and what is done with them.
macro_rules! dot {
    (
        $name:ident, $phases:literal, $acc:ty, $words:ty, $zero:expr, $load:ident, $store:ident,
        |$word:ident, $phase:ident| $value:expr, |$x:ident| $row:expr, |$sum:ident, $w:ident, $v:ident| $dot:expr
    ) => {
        struct $name;

        impl Dot for $name {
            type Acc = $acc;
            type Words = $words;
            type X = $words;
            const LANES: usize = 4;
            const PHASES: usize = $phases;

            #[inline(always)]
            unsafe fn zero() -> $acc {
                // SAFETY: the CPU has NEON.
                unsafe { $zero }
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> $acc {
                // SAFETY: the caller lets 4 words be read.
                unsafe { $load(from.cast()) }
            }

            #[inline(always)]
            unsafe fn store(acc: $acc, to: *mut u32) {
                // SAFETY: the caller lets 4 words be written.
                unsafe { $store(to.cast(), acc) }
            }

            #[inline(always)]
            unsafe fn words(from: *const u32, $phase: usize) -> $words {
                // SAFETY: the caller lets 4 words be read; the CPU has NEON.
                unsafe {
                    let $word = vld1q_u32(from);
                    $value
                }
            }

            #[inline(always)]
            unsafe fn x(from: *const u32) -> $words {
                // SAFETY: the caller lets it be read; the CPU has NEON.
                unsafe {
                    let $x = vld1q_dup_u32(from);
                    $row
                }
            }

            #[inline(always)]
            unsafe fn dot($sum: $acc, $w: $words, $v: $words) -> $acc {
                // SAFETY: the CPU has the instructions.
                unsafe { $dot }
            }
        }
    };
}

dot!(
    F32,
    1,
    float32x4_t,
    float32x4_t,
    vdupq_n_f32(0.0),
    vld1q_f32,
    vst1q_f32,
    |word, _phase| vreinterpretq_f32_u32(word),
    |x| vreinterpretq_f32_u32(x),
    |sum, w, x| vfmaq_f32(sum, w, x)
);
dot!(
    Bf16,
    2,
    float32x4_t,
    float32x4_t,
    vdupq_n_f32(0.0),
    vld1q_f32,
    vst1q_f32,
    |word, phase| vreinterpretq_f32_u32(if phase == 0 {
        vshlq_n_u32::<16>(word)
    } else {
        vandq_u32(word, vdupq_n_u32(0xffff_0000))
    }),
    |x| vreinterpretq_f32_u32(x),
    |sum, w, x| vfmaq_f32(sum, w, x)
);
// Number `phase`, moved to the top and from there to the bottom.
dot!(
    WideInt8,
    4,
    float32x4_t,
    float32x4_t,
    vdupq_n_f32(0.0),
    vld1q_f32,
    vst1q_f32,
    |word, phase| {
        let top = vshlq_u32(word, vdupq_n_s32(24 - 8 * phase as i32));
        vcvtq_f32_s32(vshrq_n_s32::<24>(vreinterpretq_s32_u32(top)))
    },
    |x| vreinterpretq_f32_u32(x),
    |sum, w, x| vfmaq_f32(sum, w, x)
);
dot!(
    WideInt4,
    8,
    float32x4_t,
    float32x4_t,
    vdupq_n_f32(0.0),
    vld1q_f32,
    vst1q_f32,
    |word, phase| {
        let top = vshlq_u32(word, vdupq_n_s32(28 - 4 * phase as i32));
        vcvtq_f32_s32(vshrq_n_s32::<28>(vreinterpretq_s32_u32(top)))
    },
    |x| vreinterpretq_f32_u32(x),
    |sum, w, x| vfmaq_f32(sum, w, x)
);
dot!(
    Bf16Dot,
    1,
    float32x4_t,
    uint32x4_t,
    vdupq_n_f32(0.0),
    vld1q_f32,
    vst1q_f32,
    |word, _phase| word,
    |x| x,
    |sum, w, x| bf16_dot(sum, w, x)
);

/// `sum + w * x` of two bf16 in each word.
///
/// # Safety
/// The CPU has the dot product.
#[inline(always)]
pub(super) unsafe fn bf16_dot(mut sum: float32x4_t, w: uint32x4_t, x: uint32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise; registers alone are touched.
    unsafe {
        asm!(
            "bfdot {0:v}.4s, {1:v}.8h, {2:v}.8h",
            inout(vreg) sum, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Four products of each column, each in int16; pairs of them need int32.
#[target_feature(enable = "neon")]
#[inline]
fn add_four(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    let high = vpaddlq_s16(vmull_high_s8(w, x));
    vaddq_s32(sum, vpaddq_s32(low, high))
}

/// [`add_four`] in one instruction.
///
/// # Safety
/// The CPU has the dot product.
#[inline(always)]
pub(super) unsafe fn dot_four(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; registers alone are touched.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sum, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The lower halves of bytes with their signs, or the upper ones.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn halves(word: uint32x4_t, phase: usize) -> int8x16_t {
    let bytes = vreinterpretq_s8_u32(word);
    vshrq_n_s8::<4>(if phase == 0 { vshlq_n_s8::<4>(bytes) } else { bytes })
}

dot!(
    Int8,
    1,
    int32x4_t,
    int8x16_t,
    vdupq_n_s32(0),
    vld1q_s32,
    vst1q_s32,
    |word, _phase| vreinterpretq_s8_u32(word),
    |x| vreinterpretq_s8_u32(x),
    |sum, w, x| add_four(sum, w, x)
);
dot!(
    Int8Dot,
    1,
    int32x4_t,
    int8x16_t,
    vdupq_n_s32(0),
    vld1q_s32,
    vst1q_s32,
    |word, _phase| vreinterpretq_s8_u32(word),
    |x| vreinterpretq_s8_u32(x),
    |sum, w, x| dot_four(sum, w, x)
);
dot!(
    Int4,
    2,
    int32x4_t,
    int8x16_t,
    vdupq_n_s32(0),
    vld1q_s32,
    vst1q_s32,
    |word, phase| halves(word, phase),
    |x| vreinterpretq_s8_u32(x),
    |sum, w, x| add_four(sum, w, x)
);
dot!(
    Int4Dot,
    2,
    int32x4_t,
    int8x16_t,
    vdupq_n_s32(0),
    vld1q_s32,
    vst1q_s32,
    |word, phase| halves(word, phase),
    |x| vreinterpretq_s8_u32(x),
    |sum, w, x| dot_four(sum, w, x)
);
