//! Few rows times a weight that is read where it lies: without panels, or for one row with sums of some panels in registers over all
//! of K, and no more of a panel made at a time than stays in the first cache.

use std::ops::Range;
use std::ptr;

use half::bf16;

use crate::driver::grow;
use crate::element::Float;
use crate::pack::{Direct, Lies, Numbers, Source, fetch_rows};
use crate::simd::{
    Ahead, ColumnsInPlace, Distance, Job, Kernel, Line, MAX_WIDTH, PANEL, PIECE, Panels, RowsInPlace, RowsKernel, Turn,
    Weave, in_lines,
};

/// Lines of the cache of each column that are fetched ahead of what is read.
const LINES_AHEAD: usize = 4;
/// Blocks of columns likewise.
const BLOCKS_AHEAD: usize = 16;
/// Lines and blocks ahead where a few columns are read alone.
const FEW_LINES_AHEAD: usize = 32;
const FEW_BLOCKS_AHEAD: usize = 64;
/// Lines of all panels that are made at a time, at most; a multiple of [`PIECE`] for each.
const LINES: usize = 128;

/// Multiplies the first panels of columns, as many as can be read where they lie; how many that are.
///
/// - x is there, `x_stride` words a row, `rows` of them; it is of whole words.
/// - `acc` are accumulators, a line for each row and panel; `room` is for a piece of some panels.
pub(crate) fn stream(
    kernel: &Kernel,
    w: &impl Source,
    (x, x_stride): (&[u32], usize),
    rows: usize,
    cols: &Range<usize>,
    ks: &Range<usize>,
    (acc, room): (&mut [Line], &mut Vec<Line>),
) -> usize {
    let panels = cols.len().div_ceil(PANEL);
    let direct = |panel, count| whole_panels(w, ks, cols, panel..panel + count);
    if rows > 0 {
        let few = FewRows { x, x_stride, rows };
        if let (Some(kernels), Some(numbers)) = (kernel.of_numbers, w.numbers())
            && let kernel = kernels(numbers.weight.words())
            && let Some(done) = of_numbers(kernel, &numbers, few, (cols, ks), (acc, panels), room)
        {
            return done;
        }
        if let Some(done) = in_place(kernel, w.lies(), few, ks.len(), (acc, panels), direct) {
            return done;
        }
    }
    // Two rows and more take so long to multiply that what comes next is fetched meanwhile.
    let Some(&wide) = kernel.panels.first().filter(|_| rows == 1) else { return 0 };
    let is_fast = match w.lies() {
        Lies::AlongK | Lies::BlocksOfK => true,
        // Panels of short elements are made two at a time.
        Lies::BlocksOfN => wide > 1 || kernel.words.bits() >= 16,
        // Most of a line of the cache would be of other panels.
        Lies::AlongN => false,
    };
    if !is_fast {
        return 0;
    }
    grow(room, LINES);
    let mut panel = 0;
    while panel < panels {
        let lies: [Direct; MAX_WIDTH] =
            std::array::from_fn(|i| if i < wide { direct(panel + i, 1) } else { Direct::No });
        let width =
            if lies[..wide].iter().enumerate().all(|(i, lie)| lies[0].is_like(lie, i * PANEL)) { wide } else { 1 };
        let Some(mut feed) = Feed::new(kernel, &lies[..width], ks, room) else { return panel };
        let (most, lines) = (feed.most, room.as_ptr());
        let mut make = |steps| {
            // SAFETY: `direct` found all words of these panels in the weight's memory, and the room is for a piece of each.
            unsafe { feed.make(steps) }
            lines
        };
        let mut job = Job {
            rows,
            panels: width,
            steps: ks.len() / kernel.words.step(),
            x: x.as_ptr(),
            x_stride,
            w: Panels::Fed { most, make: &mut make },
            w_stride: most,
            acc: acc[panel..].as_mut_ptr(),
            acc_stride: panels,
            fresh: true,
            ahead: Ahead::NONE,
        };
        // SAFETY: the kernel is of instructions that the CPU has. x and acc are as large as is said above; the feed makes as many
        // lines as it is asked for.
        unsafe { (kernel.multiply)(&mut job) }
        panel += width;
    }
    panels
}

/// Rows `ks` of some panels of columns `cols`, if these are whole panels.
#[inline]
fn whole_panels(w: &impl Source, ks: &Range<usize>, cols: &Range<usize>, panels: Range<usize>) -> Direct {
    let [from, to] = [panels.start, panels.end].map(|panel| cols.start + panel * PANEL);
    if to <= cols.end { w.direct(ks, &(from..to)) } else { Direct::No }
}

/// Rows of x, of whole words.
#[derive(Clone, Copy)]
struct FewRows<'a> {
    x: &'a [u32],
    x_stride: usize,
    rows: usize,
}

