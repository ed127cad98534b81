//! The loop that all micro-kernels are, over the few vector operations in which they differ ([`Dot`]), and the packing that
//! compilers vectorise by themselves.

#[cfg(target_arch = "x86_64")]
use super::{Columns, PIECE, Piece};
use super::{Job, Line, PANEL, Weave, Words};

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
pub(super) unsafe fn tile<D: Dot, const R: usize, const V: usize>(job: &Job) {
    // SAFETY: the caller's promise.
    unsafe { run::<D, R, V>(job, job.steps, job.w_stride, |_, _| job.w) }
}

/// A job of `R` rows and the columns of panels where they lie: lines are made of one piece of them at a time by `transpose`, which
/// gets the number of panels and where to write, [`PIECE`] lines from one panel to the next.
///
/// # Safety
/// As [`super::Kernel::stream`]; inlined where the instructions are enabled.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn stream<D: Dot, const R: usize, const V: usize>(
    job: &Job,
    columns: &Columns,
    transpose: impl Fn(&Piece, usize, *mut Line),
) {
    const { assert!(V * D::LANES <= MOST_PANELS * PANEL) };
    let mut room = [[Line([0; PANEL]); PIECE]; MOST_PANELS];
    let &Columns { mut from, stride, piece, next, ahead } = columns;
    let panels = V * D::LANES / PANEL;
    // What follows the last piece is the first of the panels after these.
    let pieces = job.steps.div_ceil(piece);
    let wrap = (panels * PANEL * stride).wrapping_sub(pieces.wrapping_mul(next));
    let mut at = 0;
    let lines = |_, count: usize| {
        at += 1;
        let fetched = (ahead * next).wrapping_add(if at + ahead > pieces { wrap } else { 0 });
        transpose(&Piece { from, stride, words: count, ahead: fetched }, panels, room.as_mut_ptr().cast());
        from = from.wrapping_add(next);
        room.as_ptr().cast()
    };
    // SAFETY: the caller's promise; there is room for as many lines as are asked for.
    unsafe { run::<D, R, V>(job, piece.min(PIECE), PIECE, lines) }
}

/// Panels of a streamed job, at most.
#[cfg(target_arch = "x86_64")]
const MOST_PANELS: usize = 4;

/// A job of which `panels` gives `lines` lines at a time, `stride` lines from one panel to the next: those from a step on, and how
/// many at most.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn run<D: Dot, const R: usize, const V: usize>(
    job: &Job,
    lines: usize,
    stride: usize,
    mut panels: impl FnMut(usize, usize) -> *const Line,
) {
    let per_panel = const { PANEL / D::LANES };
    let column = |v: usize| (v / per_panel, v % per_panel * D::LANES);
    // SAFETY: the caller lets every word of the job be read and every accumulator be written.
    unsafe {
        let acc_at = |r: usize, v: usize| {
            let (panel, lane) = column(v);
            job.acc.add(r * job.acc_stride + panel).cast::<u32>().add(lane)
        };
        let mut acc = [[D::zero(); V]; R];
        if !job.fresh {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = D::load(acc_at(r, v));
                }
            }
        }
        let mut x = job.x;
        let mut w = job.w;
        let mut left = 0;
        for step in 0..job.steps {
            if left == 0 {
                left = lines.min(job.steps - step);
                w = panels(step, left);
            }
            left -= 1;
            for phase in 0..D::PHASES {
                let words = |v: usize| {
                    let (panel, lane) = column(v);
                    D::words(w.add(panel * stride).cast::<u32>().add(lane), phase)
                };
                let row = |r: usize| D::x(x.add(r * job.x_stride + phase * D::X_WORDS));
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
        unsafe fn $name(job: &$crate::simd::Job) {
            use $crate::simd::{PANEL, tile::{Dot, tile}};
            const LANES: usize = <$dot as Dot>::LANES;
            match (job.panels, job.rows) {
                // SAFETY: the caller's promise; the instructions are enabled here.
                $($(($panels, $rows) => unsafe { tile::<$dot, $rows, { $panels * PANEL / LANES }>(job) },)*)*
                _ => debug_assert!(false, "no tile for {job:?}"),
            }
        }
    };
}
pub(super) use entry;

/// A function of this name that runs a job with the instance of [`stream`] for its rows and panels; `transpose` makes
/// lines of a piece of the columns of some panels, [`PIECE`] lines a panel.
#[cfg(target_arch = "x86_64")]
macro_rules! stream_entry {
    (
        $name:ident, $features:literal, $transpose:expr, $dot:ty,
        [$($panels:literal: $($rows:literal)*),*]
    ) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(job: &$crate::simd::Job, columns: &$crate::simd::Columns) {
            use $crate::simd::{Line, PANEL, Piece, tile::{Dot, stream}};
            const LANES: usize = <$dot as Dot>::LANES;
            // SAFETY: the caller's promise; the instructions are enabled here.
            let transpose = |piece: &Piece, panels, to: *mut Line| unsafe { $transpose(piece, panels, to) };
            match (job.panels, job.rows) {
                // SAFETY: as above.
                $($(($panels, $rows) => unsafe {
                    stream::<$dot, $rows, { $panels * PANEL / LANES }>(job, columns, transpose)
                },)*)*
                _ => debug_assert!(false, "no stream for {job:?}"),
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use stream_entry;

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

/// [`super::Transpose`] word by word, from word `start` on.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn transpose_from(
    start: usize,
    from: *const u8,
    stride: usize,
    words: usize,
    flip: u32,
    to: *mut Line,
) {
    for step in start..words {
        for n in 0..PANEL {
            // SAFETY: the caller lets `words` words of 16 columns be read and as many lines be written.
            unsafe { (*to.add(step)).0[n] = from.add(n * stride).cast::<u32>().add(step).read_unaligned() ^ flip }
        }
    }
}
