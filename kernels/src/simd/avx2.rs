//! Micro-kernels for x86-64 with AVX2, FMA and F16C.
//!
//! bf16 is widened by a shift, so its products and sums are those of f32: one fused multiply-add for each k, ascending. int8 is
//! widened to int16; the sum of two products of int8 fits int32 with room, so `vpmaddwd` is exact for all values. int4 is made
//! unsigned, so that `vpmaddubsw` takes it; the sum of four of its products fits int16.

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2_floats::{bf16_in_place, wide_int4_in_place, wide_int8_in_place};
use super::avx2_rows::{int4_in_place, int8_in_place, vector_interleave};
use super::tile::{Dot, LOW_HALVES, entry, transpose_words};
use super::x86_columns::{int4_columns, int8_columns};
use super::{Job, Kernel, LINE_BYTES, PIECE, Rows, RowsKernel, Turn, Words, fetch};

/// For 1 to 6 rows, panels of a register tile: at most 12 of the 16 registers are accumulators.
const PANELS: &[usize] = &[4, 2, 1, 1, 1, 1];

/// What each word of int4 is XORed with to be `w + 8`.
pub(super) const NOT_NEGATIVE: u32 = 0x8888_8888;

/// Of int4, whose words and rows take two registers each.
const INT4_PANELS: &[usize] = &[4, 1, 1, 1];

pub(super) const BF16_ROWS: RowsKernel =
    RowsKernel { run: bf16_in_place, wide: &[4, 2, 1, 1, 1, 1], most_of_blocks: 12, most_of_lines: 2 };
pub(super) const INT8_ROWS: RowsKernel =
    RowsKernel { run: int8_in_place, wide: &[2, 1], most_of_blocks: 8, most_of_lines: 2 };
pub(super) const INT4_ROWS: RowsKernel = RowsKernel { run: int4_in_place, most_of_blocks: 4, ..INT8_ROWS };
pub(super) const WIDE_INT8_ROWS: RowsKernel =
    RowsKernel { run: wide_int8_in_place, wide: &[2, 1], most_of_blocks: 6, most_of_lines: 3 };
pub(super) const WIDE_INT4_ROWS: RowsKernel = RowsKernel { run: wide_int4_in_place, ..WIDE_INT8_ROWS };

pub(super) fn kernel(words: Words) -> &'static Kernel {
    static F32: Kernel = of(Words::F32, Rows::F32, multiply_f32);
    static BF16: Kernel = Kernel {
        rows_in_place: Some(BF16_ROWS),
        of_numbers: Some(mixed_kernel),
        ..of(Words::Bf16, Rows::F32, multiply_bf16)
    };
    static INT8: Kernel = Kernel {
        rows_in_place: Some(INT8_ROWS),
        columns_in_place: Some(int8_columns),
        ..of(Words::Int8, Rows::Int16, multiply_int8)
    };
    static INT4: Kernel = Kernel {
        flip: NOT_NEGATIVE,
        excess: 8,
        panels: INT4_PANELS,
        rows_in_place: Some(INT4_ROWS),
        columns_in_place: Some(int4_columns),
        ..of(Words::Int4, Rows::EvenOdd, multiply_int4)
    };
    match words {
        Words::F32 => &F32,
        Words::Bf16 => &BF16,
        Words::Int8 => &INT8,
        Words::Int4 => &INT4,
    }
}

/// For rows of f32.
pub(super) fn mixed_kernel(words: Words) -> &'static Kernel {
    static INT8: Kernel =
        Kernel { rows_in_place: Some(WIDE_INT8_ROWS), ..of(Words::Int8, Rows::F32, multiply_wide_int8) };
    static INT4: Kernel =
        Kernel { rows_in_place: Some(WIDE_INT4_ROWS), ..of(Words::Int4, Rows::F32, multiply_wide_int4) };
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

