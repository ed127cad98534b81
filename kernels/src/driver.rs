//! What all GEMMs share: dividing products into parts for threads, and the accumulators of one part.
//!
//! Parts are rows and columns, never K: every accumulator is one chain of operations along K that depends on nothing else, not on
//! the part it is in, the other rows, or how the weight lies. So results are the same bits for any number of threads and any
//! grouping of rows. The parts of a batch are of like work, however unlike its products are.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use crate::pack::{Activations, MAX_PANELS, Source, ahead, pack_panels};
use crate::simd::{Job, Kernel, Line, PANEL, Panels, STEPS};
use crate::stream::stream;
use crate::view::MatMut;

/// Rows of a part, at most.
const MAX_ROWS: usize = 240;
/// Accumulators of a part, at most: with its rows of x they stay in the second cache.
const MAX_SIZE: usize = 128 * 1024;
/// Columns of a part are a multiple of this, but for the last.
const COLUMNS: usize = 64;
/// Parts for each thread.
const PARTS: usize = 8;
/// What packing a column costs, in rows.
const PACKING: usize = 4;
/// Words of x that are made at a time, at most, but for those of one block of K.
const X_WORDS: usize = 96 * 1024;
/// Words between rows of x, lest they fall on the same lines of the cache.
const X_GAP: usize = 16;

/// Some rows and columns of one product of a batch.
#[derive(Debug)]
pub(crate) struct Part<'o, O> {
    /// Which product.
    pub(crate) product: usize,
    /// Its rows, from 0.
    pub(crate) rows: Range<usize>,
    /// Its columns.
    pub(crate) cols: Range<usize>,
    /// Its outputs.
    pub(crate) out: MatMut<'o, O>,
}

