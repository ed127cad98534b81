//! The innermost loops of the GEMMs, one file for each kind of CPU, and the form of what they work on.
//!
//! All of them are the same loop ([`tile`]) over one form of operands: *words* of 32 bits along K, one f32, two bf16, four int8 or
//! eight int4.
//! A *panel* is 16 columns of a weight, one [`Line`] of 16 words after the other for ascending K; x is rows of words. A step
//! multiplies one word of a row with one of a column: `acc += x0 * w0 (+ x1 * w1 (+ ...))`.

pub(crate) mod tile;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_floats;
#[cfg(target_arch = "x86_64")]
mod avx2_rows;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_rows;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_matrix;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_columns;

use crate::isa::Isa;

/// Panels of a job, at most.
pub(crate) const MAX_WIDTH: usize = 4;
/// Columns of a panel.
pub(crate) const PANEL: usize = 16;
/// Words along K that are multiplied at a time, at most: a panel of them, 16 KiB, stays in the first cache.
pub(crate) const STEPS: usize = 256;

/// A word of each column of a panel, or an accumulator of each.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Line(pub(crate) [u32; PANEL]);

/// What the words of a panel hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// One f32.
    F32,
    /// Two bf16, the lower k in the lower half.
    Bf16,
    /// Four int8, the lowest k in the lowest byte.
    Int8,
    /// Eight int4, the lowest k in the lowest 4 bits.
    Int4,
}

impl Words {
    /// Elements of K in a word.
    pub(crate) const fn step(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
            Self::Int4 => 8,
        }
    }

    /// Bits of an element.
    pub(crate) const fn bits(self) -> usize {
        32 / self.step()
    }

    /// Bytes of a row of a panel.
    pub(crate) const fn panel_bytes(self) -> usize {
        PANEL * self.bits() / 8
    }
}

/// What a row of x is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// The words of the panel's type.
    Words,
    /// An f32 for each element.
    F32,
    /// Two words for four int8 a b c d: a and c as int16, then b and d.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "x86-64 alone multiplies int16"))]
    Int16,
    /// Two words for eight int8: the even ones, then the odd ones.
    EvenOdd,
}

impl Rows {
    /// Words of x for each word of a column.
    pub(crate) const fn per_step(self, words: Words) -> usize {
        match self {
            Self::Words => 1,
            Self::F32 => words.step(),
            Self::Int16 | Self::EvenOdd => 2,
        }
    }
}

/// Where a job finds its panels.
pub(crate) enum Panels<'a> {
    /// The first one, `steps` lines and more.
    Made(*const Line),
    /// `make` is asked for the next lines of all panels, at most `most` at a time, and says where the first are.
    Fed { most: usize, make: &'a mut dyn FnMut(usize) -> *const Line },
}

/// One call of a micro-kernel: `acc (+)= x @ w` over `steps` words of K.
pub(crate) struct Job<'a> {
    /// Rows of x, 1 to as many as [`Kernel::panels`] has.
    pub(crate) rows: usize,
    /// Panels, 1 or [`Kernel::panels`] of the rows.
    pub(crate) panels: usize,
    /// Words along K.
    pub(crate) steps: usize,
    /// The first row, as [`Kernel::x`] says.
    pub(crate) x: *const u32,
    /// Words from one row to the next.
    pub(crate) x_stride: usize,
    /// The panels.
    pub(crate) w: Panels<'a>,
    /// Lines from one panel to the next.
    pub(crate) w_stride: usize,
    /// Accumulators of the first row, a line for each panel.
    pub(crate) acc: *mut Line,
    /// Lines from one row to the next.
    pub(crate) acc_stride: usize,
    /// Whether the accumulators start at 0 whatever they hold.
    pub(crate) fresh: bool,
    /// What is needed next.
    pub(crate) ahead: Ahead,
}

/// Lines of the cache that are fetched while jobs multiply, some after every [`STEPS`](Self::STEPS) steps: fetched all at once, they
/// would keep the CPU waiting for memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    run: *const u8,
    stride: usize,
    per_run: usize,
    /// The next line of the run, of those that there are in all, and how many are fetched at a time.
    line: usize,
    left: usize,
    at_once: usize,
}

impl Ahead {
    /// Steps of a job after which lines are fetched.
    pub(crate) const STEPS: usize = 16;

    /// Nothing.
    pub(crate) const NONE: Self = Self { run: std::ptr::null(), stride: 0, per_run: 1, line: 0, left: 0, at_once: 0 };

    /// `runs` times `bytes`, `stride` bytes from one to the next, wherever that is.
    pub(crate) fn new(run: *const u8, stride: usize, runs: usize, bytes: usize) -> Self {
        let per_run = bytes.div_ceil(LINE_BYTES).max(1);
        // The end of a line's bytes: where they are not aligned, the rest is in the line before.
        let run = run.wrapping_add(bytes.min(LINE_BYTES)).wrapping_sub(1);
        Self { run, stride, per_run, line: 0, left: runs * per_run, at_once: 0 }
    }

