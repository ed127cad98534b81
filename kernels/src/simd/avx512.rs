//! Micro-kernels for x86-64 with AVX-512: with its foundation alone as those of AVX2, twice as wide; with BF16 and VNNI by dot
//! products.
//!
//! `vdpbf16ps` takes denormal inputs for 0 and gives 0 for denormal results, whatever the control register says, and adds the
//! product of the higher k first. `vpdpbusd` multiplies unsigned by signed bytes and does not saturate: the
//! weight is the unsigned side, as w + 128 (source: Intel SDM, volume 2).

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2::{self, NOT_NEGATIVE, transpose};
use super::avx2_rows::vector_interleave;
use super::avx512_rows::{BF16_WIDE, INT4_WIDE, INT8_WIDE, bf16_in_place, int4_in_place, int8_in_place};
use super::tile::{Dot, LOW_HALVES, entry};
use super::x86_columns::{int4_columns, int4_dot_columns, int8_columns, int8_dot_columns};
use super::{Job, Kernel, Rows, RowsKernel, Words};

/// For 1 to 12 rows, panels of a register tile: at most 24 of the 32 registers are accumulators.
const PANELS: &[usize] = &[4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2];

/// What each word of int8 is XORed with to be `w + 128`, unsigned.
pub(super) const UNSIGNED: u32 = 0x8080_8080;

static PLAIN_F32: Kernel = of(Words::F32, Rows::F32, multiply_f32);

pub(super) fn kernel(words: Words) -> &'static Kernel {
    // Without panels as with AVX2: whole numbers have the same sums, floats the same order.
    static BF16: Kernel = Kernel {
        rows_in_place: Some(avx2::BF16_ROWS),
        of_numbers: Some(mixed_kernel),
        ..of(Words::Bf16, Rows::F32, multiply_bf16)
    };
    static INT8: Kernel = Kernel {
        rows_in_place: Some(avx2::INT8_ROWS),
        columns_in_place: Some(int8_columns),
        ..of(Words::Int8, Rows::Int16, multiply_int8)
    };
    static INT4: Kernel = Kernel {
        flip: NOT_NEGATIVE,
        excess: 8,
        rows_in_place: Some(avx2::INT4_ROWS),
        columns_in_place: Some(int4_columns),
        ..of(Words::Int4, Rows::EvenOdd, multiply_int4)
    };
    match words {
        Words::F32 => &PLAIN_F32,
        Words::Bf16 => &BF16,
        Words::Int8 => &INT8,
        Words::Int4 => &INT4,
    }
}

pub(super) fn dot_kernel(words: Words) -> &'static Kernel {
    // Without panels for as many rows of x as with AVX2: where panels are faster was not measured on such a CPU.
    static BF16: Kernel = Kernel {
        rows_in_place: Some(RowsKernel { run: bf16_in_place, wide: BF16_WIDE, ..avx2::BF16_ROWS }),
        ..of(Words::Bf16, Rows::Words, multiply_bf16_dot)
    };
    static INT8: Kernel = Kernel {
        flip: UNSIGNED,
        excess: 128,
        rows_in_place: Some(RowsKernel { run: int8_in_place, wide: INT8_WIDE, ..avx2::INT8_ROWS }),
        columns_in_place: Some(int8_dot_columns),
        ..of(Words::Int8, Rows::Words, multiply_int8_dot)
    };
    static INT4: Kernel = Kernel {
        flip: NOT_NEGATIVE,
        excess: 8,
        rows_in_place: Some(RowsKernel { run: int4_in_place, wide: INT4_WIDE, ..avx2::INT4_ROWS }),
        columns_in_place: Some(int4_dot_columns),
        ..of(Words::Int4, Rows::EvenOdd, multiply_int4_dot)
    };
    match words {
        Words::F32 => &PLAIN_F32,
        Words::Bf16 => &BF16,
        Words::Int8 => &INT8,
        Words::Int4 => &INT4,
    }
}

