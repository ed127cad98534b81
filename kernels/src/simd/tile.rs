//! The loop that all micro-kernels are, over the few vector operations in which they differ ([`Dot`]), and the packing that
//! compilers vectorise by themselves.

use super::{Ahead, Job, Line, PANEL, Panels, Turn, Weave, Words};

/// The vector operations of a micro-kernel.
///
/// The functions are safe to call only where the CPU has the instructions, and pointers must be good for as much as a vector holds;
/// they are inlined into a function that enables the instructions.
pub(super) trait Dot {
    /// Accumulators of [`LANES`](Self::LANES) columns.
    type Acc: Copy;
    /// Words of as many columns.
    type Words: Copy;
    /// Words of x, for all of them.
    type X: Copy;
    /// Columns of a vector; divides [`PANEL`].
    const LANES: usize;
    /// How many parts of a word of a column are multiplied one after the other.
    const PHASES: usize;
    /// Words of x that go with each part.
    const X_WORDS: usize = 1;

    /// Accumulators of 0.
    unsafe fn zero() -> Self::Acc;
    /// Accumulators from memory.
    unsafe fn load(from: *const u32) -> Self::Acc;
    /// Accumulators to memory.
    unsafe fn store(acc: Self::Acc, to: *mut u32);
    /// Part `phase` of the words.
    unsafe fn words(from: *const u32, phase: usize) -> Self::Words;
    /// What goes with a part, of x.
    unsafe fn x(from: *const u32) -> Self::X;
    /// `acc + w * x`.
    unsafe fn dot(acc: Self::Acc, w: Self::Words, x: Self::X) -> Self::Acc;
}

/// A job of `R` rows and `V` vectors of columns, with all accumulators in registers.
///
/// # Safety
/// As [`super::Kernel::multiply`], for these rows and as many panels as the vectors make; inlined where the instructions are
/// enabled.
#[inline(always)]
pub(super) unsafe fn tile<D: Dot, const R: usize, const V: usize>(job: &mut Job<'_>) {
    let per_panel = const { PANEL / D::LANES };
    let column = |v: usize| (v / per_panel, v % per_panel * D::LANES);
    let &mut Job { x_stride, w_stride, acc: first, acc_stride, .. } = job;
    // SAFETY: the caller lets every word of the job be read and every accumulator be written.
    unsafe {
        let acc_at = |r: usize, v: usize| {
            let (panel, lane) = column(v);
            first.add(r * acc_stride + panel).cast::<u32>().add(lane)
        };
        let mut acc = [[D::zero(); V]; R];
        if !job.fresh {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = D::load(acc_at(r, v));
                }
            }
        }
        let (mut x, mut steps) = (job.x, job.steps);
        while steps > 0 {
            let (mut w, made) = match &mut job.w {
                Panels::Made(w) => (*w, steps),
                Panels::Fed { most, make } => {
                    let made = steps.min(*most);
                    (make(made), made)
                }
            };
            let mut left = made;
            while left > 0 {
                let some = left.min(Ahead::STEPS);
                job.ahead.fetch();
                for _ in 0..some {
                    for phase in 0..D::PHASES {
                        let words = |v: usize| {
                            let (panel, lane) = column(v);
                            D::words(w.add(panel * w_stride).cast::<u32>().add(lane), phase)
                        };
                        let row = |r: usize| D::x(x.add(r * x_stride + phase * D::X_WORDS));
                        // The fewer are held, the others come one by one.
                        if V <= R {
                            let mut held = [words(0); V];
                            (1..V).for_each(|v| held[v] = words(v));
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let x = row(r);
                                for (acc, words) in acc.iter_mut().zip(held) {
                                    *acc = D::dot(*acc, words, x);
                                }
                            }
                        } else {
                            let mut held = [row(0); R];
                            (1..R).for_each(|r| held[r] = row(r));
                            for v in 0..V {
                                let words = words(v);
                                for (acc, x) in acc.iter_mut().zip(held) {
                                    acc[v] = D::dot(acc[v], words, x);
                                }
                            }
                        }
                    }
                    x = x.add(D::PHASES * D::X_WORDS);
                    w = w.add(1);
                }
                left -= some;
            }
            steps -= made;
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                D::store(*acc, acc_at(r, v));
            }
        }
    }
}

