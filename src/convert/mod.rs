//! Converting a checkpoint: expert weights to bf16, to int8 for W8A8 or to int4 for W4A8, everything else as it was or expanded.
//!
//! [`convert`] goes through the files of a checkpoint one by one and writes one for each. Weights pass through a few buffers of
//! [`Options::buffer`] bytes, so that host memory has a bound ([`memory_bound`]) whatever the size of the checkpoint; input files are
//! mapped, their memory is given back matrix by matrix, and they are never written to.
//!
//! The output is put together in `<to>.partial` and takes its name when it is whole, so that a folder of that name is never half
//! of a checkpoint. A conversion that was interrupted goes on where it stopped: files that were finished are kept, if their
//! bytes still have the checksum that was noted.
//!
//! Formats, readable by [`Checkpoint`] and, where experts have a tensor for each projection, by others that
//! read compressed-tensors:
//! - [`Format::Bf16`]: experts in BF16 under the names of unquantised weights.
//! - [`Format::W8a8`]: int8 per output channel, compressed-tensors `int-quantized`: `weight` I8 `[N, K]`, `weight_scale` F32
//!   `[N, 1]`.
//! - [`Format::W4a8`]: routed experts in int4 per output channel, compressed-tensors `pack-quantized`: `weight_packed` I32
//!   `[N, ceil(K / 8)]`, `weight_scale` F32 `[N, 1]`, `weight_shape`; shared experts as in W8A8. With [`Options::group`] a scale
//!   for each group of inputs, `weight_scale` F32 `[N, K / group]`.
//!
//! Weights of several experts in one tensor stay in one, `[E, N, K]` with scales `[E, N, 1]`, or one for each group. Weights that
//! are no expert's are copied; where they are quantised they are expanded to BF16, in every format.

mod config;
mod encode;
mod error;
mod plan;
mod shard;
mod work;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use error::ConvertError;

use crate::checkpoint::Checkpoint;

/// What expert weights become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// BF16; exact from FP8 with scales that are powers of two, from MXFP4, and from int4 and int8 with such scales.
    Bf16,
    /// int8 per output channel, for activations in int8.
    W8a8,
    /// int4 per output channel or per group of inputs, for activations in int8; shared experts in int8.
    W4a8,
}

impl Format {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::W8a8 => "w8a8",
            Self::W4a8 => "w4a8",
        }
    }
}

/// How a checkpoint is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// What expert weights become.
    pub format: Format,
    /// Whether expert weights are laid out in FRACTAL_NZ, as the cube unit takes them.
    pub nz: bool,
    /// Inputs that share a scale of int4, which divide those of every routed expert's weights; `None` for a scale per output
    /// channel. CANN multiplies int8 with groups of 256; a layer expands others to its own type.
    pub group: Option<usize>,
    /// Bytes of a buffer of output. A few are in use at a time.
    pub buffer: usize,
}

impl Options {
    /// A format, and buffers that keep a disk busy.
    pub const fn new(format: Format) -> Self {
        Self { format, nz: false, group: None, buffer: 8 << 20 }
    }
}

/// Most bytes of host memory that a conversion allocates at a time, whatever the number of threads: its buffers, the values that
/// are being worked on, and the list of the checkpoint's `tensors`. `widest` is the most inputs of any weight and `outputs` the most
/// outputs of all experts in one tensor; each has a scale for each of [`Options::group`].
pub const fn memory_bound(options: Options, tensors: usize, widest: usize, outputs: usize) -> usize {
    /// What is known of a tensor: its names, axes and place in the input and in the output.
    const TENSOR: usize = 4096;
    /// Pieces that wait or are written, and buffers to be used again.
    const BUFFERS: usize = 9;
    /// A value in f32, rounded and in f32 again, and its code.
    const VALUE: usize = 12;
    let lines = 64 * widest;
    let values = if options.buffer / 2 > lines { options.buffer / 2 } else { lines };
    let groups = match options.group {
        Some(group) if group > 0 => widest.div_ceil(group),
        _ => 1,
    };
    (4 << 20) + BUFFERS * options.buffer + VALUE * values + tensors * TENSOR + outputs * groups * 16
}

/// How far a conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// Bytes of output that are there.
    pub done: u64,
    /// Bytes of output altogether.
    pub total: u64,
    /// The file that is being written.
    pub file: &'a str,
}

/// What a conversion did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// What expert weights became.
    pub format: Format,
    /// Whether they are laid out in FRACTAL_NZ.
    pub nz: bool,
    /// Inputs that share a scale of int4; `None` for all of them.
    pub group: Option<usize>,
    /// Files of weights that were written, or were there from an interrupted conversion.
    pub files: usize,
    /// Those that were there.
    pub resumed: usize,
    /// Bytes of all files of weights.
    pub bytes: u64,
    /// Tensors that were copied as they are.
    pub copied: usize,
    /// Every tensor that was not copied.
    pub tensors: Vec<TensorReport>,
}

/// A weight that became something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TensorReport {
    /// The weight.
    pub name: String,
    /// How it was stored.
    pub from: String,
    /// How it is stored now.
    pub to: String,
    /// Root mean square of the differences over that of the values; 0 where nothing was lost.
    pub rms: f64,
    /// Largest difference over the largest value.
    pub max: f64,
}

/// Converts the checkpoint of the folder `from` into the folder `to`, which must not be there, and tells of its progress.
///
/// # Errors
/// [`ConvertError`]: everything that is wrong with the checkpoint before anything is written, but for values that have no code,
/// which are found when they are read; a folder that is there; a disk that is full or fails, after which the
/// files that are whole stay in `<to>.partial` for another try.
pub fn convert(
    from: &Path,
    to: &Path,
    options: Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, ConvertError> {
    let checkpoint = Checkpoint::open(from)?;
    work::run(&checkpoint, to, options, &shard::on_disk, progress)
}