entry!(multiply_f32, "avx2,fma,f16c", F32, [1: 1 2 3 4 5 6, 2: 2, 4: 1]);
entry!(multiply_bf16, "avx2,fma,f16c", Bf16, [1: 1 2 3 4 5 6, 2: 2, 4: 1]);
entry!(multiply_int8, "avx2,fma,f16c", Int8, [1: 1 2 3 4 5 6, 2: 2, 4: 1]);
entry!(multiply_int4, "avx2,fma,f16c", Int4, [1: 1 2 3 4, 4: 1]);
entry!(multiply_wide_int8, "avx2,fma,f16c", WideInt8, [1: 1 2 3 4 5 6, 2: 2, 4: 1]);
entry!(multiply_wide_int4, "avx2,fma,f16c", WideInt4, [1: 1 2 3 4 5 6, 2: 2, 4: 1]);

/// [`Turn`]. Of whole pieces a line of the cache of some columns at a time: as many as there is room for where the stride is a large
/// power of 2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn transpose(turn: &Turn) {
    let whole = turn.words / turn.piece;
    // SAFETY: the caller's promise, of parts of what it promised.
    unsafe {
        match turn.piece {
            PIECE if turn.stride.is_multiple_of(L1_WAY) => transpose_fours(turn, whole),
            PIECE => transpose_eights::<PIECE>(turn, whole),
            HALF_PIECE => transpose_eights::<HALF_PIECE>(turn, whole),
            _ => return transpose_words(turn),
        }
        let rest = turn.after(whole * turn.piece);
        let fours = Turn { piece: 4, next: 16, ahead: 0, ..rest };
        transpose_eights::<4>(&fours, rest.words / 4);
        transpose_words(&fours.after(rest.words & !3));
    }
}

/// Bytes of a way of the first cache: columns at this distance share its lines.
const L1_WAY: usize = 4096;

/// Words of half a line of the cache: a block of FRACTAL_NZ.
const HALF_PIECE: usize = PIECE / 2;

/// The first pieces, of `WORDS` words, a multiple of 4: 4 words of 8 columns at a time.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)] // or else the addresses of all forms are worked out for each
unsafe fn transpose_eights<const WORDS: usize>(turn: &Turn, pieces: usize) {
    let &Turn { stride, panels, next, flip, ahead, to, to_stride, .. } = turn;
    let mask = _mm256_set1_epi32(flip.cast_signed());
    for piece in 0..pieces {
        let mut from = turn.from.wrapping_add(piece * next);
        for half in 0..2 * panels {
            let to = to.wrapping_add(half / 2 * to_stride + piece * WORDS).cast::<__m256i>().wrapping_add(half % 2);
            fetch_columns::<8>(from, stride, ahead);
            for step in 0..WORDS / 4 {
                // SAFETY: the caller lets all words of 16 columns of each panel be read and as many lines be written.
                unsafe {
                    let column = |i: usize| from.add(i * stride).cast::<__m128i>().add(step);
                    // Columns 4 apart share a vector, which spares exchanging halves of vectors afterwards.
                    let load = |i: usize| _mm256_loadu2_m128i(column(i + 4), column(i));
                    for (i, line) in transpose_4x4([load(0), load(1), load(2), load(3)]).into_iter().enumerate() {
                        _mm256_store_si256(to.add(2 * (4 * step + i)), _mm256_xor_si256(line, mask));
                    }
                }
            }
            from = from.wrapping_add(8 * stride);
        }
    }
}

/// The first pieces, of [`PIECE`] words: 8 words of 4 columns at a time. Fewer lines of the first cache are in use, and more is
/// written.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)] // as above
unsafe fn transpose_fours(turn: &Turn, pieces: usize) {
    let &Turn { stride, panels, next, flip, ahead, to, to_stride, .. } = turn;
    let mask = _mm256_set1_epi32(flip.cast_signed());
    for piece in 0..pieces {
        let mut from = turn.from.wrapping_add(piece * next);
        for quarter in 0..4 * panels {
            let to =
                to.wrapping_add(quarter / 4 * to_stride + piece * PIECE).cast::<__m128i>().wrapping_add(quarter % 4);
            fetch_columns::<4>(from, stride, ahead);
            for step in 0..PIECE / 8 {
                // SAFETY: the caller lets all words of 16 columns of each panel be read and as many lines be written.
                unsafe {
                    let load = |i: usize| _mm256_loadu_si256(from.add(i * stride).cast::<__m256i>().add(step));
                    for (i, line) in transpose_4x4([load(0), load(1), load(2), load(3)]).into_iter().enumerate() {
                        let line = _mm256_xor_si256(line, mask);
                        let to = to.add(4 * (8 * step + i));
                        _mm_store_si128(to, _mm256_castsi256_si128(line));
                        _mm_store_si128(to.add(4 * 4), _mm256_extracti128_si256::<1>(line));
                    }
                }
            }
            from = from.wrapping_add(4 * stride);
        }
    }
}