    /// The same, to be fetched within so many jobs of `steps` steps.
    pub(crate) fn within(self, jobs: usize, steps: usize) -> Self {
        Self { at_once: self.left.div_ceil((jobs * steps.div_ceil(Self::STEPS)).max(1)), ..self }
    }

    /// Fetches the next lines.
    #[inline(always)]
    pub(crate) fn fetch(&mut self) {
        for _ in 0..self.at_once.min(self.left) {
            fetch(self.run.wrapping_add(self.line * LINE_BYTES));
            self.left -= 1;
            self.line += 1;
            if self.line == self.per_run {
                self.line = 0;
                self.run = self.run.wrapping_add(self.stride);
            }
        }
    }
}

/// How many bytes ahead of what is read lines are fetched, pieces of which follow each other up to where others begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Distance {
    /// Of so many first pieces, and of those after them.
    first: usize,
    near: usize,
    far: usize,
}

impl Distance {
    /// `ahead` pieces ahead, which are `pieces` at a time, `next` bytes from one to the next, and `others` bytes from the first of
    /// them to the first of the next ones.
    #[inline(always)]
    pub(crate) const fn new(ahead: usize, pieces: usize, next: usize, others: usize) -> Self {
        let pieces = if pieces > 0 { pieces } else { 1 };
        let (times, rest) = (ahead / pieces, ahead % pieces);
        let near = times.wrapping_mul(others).wrapping_add(rest.wrapping_mul(next));
        Self { first: pieces - rest, near, far: near.wrapping_add(others).wrapping_sub(pieces.wrapping_mul(next)) }
    }

    /// From piece number `piece` on.
    #[inline(always)]
    pub(crate) const fn from(self, piece: usize) -> usize {
        if piece < self.first { self.near } else { self.far }
    }
}

/// Words of a piece of a column, at most: those of a line of the cache.
pub(crate) const PIECE: usize = LINE_BYTES / 4;

/// Words of a piece and bytes from one to the next, with pieces of a line of the cache where they are longer.
pub(crate) fn in_lines(piece: usize, next: usize) -> (usize, usize) {
    if piece <= PIECE { (piece, next) } else { (PIECE, LINE_BYTES) }
}

/// Columns of a weight to panels: column i of panel p begins at `from + (16 * p + i) * stride` bytes. Its `words` words come in
/// pieces of `piece` words, the last of what is left, `next` bytes from one to the next, and `flip` is XORed with each word. What
/// lies `ahead` bytes from what is read is fetched, wherever that is, unless that is 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) from: *const u8,
    pub(crate) stride: usize,
    pub(crate) panels: usize,
    pub(crate) words: usize,
    /// 1 to [`PIECE`].
    pub(crate) piece: usize,
    pub(crate) next: usize,
    pub(crate) flip: u32,
    pub(crate) ahead: usize,
    /// The first panel.
    pub(crate) to: *mut Line,
    /// Lines from one panel to the next.
    pub(crate) to_stride: usize,
}

impl Turn {
    /// From word `word` on, which begins a piece.
    pub(crate) fn after(self, word: usize) -> Self {
        let from = self.from.wrapping_add(word / self.piece * self.next);
        Self { from, words: self.words - word, to: self.to.wrapping_add(word), ..self }
    }
}

/// Rows of a weight to panels: row i of panel p is 16 elements, `words.bits()` bits each, at `from + i * stride` bytes and
/// `2 * p * words.bits()` further; there are `steps * words.step()` of them. `flip` is XORed with each word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weave {
    pub(crate) words: Words,
    pub(crate) from: *const u8,
    pub(crate) stride: usize,
    pub(crate) panels: usize,
    pub(crate) steps: usize,
    pub(crate) flip: u32,
    /// The first panel.
    pub(crate) to: *mut Line,
    /// Lines from one panel to the next.
    pub(crate) to_stride: usize,
}

/// Some rows of x times the panels that some parts of each row of a weight belong to, read where they lie: `acc = x @ w`.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "x86-64 alone does this"))]
pub(crate) struct RowsInPlace {
    /// Row i of part p is [`Self::BYTES`] at `from + i * stride + p * part_stride` bytes; there are `steps` words of them.
    pub(crate) from: *const u8,
    pub(crate) stride: usize,
    pub(crate) steps: usize,
    /// 1, or as many as [`RowsKernel::wide`] has for these rows of x.
    pub(crate) parts: usize,
    pub(crate) part_stride: usize,
    /// Of each column what numbers are added to and multiplied with, to be rounded to bf16 before they are multiplied with x, or null;
    /// finite, and of kernels for whole numbers and rows of f32 alone.
    pub(crate) offset: *const f32,
    pub(crate) scale: *const f32,
    /// Whether the accumulators start at 0 whatever they hold; of other kernels they do.
    pub(crate) fresh: bool,
    /// 1 to as many as [`RowsKernel::wide`] is long.
    pub(crate) rows: usize,
    /// As of a [`Job`].
    pub(crate) x: *const u32,
    pub(crate) x_stride: usize,
    pub(crate) acc: *mut Line,
    pub(crate) acc_stride: usize,
}