/// The same of bf16 that are made of whole numbers, where the kernel does that; how many of the first panels that could be done.
/// What is not done may have been begun.
fn of_numbers(
    kernel: &Kernel,
    numbers: &Numbers<'_>,
    few: FewRows<'_>,
    (cols, ks): (&Range<usize>, &Range<usize>),
    (acc, panels): (&mut [Line], usize),
    room: &mut Vec<Line>,
) -> Option<usize> {
    let Numbers { weight, scale, offset, group } = *numbers;
    if weight.lies().is_along_k() {
        return None;
    }
    grow(room, 2 * panels);
    let (scales, offsets) = bytemuck::cast_slice_mut(room).split_at_mut(panels * PANEL);
    let mut done = None;
    let mut start = ks.start;
    while start < ks.end {
        let index = start / group;
        let part = start..ks.end.min((index + 1).saturating_mul(group));
        let of_cols = index * weight.n() + cols.start..index * weight.n() + cols.end;
        let (scales, offsets) = (&mut scales[..cols.len()], &mut offsets[..cols.len()]);
        bf16::widen(&scale[of_cols.clone()], scales);
        offsets.fill(0.0);
        if let Some(offset) = offset {
            bf16::widen(&offset[of_cols], offsets);
        }
        let are_finite = scales.iter().chain(&*offsets).all(|value| value.is_finite());
        if !are_finite || !part.len().is_multiple_of(kernel.words.step()) {
            return None;
        }
        let values = (&*scales, &*offsets, start == ks.start);
        let few = FewRows { x: &few.x[start - ks.start..], ..few };
        let direct = |panel, count| whole_panels(weight, &part, cols, panel..panel + count);
        let count = rows_in_place(kernel, weight.lies(), few, part.len(), Some(values), (acc, panels), direct)?;
        if *done.get_or_insert(count) != count {
            return None;
        }
        start = part.end;
    }
    done
}

/// Without panels, of a weight whose rows lie together, where the kernel does that; how many of the first panels that could be done.
/// `values` are scales and offsets of the columns, and whether the accumulators start at 0.
fn rows_in_place(
    kernel: &Kernel,
    lies: Lies,
    FewRows { x, x_stride, rows }: FewRows<'_>,
    ks: usize,
    values: Option<(&[f32], &[f32], bool)>,
    (acc, panels): (&mut [Line], usize),
    direct: impl Fn(usize, usize) -> Direct,
) -> Option<usize> {
    let RowsKernel { run, wide, most_of_blocks, most_of_lines } = kernel.rows_in_place?;
    if rows > if lies == Lies::BlocksOfN { most_of_blocks } else { most_of_lines } {
        return None;
    }
    let per_part = RowsInPlace::BYTES / kernel.words.panel_bytes();
    let most = rows.div_ceil(rows.div_ceil(wide.len()));
    let part = |panel: usize| match direct(panel, per_part) {
        Direct::Rows { from, stride } => Some((from, stride)),
        _ => None,
    };
    let mut panel = 0;
    while let Some((from, stride)) = part(panel) {
        let many = wide[most - 1];
        // The parts from this one on, as far as they lie alike.
        let part_stride = part(panel + per_part).map_or(0, |(next, _)| next.addr().wrapping_sub(from.addr()));
        let follows = |i| part(panel + i * per_part) == Some((from.wrapping_add(i * part_stride), stride));
        let parts = if (1..many).all(follows) { many } else { 1 };
        let (scale, offset, fresh) = values.map_or((ptr::null(), ptr::null(), true), |(scales, offsets, fresh)| {
            (scales[panel * PANEL..].as_ptr(), offsets[panel * PANEL..].as_ptr(), fresh)
        });
        for row in (0..rows).step_by(most) {
            let job = RowsInPlace {
                from,
                stride,
                steps: ks / kernel.words.step(),
                parts,
                part_stride,
                offset,
                scale,
                fresh,
                rows: most.min(rows - row),
                x: x[row * x_stride..].as_ptr(),
                x_stride,
                acc: acc[row * panels + panel..].as_mut_ptr(),
                acc_stride: panels,
            };
            // SAFETY: the kernel is of instructions that the CPU has. `direct` found all rows in the weight's memory; x and acc are
            // as large as `stream` says; there is a scale and an offset for each column of whole panels.
            unsafe { run(&job) }
        }
        panel += parts * per_part;
    }
    Some(panel)
}