/// Fetches a line of the cache of some columns, `ahead` bytes from what is read, unless that is 0.
#[inline(always)]
fn fetch_columns<const COLUMNS: usize>(from: *const u8, stride: usize, ahead: usize) {
    // The end of a line's bytes: where they are not aligned, the rest is in the line before.
    let end = from.wrapping_add(LINE_BYTES - 1).wrapping_add(ahead);
    if ahead == 0 {
    } else if stride > LINE_BYTES / 2 {
        (0..COLUMNS).for_each(|i| fetch(end.wrapping_add(i * stride)));
    } else {
        (0..COLUMNS / 2).for_each(|i| fetch(end.wrapping_add(2 * i * stride)));
    }
}

/// In each half, 4 words of 4 columns.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn transpose_4x4([r0, r1, r2, r3]: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a0, a1) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
        let (a2, a3) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
        let low = |a, b| _mm256_unpacklo_epi64(a, b);
        let high = |a, b| _mm256_unpackhi_epi64(a, b);
        [low(a0, a2), high(a0, a2), low(a1, a3), high(a1, a3)]
    }
}

/// 8 words of a line; from memory in each phase, since the registers are needed for accumulators and compilers would rather keep
/// the words.
///
/// # Safety
/// The words can be read, and are the first or second half of a line.
#[inline(always)]
unsafe fn load_words(from: *const u32, phase: usize) -> __m256i {
    let from = from.cast::<__m256i>();
    // SAFETY: the caller's promise; half a line is aligned to 32 bytes.
    unsafe { if phase == 0 { from.read() } else { from.read_volatile() } }
}

/// Accumulators of f32 and how a part of the words becomes f32.
macro_rules! float_dot {
    ($name:ident, $phases:literal, |$word:ident, $phase:ident| $value:expr) => {
        struct $name;

        impl Dot for $name {
            type Acc = __m256;
            type Words = __m256;
            type X = __m256;
            const LANES: usize = 8;
            const PHASES: usize = $phases;

            #[inline(always)]
            unsafe fn zero() -> __m256 {
                // SAFETY: the CPU has AVX.
                unsafe { _mm256_setzero_ps() }
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> __m256 {
                // SAFETY: the caller lets 8 words be read; half a line is aligned to 32 bytes.
                unsafe { _mm256_load_ps(from.cast()) }
            }

            #[inline(always)]
            unsafe fn store(acc: __m256, to: *mut u32) {
                // SAFETY: the caller lets 8 words be written; half a line is aligned to 32 bytes.
                unsafe { _mm256_store_ps(to.cast(), acc) }
            }

            #[inline(always)]
            unsafe fn words(from: *const u32, $phase: usize) -> __m256 {
                // SAFETY: the caller lets 8 words be read; half a line is aligned to 32 bytes. The CPU has AVX2.
                unsafe {
                    let $word = load_words(from, $phase);
                    $value
                }
            }

            #[inline(always)]
            unsafe fn x(from: *const u32) -> __m256 {
                // SAFETY: the caller lets it be read.
                unsafe { _mm256_broadcast_ss(&*from.cast()) }
            }

            #[inline(always)]
            unsafe fn dot(acc: __m256, w: __m256, x: __m256) -> __m256 {
                // SAFETY: the CPU has FMA.
                unsafe { add_product(acc, w, x) }
            }
        }
    };
}

float_dot!(F32, 1, |word, _phase| _mm256_castsi256_ps(word));
float_dot!(Bf16, 2, |word, phase| _mm256_castsi256_ps(if phase == 0 {
    _mm256_slli_epi32::<16>(word)
} else {
    _mm256_and_si256(word, _mm256_set1_epi32(-0x1_0000))
}));
// Number `phase`, moved to the top and from there to the bottom.
float_dot!(WideInt8, 4, |word, phase| {
    let top = _mm256_sllv_epi32(word, _mm256_set1_epi32(24 - 8 * phase as i32));
    _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(top))
});
float_dot!(WideInt4, 8, |word, phase| {
    let top = _mm256_sllv_epi32(word, _mm256_set1_epi32(28 - 4 * phase as i32));
    _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(top))
});