impl RowsInPlace {
    /// Bytes of each row of a weight that are a part.
    pub(crate) const BYTES: usize = 32;
}

/// Some rows of x times a panel whose columns are read where they lie: `acc = x @ w`. Sums are of whole numbers, so their order does
/// not matter.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "x86-64 alone does this"))]
pub(crate) struct ColumnsInPlace {
    /// Column i at `from + i * stride` bytes: `words` words in pieces of `piece`, `next` bytes from one to the next.
    pub(crate) from: *const u8,
    pub(crate) stride: usize,
    pub(crate) words: usize,
    pub(crate) piece: usize,
    pub(crate) next: usize,
    /// Pieces ahead that are fetched; after the last one, of the columns that come next.
    pub(crate) ahead: usize,
    /// XORed with each word.
    pub(crate) flip: u32,
    /// 1 to [`Self::ROWS`].
    pub(crate) rows: usize,
    /// As of a [`Job`].
    pub(crate) x: *const u32,
    pub(crate) x_stride: usize,
    pub(crate) acc: *mut Line,
    pub(crate) acc_stride: usize,
}

impl ColumnsInPlace {
    /// Rows of x, at most: panels are faster for more.
    pub(crate) const ROWS: usize = 2;
}

/// What multiplies few rows of x with rows of a weight where they lie, without panels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowsKernel {
    /// # Safety
    /// The CPU has the instructions, all that the job names can be read or written, and its sizes are as it says.
    pub(crate) run: unsafe fn(&RowsInPlace),
    /// For 1, 2, ... rows of x at a time, how many parts it takes besides single ones.
    pub(crate) wide: &'static [usize],
    /// Rows of x, at most, for which this is faster than panels: of a weight in blocks of columns, and of whole rows.
    pub(crate) most_of_blocks: usize,
    pub(crate) most_of_lines: usize,
}

/// A micro-kernel and what it wants.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What a panel holds.
    pub(crate) words: Words,
    /// What a row of x is turned into.
    pub(crate) x: Rows,
    /// XORed with every word of a weight: 0, or what makes `w + excess` of each element, which is not negative.
    pub(crate) flip: u32,
    /// What accumulators are too great by, in sums of their row of x.
    pub(crate) excess: i32,
    /// For 1, 2, ... rows, how many panels it takes at a time besides single ones; as many rows as it takes at most. None is more than
    /// [`MAX_WIDTH`].
    pub(crate) panels: &'static [usize],
    /// The loop.
    ///
    /// # Safety
    /// The CPU has the instructions, all that the job names can be read or written, `rows` and `panels` are as [`Job`] says.
    pub(crate) multiply: unsafe fn(&mut Job<'_>),
    /// The same without panels, of rows of a weight where they lie.
    pub(crate) rows_in_place: Option<RowsKernel>,
    /// Where elements may be made of whole numbers and scales on their way into the product: the kernel for these numbers, whose
    /// [`rows_in_place`](Self::rows_in_place) does that.
    pub(crate) of_numbers: Option<fn(Words) -> &'static Kernel>,
    /// Of columns where they lie.
    ///
    /// # Safety
    /// The CPU has the instructions, and all that the job names can be read or written.
    pub(crate) columns_in_place: Option<unsafe fn(&ColumnsInPlace)>,
    /// # Safety
    /// The CPU has the instructions; all words can be read, all lines written.
    pub(crate) transpose: unsafe fn(&Turn),
    /// # Safety
    /// The CPU has the instructions; all elements can be read, all lines written.
    pub(crate) interleave: unsafe fn(&Weave),
}

/// The micro-kernel of a set of instructions that this CPU has, for words of whole numbers and rows of f32: sums are f32.
pub(crate) fn mixed_kernel(isa: Isa, words: Words) -> &'static Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::mixed_kernel(words),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Dot => avx512::mixed_kernel(words),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot | Isa::NeonBf16 | Isa::NeonMatrix => neon::mixed_kernel(words),
        _ => portable::mixed_kernel(words),
    }
}

/// The micro-kernel of a set of instructions that this CPU has, for words and rows of the same kind.
pub(crate) fn kernel(isa: Isa, words: Words) -> &'static Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernel(words),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::kernel(words),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Dot => avx512::dot_kernel(words),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::kernel(words),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => neon::dot_kernel(words),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonBf16 => neon::bf16_kernel(words),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonMatrix => neon::matrix_kernel(words),
        _ => portable::kernel(words),
    }
}

/// Bytes of a line of the cache.
pub(crate) const LINE_BYTES: usize = 64;

/// Pieces of memory in a line of the cache, `stride` bytes from one to the next; at least 1.
#[inline(always)]
pub(crate) fn per_line(stride: usize) -> usize {
    if stride < LINE_BYTES { LINE_BYTES / stride.max(1) } else { 1 }
}

/// Fetches the line of the cache at an address, which may be any, into the second cache.
#[inline(always)]
pub(crate) fn fetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64; a fetch ahead reaches no memory that a program could see.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