/// Without panels, where the kernel does that for weights that lie so; how many of the first panels that could be done.
fn in_place(
    kernel: &Kernel,
    lies: Lies,
    few: FewRows<'_>,
    ks: usize,
    (acc, panels): (&mut [Line], usize),
    direct: impl Fn(usize, usize) -> Direct,
) -> Option<usize> {
    let (words, steps) = (kernel.words, ks / kernel.words.step());
    let FewRows { x, x_stride, rows } = few;
    let mut panel = 0;
    match lies {
        Lies::BlocksOfN | Lies::AlongN => rows_in_place(kernel, lies, few, ks, None, (acc, panels), direct),
        Lies::AlongK | Lies::BlocksOfK => {
            let run = kernel.columns_in_place?;
            if rows > ColumnsInPlace::ROWS {
                return None;
            }
            while panel < panels {
                let Direct::Columns { from, stride, piece, next } = direct(panel, 1) else { break };
                let (piece, next) = in_lines(piece / words.step(), next);
                let ahead = if piece == PIECE { FEW_LINES_AHEAD } else { FEW_BLOCKS_AHEAD };
                let (acc, acc_stride) = (acc[panel..].as_mut_ptr(), panels);
                let (x, flip) = (x.as_ptr(), kernel.flip);
                let job = ColumnsInPlace {
                    from,
                    stride,
                    words: steps,
                    piece,
                    next,
                    ahead,
                    flip,
                    rows,
                    x,
                    x_stride,
                    acc,
                    acc_stride,
                };
                // SAFETY: as above, of columns.
                unsafe { run(&job) }
                panel += 1;
            }
            Some(panel)
        }
    }
}

/// What makes lines of some panels, piece after piece along K.
struct Feed<'a> {
    kernel: &'a Kernel,
    pieces: Pieces,
    /// Lines of each panel that are made at a time, at most, and from one panel to the next.
    most: usize,
}

enum Pieces {
    /// Columns from piece number `done` on.
    Columns { turn: Turn, ahead: Distance, done: usize },
    /// Rows from the next one on, of each panel or several panels whose rows follow each other.
    Rows { weaves: [Option<Weave>; MAX_WIDTH] },
}

impl<'a> Feed<'a> {
    /// Of panels that lie alike; lines go to `room`. `None` where they cannot be read where they lie.
    fn new(kernel: &'a Kernel, lies: &[Direct], ks: &Range<usize>, room: &mut [Line]) -> Option<Self> {
        let (words, flip, to, panels) = (kernel.words, kernel.flip, room.as_mut_ptr(), lies.len());
        let most = LINES / panels;
        let pieces = match *lies.first()? {
            Direct::Columns { from, stride, piece, next } => {
                let (steps, piece) = (ks.len() / words.step(), piece / words.step());
                let (piece, next) = in_lines(piece, next);
                let ahead = if piece == PIECE { LINES_AHEAD } else { BLOCKS_AHEAD };
                let ahead = Distance::new(ahead, steps.div_ceil(piece), next, panels * PANEL * stride);
                let turn =
                    Turn { from, stride, panels, words: steps, piece, next, flip, ahead: 0, to, to_stride: most };
                Pieces::Columns { turn, ahead, done: 0 }
            }
            Direct::Rows { .. } => {
                let mut weaves = [None; MAX_WIDTH];
                let mut last = 0;
                for (panel, lie) in lies.iter().enumerate() {
                    let Direct::Rows { from, stride } = *lie else { return None };
                    match &mut weaves[last] {
                        Some(Weave { from: first, stride: its, panels, .. })
                            if *its == stride && from == first.wrapping_add(*panels * words.panel_bytes()) =>
                        {
                            *panels += 1;
                        }
                        _ => {
                            last = panel;
                            let to = room[panel * most..].as_mut_ptr();
                            let weave = Weave { words, from, stride, panels: 1, steps: 0, flip, to, to_stride: most };
                            weaves[panel] = Some(weave);
                        }
                    }
                }
                Pieces::Rows { weaves }
            }
            Direct::No => return None,
        };
        Some(Self { kernel, pieces, most })
    }

    /// Makes the next `steps` lines of each panel.
    ///
    /// # Safety
    /// `direct` found that many words of the panels in the weight's memory, and there is room for the lines.
    unsafe fn make(&mut self, steps: usize) {
        match &mut self.pieces {
            Pieces::Columns { turn, ahead, done } => {
                turn.ahead = ahead.from(*done);
                let pieces = steps.div_ceil(turn.piece);
                *done += pieces;
                // SAFETY: the caller's promise, of parts of what it promised.
                unsafe { (self.kernel.transpose)(&Turn { words: steps, ..*turn }) }
                turn.from = turn.from.wrapping_add(pieces * turn.next);
            }
            Pieces::Rows { weaves } => {
                for weave in weaves.iter_mut().flatten() {
                    weave.steps = steps;
                    let rows = steps * weave.words.step();
                    let next = weave.from.wrapping_add(rows * weave.stride);
                    let bytes = weave.panels * weave.words.panel_bytes();
                    fetch_rows(next, weave.stride, rows, bytes);
                    // SAFETY: the caller's promise.
                    unsafe { (self.kernel.interleave)(weave) }
                    weave.from = next;
                }
            }
        }
    }
}