/// Runs `work` on parts of outputs `[M, N]`, each given with its K, in parallel.
pub(crate) fn in_parts<O: Copy + Send>(
    products: Vec<(usize, MatMut<'_, O>)>,
    work: impl Fn(Part<'_, O>, &mut Scratch) + Sync,
) {
    let cost = |k: usize, rows: usize| (k + 1).saturating_mul(rows + PACKING);
    let all: usize = products.iter().map(|(k, out)| cost(*k, out.rows()).saturating_mul(out.cols())).sum();
    let share = all / (PARTS * rayon::current_num_threads());
    let mut parts = Vec::new();
    for (product, (k, mut rest)) in products.into_iter().enumerate() {
        let mut row = 0;
        while rest.rows() > 0 && rest.cols() > 0 {
            let bands = rest.rows().div_ceil(MAX_ROWS);
            let height = rest.rows().div_ceil(bands);
            let (mut band, after) = rest.split_rows(height);
            let rows = row..row + band.rows();
            let most = (MAX_SIZE / rows.len()).max(COLUMNS);
            let width = (share / cost(k, rows.len())).clamp(COLUMNS, most).next_multiple_of(COLUMNS);
            let mut col = 0;
            while band.cols() > 0 {
                let (out, after) = band.split_cols(width);
                let cols = col..col + out.cols();
                col = cols.end;
                parts.push(Part { product, rows: rows.clone(), cols, out });
                band = after;
            }
            row = rows.end;
            rest = after;
        }
    }
    parts.into_par_iter().with_max_len(1).for_each(|part| {
        // Taken, not borrowed: what `work` calls may come back here on the same thread.
        let mut scratch = SCRATCH.take();
        work(part, &mut scratch);
        SCRATCH.set(scratch);
    });
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// What a part needs besides its operands; kept by each thread from one to the next, so that nothing is allocated after the
/// first of a size.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Accumulators, a line for each row and panel.
    acc: Vec<Line>,
    /// Rows of x.
    x: Vec<u32>,
    /// Panels.
    w: Vec<Line>,
    /// Elements of a panel on their way.
    tile: Vec<u32>,
    /// What accumulators of each row are too great by.
    excess: Vec<i32>,
    /// f32 for whoever runs parts.
    pub(crate) line: Vec<f32>,
}

impl Scratch {
    const fn new() -> Self {
        Self { acc: Vec::new(), x: Vec::new(), w: Vec::new(), tile: Vec::new(), excess: Vec::new(), line: Vec::new() }
    }

    /// `x[rows, ks] @ w[ks, cols]` as accumulators, for [`floats`](Self::floats) or [`ints`](Self::ints).
    pub(crate) fn multiply(
        &mut self,
        kernel: &Kernel,
        x: &impl Activations,
        w: &impl Source,
        rows: Range<usize>,
        cols: Range<usize>,
        ks: Range<usize>,
    ) {
        let panels = cols.len().div_ceil(PANEL);
        let step = kernel.words.step();
        let tiles = rows.len().div_ceil(kernel.panels.len());
        let wide = kernel.panels[rows.len().div_ceil(tiles.max(1)).max(1) - 1];
        let per_step = kernel.x.per_step(kernel.words);
        // Few rows are all made at once: then a weight can be read from end to end. Of many rows, one block of K at a time.
        let x_words = |ks: usize| ks.div_ceil(step) * per_step + X_GAP;
        let at_once = rows.len() * x_words(ks.len()) <= X_WORDS;
        // As many words of as many panels as stay in the first cache while tiles are computed of them.
        let narrow = w.lies().narrow(wide, kernel.words);
        let (group, steps) = match (narrow, at_once) {
            (Some(group), _) => (group, STEPS / group),
            (None, true) => (MAX_PANELS, STEPS / MAX_PANELS),
            (None, false) => (MAX_PANELS / 2, STEPS),
        };
        let block = |start: usize| start..ks.end.min(start.saturating_add(steps * step));
        let x_stride = x_words(if at_once { ks.len() } else { block(ks.start).len() });
        grow(&mut self.acc, rows.len() * panels);
        grow(&mut self.x, rows.len() * x_stride);
        grow(&mut self.w, group * steps);
        self.excess.clear();
        self.excess.resize(rows.len(), 0);
        if ks.is_empty() {
            self.acc[..rows.len() * panels].fill(Line([0; PANEL]));
        }
        let mut pack_x = |room: &mut [u32], ks: Range<usize>| {
            for (row, (to, excess)) in rows.clone().zip(room.chunks_exact_mut(x_stride).zip(&mut self.excess)) {
                let to = &mut to[..x_words(ks.len()) - X_GAP];
                *excess = excess.wrapping_add(x.pack_row(kernel, row, ks.clone(), to));
            }
        };
        if at_once {
            pack_x(&mut self.x, ks.clone());
        }
        // The panels that are done.
        let mut done = 0;
        if at_once && ks.len().is_multiple_of(step) {
            let acc = &mut self.acc[..rows.len() * panels];
            done = stream(kernel, w, (&self.x, x_stride), rows.len(), &cols, &ks, (acc, &mut self.w));
        }
        // The first step of K, the first panel that is made.
        let (mut start, mut first) = (ks.start, done);
        while start < ks.end && first < panels {
            if !at_once && first == 0 {
                pack_x(&mut self.x, block(start));
            }
            let x = if at_once { &self.x[(start - ks.start) / step * per_step..] } else { &self.x };
            let from = cols.start + first * PANEL;
            let packed = from..cols.end.min(from + group * PANEL);
            let count = packed.len().div_ceil(PANEL);
            // Along K first where that is how the weight lies and x is there.
            let (next_start, next_first) = (block(start).end, first + count);
            let next = match (at_once && narrow.is_some(), next_start < ks.end, next_first < panels) {
                (true, true, _) => (next_start, first),
                (true, false, _) => (ks.start, next_first),
                (false, _, true) => (start, next_first),
                (false, _, false) => (next_start, done),
            };
            pack_panels(w, kernel, block(start), packed, &mut self.tile, (&mut self.w, steps));
            let words = block(start).len().div_ceil(step);
            let from = cols.start + next.1 * PANEL;
            let mut ahead = ahead(w, &block(next.0), &(from..cols.end.min(from + group * PANEL)))
                .within((count / wide + count % wide) * tiles, words);
            let mut panel = 0;
            while panel < count {
                let width = if count - panel >= wide { wide } else { 1 };
                for tile in 0..tiles {
                    let [row, end] = [tile, tile + 1].map(|tile| tile * rows.len() / tiles);
                    let mut job = Job {
                        rows: end - row,
                        panels: width,
                        steps: words,
                        x: x[row * x_stride..].as_ptr(),
                        x_stride,
                        w: Panels::Made(self.w[panel * steps..].as_ptr()),
                        w_stride: steps,
                        acc: self.acc[row * panels + first + panel..].as_mut_ptr(),
                        acc_stride: panels,
                        fresh: start == ks.start,
                        ahead,
                    };
                    // SAFETY: the kernel is of instructions that the CPU has. The buffers have been made large enough for
                    // these rows and panels: x `x_stride` words a row, w `steps` lines a panel, acc `panels` lines a row.
                    unsafe { (kernel.multiply)(&mut job) }
                    ahead = job.ahead;
                }
                panel += width;
            }
            (start, first) = next;
        }
        if kernel.excess != 0 {
            let acc: &mut [i32] = bytemuck::cast_slice_mut(&mut self.acc[..rows.len() * panels]);
            for (row, excess) in acc.chunks_exact_mut((panels * PANEL).max(1)).zip(&self.excess) {
                row.iter_mut().for_each(|acc| *acc = acc.wrapping_sub(*excess));
            }
        }
    }

    /// Row `row` of the accumulators of `cols` columns, in f32; and the room for f32.
    pub(crate) fn floats(&mut self, row: usize, cols: usize) -> (&mut [f32], &mut Vec<f32>) {
        let panels = cols.div_ceil(PANEL);
        (&mut bytemuck::cast_slice_mut(&mut self.acc[row * panels..][..panels])[..cols], &mut self.line)
    }

    /// Row `row` of the accumulators of `cols` columns, in int32; and the room for f32.
    pub(crate) fn ints(&mut self, row: usize, cols: usize) -> (&[i32], &mut Vec<f32>) {
        let panels = cols.div_ceil(PANEL);
        (&bytemuck::cast_slice(&self.acc[row * panels..][..panels])[..cols], &mut self.line)
    }
}

/// At least `n` elements; what they hold does not matter.
pub(crate) fn grow<T: bytemuck::Zeroable + Clone>(room: &mut Vec<T>, n: usize) {
    if room.len() < n {
        room.resize(n, T::zeroed());
    }
}