/// For rows of f32.
pub(super) fn mixed_kernel(words: Words) -> &'static Kernel {
    static INT8: Kernel =
        Kernel { rows_in_place: Some(avx2::WIDE_INT8_ROWS), ..of(Words::Int8, Rows::F32, multiply_wide_int8) };
    static INT4: Kernel =
        Kernel { rows_in_place: Some(avx2::WIDE_INT4_ROWS), ..of(Words::Int4, Rows::F32, multiply_wide_int4) };
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

entry!(multiply_f32, "avx512f,avx512bw", F32, [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]);
entry!(multiply_bf16, "avx512f,avx512bw", Bf16, [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]);
entry!(multiply_int8, "avx512f,avx512bw", Int8, [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]);
entry!(multiply_int4, "avx512f,avx512bw", Int4, [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]);
entry!(multiply_wide_int8, "avx512f,avx512bw", WideInt8, [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]);
entry!(multiply_wide_int4, "avx512f,avx512bw", WideInt4, [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]);
entry!(
    multiply_bf16_dot,
    "avx512f,avx512bf16",
    Bf16Dot,
    [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]
);
entry!(
    multiply_int8_dot,
    "avx512f,avx512vnni",
    Int8Dot,
    [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]
);

entry!(
    multiply_int4_dot,
    "avx512f,avx512vnni",
    Int4Dot,
    [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 6 7 8 9 10 11 12, 4: 1 2 3 4 5 6]
);

/// Accumulators of f32, how words become what is multiplied, a word of x likewise, and the multiplication.
macro_rules! float_dot {
    ($name:ident, $phases:literal, $words:ty, |$word:ident, $phase:ident| $value:expr, |$x:ident| $row:expr, |$acc:ident, $w:ident, $v:ident| $dot:expr) => {
        struct $name;

        impl Dot for $name {
            type Acc = __m512;
            type Words = $words;
            type X = $words;
            const LANES: usize = 16;
            const PHASES: usize = $phases;

            #[inline(always)]
            unsafe fn zero() -> __m512 {
                // SAFETY: the CPU has AVX-512 F.
                unsafe { _mm512_setzero_ps() }
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> __m512 {
                // SAFETY: the caller lets a line be read; it is aligned to 64 bytes.
                unsafe { _mm512_load_ps(from.cast()) }
            }

            #[inline(always)]
            unsafe fn store(acc: __m512, to: *mut u32) {
                // SAFETY: the caller lets a line be written; it is aligned to 64 bytes.
                unsafe { _mm512_store_ps(to.cast(), acc) }
            }

            #[inline(always)]
            unsafe fn words(from: *const u32, $phase: usize) -> $words {
                // SAFETY: the caller lets a line be read; it is aligned to 64 bytes. The CPU has AVX-512 F.
                unsafe {
                    let $word = _mm512_load_si512(from.cast());
                    $value
                }
            }

            #[inline(always)]
            unsafe fn x(from: *const u32) -> $words {
                // SAFETY: the caller lets it be read. The CPU has AVX-512 F.
                unsafe {
                    let $x = _mm512_set1_epi32(from.cast::<i32>().read());
                    $row
                }
            }

            #[inline(always)]
            unsafe fn dot($acc: __m512, $w: $words, $v: $words) -> __m512 {
                // SAFETY: the CPU has the instruction.
                unsafe { $dot }
            }
        }
    };
}

float_dot!(F32, 1, __m512, |word, _phase| _mm512_castsi512_ps(word), |x| _mm512_castsi512_ps(x), |acc, w, x| {
    _mm512_fmadd_ps(w, x, acc)
});
float_dot!(
    Bf16,
    2,
    __m512,
    |word, phase| _mm512_castsi512_ps(if phase == 0 {
        _mm512_slli_epi32::<16>(word)
    } else {
        _mm512_and_si512(word, _mm512_set1_epi32(-0x1_0000))
    }),
    |x| _mm512_castsi512_ps(x),
    |acc, w, x| _mm512_fmadd_ps(w, x, acc)
);
// Number `phase`, moved to the top and from there to the bottom.
float_dot!(
    WideInt8,
    4,
    __m512,
    |word, phase| {
        let top = _mm512_sllv_epi32(word, _mm512_set1_epi32(24 - 8 * phase as i32));
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(top))
    },
    |x| _mm512_castsi512_ps(x),
    |acc, w, x| _mm512_fmadd_ps(w, x, acc)
);
float_dot!(
    WideInt4,
    8,
    __m512,
    |word, phase| {
        let top = _mm512_sllv_epi32(word, _mm512_set1_epi32(28 - 4 * phase as i32));
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<28>(top))
    },
    |x| _mm512_castsi512_ps(x),
    |acc, w, x| _mm512_fmadd_ps(w, x, acc)
);
float_dot!(
    Bf16Dot,
    1,
    __m512bh,
    |word, _phase| std::mem::transmute::<__m512i, __m512bh>(word),
    |x| std::mem::transmute::<__m512i, __m512bh>(x),
    |acc, w, x| _mm512_dpbf16_ps(acc, w, x)
);