/// Accumulators of int32, how words become what is multiplied, words of x likewise, and the multiplication.
macro_rules! int_dot {
    (
        $name:ident, $phases:literal, $x_words:literal, $part:ty,
        |$word:ident, $phase:ident| $value:expr, |$from:ident| $x:expr, |$w:ident, $v:ident| $dot:expr
    ) => {
        struct $name;

        impl Dot for $name {
            type Acc = __m256i;
            type Words = $part;
            type X = $part;
            const LANES: usize = 8;
            const PHASES: usize = $phases;
            const X_WORDS: usize = $x_words;

            #[inline(always)]
            unsafe fn zero() -> __m256i {
                // SAFETY: the CPU has AVX.
                unsafe { _mm256_setzero_si256() }
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> __m256i {
                // SAFETY: the caller lets 8 words be read; half a line is aligned to 32 bytes.
                unsafe { _mm256_load_si256(from.cast()) }
            }

            #[inline(always)]
            unsafe fn store(acc: __m256i, to: *mut u32) {
                // SAFETY: the caller lets 8 words be written; half a line is aligned to 32 bytes.
                unsafe { _mm256_store_si256(to.cast(), acc) }
            }

            #[inline(always)]
            unsafe fn words(from: *const u32, $phase: usize) -> $part {
                // SAFETY: the caller lets 8 words be read; half a line is aligned to 32 bytes. The CPU has AVX2.
                unsafe {
                    let $word = load_words(from, $phase);
                    $value
                }
            }

            #[inline(always)]
            unsafe fn x(from: *const u32) -> $part {
                let $from = from.cast::<i32>();
                // SAFETY: the caller lets the words be read. The CPU has AVX.
                unsafe { $x }
            }

            #[inline(always)]
            unsafe fn dot(acc: __m256i, $w: $part, $v: $part) -> __m256i {
                // SAFETY: the CPU has AVX2.
                unsafe { add_in_order(acc, $dot) }
            }
        }
    };
}

// Of four int8 a b c d: a and c as int16, then b and d.
int_dot!(
    Int8,
    2,
    1,
    __m256i,
    |words, phase| _mm256_srai_epi16::<8>(if phase == 0 { _mm256_slli_epi16::<8>(words) } else { words }),
    |from| _mm256_set1_epi32(from.read()),
    |w, x| _mm256_madd_epi16(w, x)
);
// The even ones of eight unsigned numbers of 4 bits as bytes, and the odd ones. Four products fit int16.
int_dot!(
    Int4,
    1,
    2,
    [__m256i; 2],
    |words, _phase| {
        let halves = _mm256_set1_epi32(LOW_HALVES.cast_signed());
        [_mm256_and_si256(words, halves), _mm256_and_si256(_mm256_srli_epi32::<4>(words), halves)]
    },
    |from| [_mm256_set1_epi32(from.read()), _mm256_set1_epi32(from.add(1).read())],
    |w, x| {
        let four = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], x[0]), _mm256_maddubs_epi16(w[1], x[1]));
        _mm256_madd_epi16(four, _mm256_set1_epi16(1))
    }
);

/// `acc + w * x` in the register of `acc`: compilers would take that of `w`, and run out of registers.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) fn add_product(mut acc: __m256, w: __m256, x: __m256) -> __m256 {
    // SAFETY: the CPU has the instruction, which touches these registers alone.
    unsafe {
        asm!(
            "vfmadd231ps {0}, {1}, {2}", inout(ymm_reg) acc, in(ymm_reg) w, in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// The sum, in just this order: compilers would choose another, for which there are not enough registers.
#[target_feature(enable = "avx2")]
#[inline]
fn add_in_order(a: __m256i, b: __m256i) -> __m256i {
    let mut sum = _mm256_add_epi32(a, b);
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}