/// A function of this name and these features that runs a job with the instance of [`tile`] for its rows and panels.
macro_rules! entry {
    ($name:ident, $($features:literal,)? $dot:ty, [$($panels:literal: $($rows:literal)*),*]) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(job: &mut $crate::simd::Job<'_>) {
            use $crate::simd::{PANEL, tile::{Dot, tile}};
            const LANES: usize = <$dot as Dot>::LANES;
            match (job.panels, job.rows) {
                // SAFETY: the caller's promise; the instructions are enabled here.
                $($(($panels, $rows) => unsafe { tile::<$dot, $rows, { $panels * PANEL / LANES }>(job) },)*)*
                tile => debug_assert!(false, "no tile of {tile:?} panels and rows"),
            }
        }
    };
}
pub(super) use entry;

/// The lower half of each byte.
pub(super) const LOW_HALVES: u32 = 0x0f0f_0f0f;

/// [`Weave`] in plain steps, vectorised where it is inlined.
///
/// # Safety
/// All elements can be read, all lines written.
#[inline(always)]
pub(super) unsafe fn interleave(weave: &Weave) {
    let &Weave { words, stride, flip, .. } = weave;
    // SAFETY: the caller's promise: 16 elements of every row can be read.
    unsafe {
        match words {
            Words::F32 => lines(weave, |rows| rows.cast::<[u32; PANEL]>().read_unaligned()),
            Words::Bf16 => lines(weave, |rows| {
                let [low, high] = [0, 1].map(|i| rows.add(i * stride).cast::<[u16; PANEL]>().read_unaligned());
                std::array::from_fn(|n| (u32::from(low[n]) | u32::from(high[n]) << 16) ^ flip)
            }),
            Words::Int8 => lines(weave, |rows| {
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| rows.add(i * stride).cast::<[u8; PANEL]>().read_unaligned());
                std::array::from_fn(|n| u32::from_le_bytes([a[n], b[n], c[n], d[n]]) ^ flip)
            }),
            Words::Int4 => lines(weave, |rows| {
                let [a, b, c, d, e, f, g, h] =
                    [0, 1, 2, 3, 4, 5, 6, 7].map(|i| rows.add(i * stride).cast::<[u8; PANEL / 2]>().read_unaligned());
                let mut line = [0; PANEL];
                for (n, pair) in line.as_chunks_mut().0.iter_mut().enumerate() {
                    // In each byte the numbers of two columns.
                    let even = u32::from_le_bytes([a[n], c[n], e[n], g[n]]);
                    let odd = u32::from_le_bytes([b[n], d[n], f[n], h[n]]);
                    let low = even & LOW_HALVES | (odd & LOW_HALVES) << 4;
                    let high = even >> 4 & LOW_HALVES | odd & !LOW_HALVES;
                    *pair = [low ^ flip, high ^ flip];
                }
                line
            }),
        }
    }
}

/// Writes what `line` makes of the rows of each line, from their first address on.
///
/// # Safety
/// As [`interleave`].
#[inline(always)]
unsafe fn lines(weave: &Weave, line: impl Fn(*const u8) -> [u32; PANEL]) {
    let rows = weave.words.step() * weave.stride;
    for panel in 0..weave.panels {
        let from = weave.from.wrapping_add(panel * PANEL * weave.words.bits() / 8);
        let to = weave.to.wrapping_add(panel * weave.to_stride);
        for step in 0..weave.steps {
            // SAFETY: the caller's promise.
            unsafe { to.add(step).write(Line(line(from.wrapping_add(step * rows)))) }
        }
    }
}

/// [`Turn`] word by word.
///
/// # Safety
/// All words can be read, all lines written.
#[inline(always)]
pub(super) unsafe fn transpose_words(turn: &Turn) {
    let &Turn { from, stride, piece, next, .. } = turn;
    for panel in 0..turn.panels {
        for word in 0..turn.words {
            let from = from.wrapping_add(panel * PANEL * stride + word / piece * next + word % piece * 4);
            for n in 0..PANEL {
                // SAFETY: the caller's promise.
                unsafe {
                    (*turn.to.add(panel * turn.to_stride + word)).0[n] =
                        from.add(n * stride).cast::<u32>().read_unaligned() ^ turn.flip;
                }
            }
        }
    }
}