/// Accumulators of int32, how words become what is multiplied, and the multiplication.
macro_rules! int_dot {
    ($name:ident, $phases:literal, |$word:ident, $phase:ident| $value:expr, |$acc:ident, $w:ident, $v:ident| $dot:expr) => {
        struct $name;

        impl Dot for $name {
            type Acc = __m512i;
            type Words = __m512i;
            type X = __m512i;
            const LANES: usize = 16;
            const PHASES: usize = $phases;

            #[inline(always)]
            unsafe fn zero() -> __m512i {
                // SAFETY: the CPU has AVX-512 F.
                unsafe { _mm512_setzero_si512() }
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> __m512i {
                // SAFETY: the caller lets a line be read; it is aligned to 64 bytes.
                unsafe { _mm512_load_si512(from.cast()) }
            }

            #[inline(always)]
            unsafe fn store(acc: __m512i, to: *mut u32) {
                // SAFETY: the caller lets a line be written; it is aligned to 64 bytes.
                unsafe { _mm512_store_si512(to.cast(), acc) }
            }

            #[inline(always)]
            unsafe fn words(from: *const u32, $phase: usize) -> __m512i {
                // SAFETY: the caller lets a line be read; it is aligned to 64 bytes. The CPU has AVX-512 BW.
                unsafe {
                    let $word = _mm512_load_si512(from.cast());
                    $value
                }
            }

            #[inline(always)]
            unsafe fn x(from: *const u32) -> __m512i {
                // SAFETY: the caller lets it be read. The CPU has AVX-512 F.
                unsafe { _mm512_set1_epi32(from.cast::<i32>().read()) }
            }

            #[inline(always)]
            unsafe fn dot($acc: __m512i, $w: __m512i, $v: __m512i) -> __m512i {
                // SAFETY: the CPU has the instructions.
                unsafe { $dot }
            }
        }
    };
}

// Of four int8 a b c d: a and c as int16, then b and d.
int_dot!(
    Int8,
    2,
    |word, phase| _mm512_srai_epi16::<8>(if phase == 0 { _mm512_slli_epi16::<8>(word) } else { word }),
    |acc, w, x| add_in_order(acc, _mm512_madd_epi16(w, x))
);
int_dot!(Int8Dot, 1, |word, _phase| word, |acc, w, x| _mm512_dpbusd_epi32(acc, w, x));
// The even ones of eight unsigned numbers of 4 bits as bytes, then the odd ones. Two products fit int16.
int_dot!(Int4, 2, |word, phase| halves(word, phase), |acc, w, x| {
    add_in_order(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1)))
});
int_dot!(Int4Dot, 2, |word, phase| halves(word, phase), |acc, w, x| _mm512_dpbusd_epi32(acc, w, x));

/// The lower halves of bytes, or the upper ones.
#[target_feature(enable = "avx512f")]
#[inline]
fn halves(word: __m512i, phase: usize) -> __m512i {
    let word = if phase == 0 { word } else { _mm512_srli_epi32::<4>(word) };
    _mm512_and_si512(word, _mm512_set1_epi32(LOW_HALVES.cast_signed()))
}

/// The sum, in just this order: compilers would choose another, for which there are not enough registers.
#[target_feature(enable = "avx512f")]
#[inline]
fn add_in_order(a: __m512i, b: __m512i) -> __m512i {
    let mut sum = _mm512_add_epi32(a, b);
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(zmm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}
