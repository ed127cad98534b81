//! Micro-kernels for every CPU, in plain Rust: product first, then sum, for ascending k.

use super::tile::{Dot, entry, interleave, transpose_words};
use super::{Job, Kernel, PANEL, Rows, Turn, Weave, Words};

/// Rows of a register tile and, for each number, panels.
const PANELS: &[usize] = &[1, 1, 1];

pub(super) fn kernel(words: Words) -> &'static Kernel {
    static F32: Kernel = of(Words::F32, Rows::F32, multiply_f32);
    static BF16: Kernel = of(Words::Bf16, Rows::F32, multiply_bf16);
    static INT8: Kernel = of(Words::Int8, Rows::Words, multiply_int8);
    static INT4: Kernel = of(Words::Int4, Rows::EvenOdd, multiply_int4);
    match words {
        Words::F32 => &F32,
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
        interleave: plain_interleave,
    }
}

entry!(multiply_f32, F32, [1: 1 2 3]);
entry!(multiply_bf16, Bf16, [1: 1 2 3]);
entry!(multiply_int8, Int8, [1: 1 2 3]);
entry!(multiply_int4, Int4, [1: 1 2 3]);
entry!(multiply_wide_int8, WideInt8, [1: 1 2 3]);
entry!(multiply_wide_int4, WideInt4, [1: 1 2 3]);

unsafe fn transpose(turn: &Turn) {
    // SAFETY: the caller's promise.
    unsafe { transpose_words(turn) }
}

unsafe fn plain_interleave(weave: &Weave) {
    // SAFETY: the caller's promise.
    unsafe { interleave(weave) }
}

type Lanes<T> = [T; PANEL];

/// Accumulators in f32 and what makes f32 of the words.
macro_rules! float_dot {
    ($name:ident, $phases:literal, |$word:ident, $phase:ident| $value:expr) => {
        struct $name;

        impl Dot for $name {
            type Acc = Lanes<f32>;
            type Words = Lanes<f32>;
            type X = f32;
            const LANES: usize = PANEL;
            const PHASES: usize = $phases;

            #[inline(always)]
            unsafe fn zero() -> Self::Acc {
                [0.0; PANEL]
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> Self::Acc {
                // SAFETY: a vector is a line, which the caller lets be read.
                unsafe { from.cast::<Self::Acc>().read() }
            }

            #[inline(always)]
            unsafe fn store(acc: Self::Acc, to: *mut u32) {
                // SAFETY: a vector is a line, which the caller lets be written.
                unsafe { to.cast::<Self::Acc>().write(acc) }
            }

            #[inline(always)]
            unsafe fn words(from: *const u32, $phase: usize) -> Self::Words {
                // SAFETY: a vector is a line, which the caller lets be read.
                unsafe { from.cast::<Lanes<u32>>().read() }.map(|$word| $value)
            }

            #[inline(always)]
            unsafe fn x(from: *const u32) -> f32 {
                // SAFETY: the caller lets it be read.
                unsafe { from.cast::<f32>().read() }
            }

            #[inline(always)]
            unsafe fn dot(mut acc: Self::Acc, w: Self::Words, x: f32) -> Self::Acc {
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc += x * w;
                }
                acc
            }
        }
    };
}

float_dot!(F32, 1, |word, _phase| f32::from_bits(word));
float_dot!(Bf16, 2, |word, phase| f32::from_bits(if phase == 0 { word << 16 } else { word & 0xffff_0000 }));
// Number `phase`, moved to the top and from there to the bottom.
float_dot!(WideInt8, 4, |word, phase| (word << (24 - 8 * phase)).cast_signed().wrapping_shr(24) as f32);
float_dot!(WideInt4, 8, |word, phase| (word << (28 - 4 * phase)).cast_signed().wrapping_shr(28) as f32);

/// Accumulators in int32 and what makes four int8 of a word.
macro_rules! int_dot {
    ($name:ident, $phases:literal, |$word:ident, $phase:ident| $value:expr) => {
        struct $name;

        impl Dot for $name {
            type Acc = Lanes<i32>;
            type Words = Lanes<[i8; 4]>;
            type X = [i8; 4];
            const LANES: usize = PANEL;
            const PHASES: usize = $phases;

            #[inline(always)]
            unsafe fn zero() -> Self::Acc {
                [0; PANEL]
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> Self::Acc {
                // SAFETY: a vector is a line, which the caller lets be read.
                unsafe { from.cast::<Self::Acc>().read() }
            }

            #[inline(always)]
            unsafe fn store(acc: Self::Acc, to: *mut u32) {
                // SAFETY: a vector is a line, which the caller lets be written.
                unsafe { to.cast::<Self::Acc>().write(acc) }
            }

            #[inline(always)]
            unsafe fn words(from: *const u32, $phase: usize) -> Self::Words {
                // SAFETY: a vector is a line, which the caller lets be read.
                unsafe { from.cast::<Lanes<[i8; 4]>>().read() }.map(|$word| $value)
            }

            #[inline(always)]
            unsafe fn x(from: *const u32) -> [i8; 4] {
                // SAFETY: the caller lets it be read.
                unsafe { from.cast::<[i8; 4]>().read() }
            }

            #[inline(always)]
            unsafe fn dot(mut acc: Self::Acc, w: Self::Words, x: [i8; 4]) -> Self::Acc {
                for (acc, w) in acc.iter_mut().zip(w) {
                    for (w, x) in w.into_iter().zip(x) {
                        *acc = acc.wrapping_add(i32::from(w) * i32::from(x));
                    }
                }
                acc
            }
        }
    };
}

int_dot!(Int8, 1, |bytes, _phase| bytes);
int_dot!(Int4, 2, |bytes, phase| bytes.map(|pair| if phase == 0 { pair << 4 >> 4 } else { pair >> 4 }));
