//! Quantisation of rows of floating point numbers to int8 and int4, with scales that are found here or given.
//!
//! The operators differ in three places, each of them a parameter: the whole numbers ([`Integer`]), how a row's scale is found and
//! applied ([`Scaling`]), and how an f32 becomes a whole number ([`Conversion`]). Everything is computed in f32. A row that holds
//! no-number has a scale that is none; a row of zeros is quantised to zeros (what CANN makes of its 0 / 0 was not verified).
//!
//! Source: ops-nn 9.1.0, quant/dynamic_quant, activation and quant; ops-transformer 9.1.0, moe/moe_init_routing_v3 (op_kernel).

use rayon::prelude::*;

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::formats::nibbles::int4_byte;
use crate::group_list::Group;

/// Elements that are handled at a time. Even, so that a piece of int4 is whole bytes.
const PIECE: usize = 256;

/// Elements that are worth a task of their own.
const TASK: usize = 4096;

/// The whole numbers that rows are quantised to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    /// -128 to 127, a byte each.
    Int8,
    /// -8 to 7, two to a byte, the even one in the low half. int32 that carry eight of them are the same bytes.
    Int4,
}

impl Integer {
    /// The greatest one.
    pub const fn most(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::Int4 => 7.0,
        }
    }

    /// The least one.
    pub const fn least(self) -> f32 {
        -1.0 - self.most()
    }

    /// Bytes of a row of so many of them.
    ///
    /// # Errors
    /// [`KernelError::NotMultiple`] where they do not fill whole bytes.
    pub(crate) fn row_bytes(self, width: usize) -> Result<usize, KernelError> {
        match self {
            Self::Int8 => Ok(width),
            Self::Int4 => error::divide("width of rows of int4", width, 2),
        }
    }
}

/// How CANN's kernels make a whole number of an f32. What is beyond the type becomes its end, what is no number 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// To nearest, ties to even. Through int32 and fp16, which changes nothing.
    Nearest,
    /// Rounded to fp16 first, then to nearest; ties to even both times.
    NearestHalf,
    /// Cut off to fp16 first, then to nearest, ties away from zero.
    NearestCutHalf,
    /// To the next one below.
    Floor,
    /// To the next one above.
    Ceil,
    /// Toward zero.
    Truncate,
}

/// An f32 of magnitude below 2^22 added to it is rounded to a whole number, ties to even; that number is in its low bits.
const WHOLE: f32 = 12_582_912.0;

/// Bits of an f32's fraction that fp16 does not have.
const CUT: u32 = 13;

impl Conversion {
    /// Converts a piece.
    fn convert(self, integer: Integer, values: &[f32], out: &mut [i8]) {
        // Each is one loop without branches. The values are within the type's ends, where numbers below fp16's normal ones become
        // 0 either way.
        match self {
            Self::Nearest => write(integer, values, out, |value| value),
            Self::NearestHalf => write(integer, values, out, |value| {
                let bits = value.to_bits();
                let even = (bits >> CUT) & 1;
                f32::from_bits((bits + (1 << (CUT - 1)) - 1 + even) & !((1 << CUT) - 1))
            }),
            Self::NearestCutHalf => write(integer, values, out, |value| {
                // A tie, and nothing else of fp16, is moved past the middle.
                f32::from_bits(value.to_bits() & !((1 << CUT) - 1)) + (1.0f32 / 8192.0).copysign(value)
            }),
            Self::Floor => write(integer, values, out, f32::floor),
            Self::Ceil => write(integer, values, out, f32::ceil),
            Self::Truncate => write(integer, values, out, f32::trunc),
        }
    }
}

/// `out[i]` is `round(values[i])` to nearest even, within the ends of the type.
#[inline(always)]
fn write(integer: Integer, values: &[f32], out: &mut [i8], round: impl Fn(f32) -> f32) {
    let (least, most) = (integer.least(), integer.most());
    for (out, &value) in out.iter_mut().zip(values) {
        let value = if value.is_nan() { 0.0 } else { value };
        let value = if value > least { value } else { least };
        let value = if value < most { value } else { most };
        *out = (round(value) + WHOLE).to_bits() as i8;
    }
}

/// How a row finds and applies its scale, with m the greatest magnitude of the row and n the greatest whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// `d = m / n`, `q = v / d`; the scale is d. aclnnMoeInitRoutingV3.
    Divide,
    /// `d = m * (1 / n)`, `q = v / d`; the scale is d. aclnnDequantSwigluQuantV2 with groups.
    DivideByProduct,
    /// `d = m / n`, `q = v * (1 / d)`; the scale is d. aclnnDequantSwigluQuantV2 without groups, aclnnGroupedMatmulSwigluQuant.
    MultiplyByReciprocal,
    /// `f = n / m`, `q = v * f`; the scale is `m * (1 / n)`. aclnnDynamicQuant on rows of many sizes.
    MultiplyOfProduct,
    /// `f = n / m`, `q = v * f`; the scale is `1 / f`. aclnnDynamicQuant on the others.
    MultiplyOfReciprocal,
    /// `f = n / m`, `q = v * f`; the scale is f, what others multiply by. aclnnSwiGluQuantV2.
    MultiplyByScale,
}

/// What is done to a value to be converted.
#[derive(Debug, Clone, Copy)]
enum Apply {
    Divide(f32),
    Multiply(f32),
}

impl Scaling {
    /// What the row's values go through, and the row's scale.
    fn of(self, m: f32, n: f32) -> (Apply, f32) {
        match self {
            Self::Divide => (Apply::Divide(m / n), m / n),
            Self::DivideByProduct => (Apply::Divide(m * (1.0 / n)), m * (1.0 / n)),
            Self::MultiplyByReciprocal => (Apply::Multiply(1.0 / (m / n)), m / n),
            Self::MultiplyOfProduct => (Apply::Multiply(n / m), m * (1.0 / n)),
            Self::MultiplyOfReciprocal => (Apply::Multiply(n / m), 1.0 / (n / m)),
            Self::MultiplyByScale => (Apply::Multiply(n / m), n / m),
        }
    }
}

/// Quantises rows, each with a scale of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowQuantiser {
    /// What to.
    pub integer: Integer,
    /// How the scale is found and applied.
    pub scaling: Scaling,
    /// How whole numbers are made.
    pub conversion: Conversion,
}

impl RowQuantiser {
    /// Quantises one row and gives its scale.
    ///
    /// - `values` host f32 `[width]`; `out` host bytes of as many int8 or int4.
    ///
    /// # Errors
    /// [`KernelError::Length`], [`KernelError::NotMultiple`] for an odd number of int4.
    pub fn row(&self, values: &[f32], out: &mut [u8]) -> Result<f32, KernelError> {
        error::length("quantised row", self.integer.row_bytes(values.len())?, out.len())?;
        Ok(self.quantise(values.len(), &of_f32(values), out))
    }

    /// The same of values that `read` gives a piece at a time.
    pub(crate) fn quantise(&self, width: usize, read: &impl Fn(usize, &mut [f32]), out: &mut [u8]) -> f32 {
        let (apply, scale) = self.scaling.of(greatest(width, read), self.integer.most());
        write_row(self.integer, self.conversion, width, out, |start, piece| {
            read(start, piece);
            match apply {
                Apply::Divide(by) => piece.iter_mut().for_each(|value| *value /= by),
                Apply::Multiply(by) => piece.iter_mut().for_each(|value| *value *= by),
            }
        });
        scale
    }
}

/// Reads pieces of a row of f32.
pub(crate) fn of_f32(values: &[f32]) -> impl Fn(usize, &mut [f32]) {
    |start, piece| piece.copy_from_slice(&values[start..][..piece.len()])
}

/// Reads pieces of a row in f32, times a factor for each element where there are any.
pub(crate) fn smoothed<T: Float, S: Float>(x: &[T], smooth: Option<&[S]>) -> impl Fn(usize, &mut [f32]) {
    move |start, piece| {
        T::widen(&x[start..], piece);
        if let Some(smooth) = smooth {
            let mut factors = [0f32; PIECE];
            S::widen(&smooth[start..], &mut factors[..piece.len()]);
            piece.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
        }
    }
}

/// Calls `each` with the starts of the pieces of a row and room for each.
fn pieces(width: usize, mut each: impl FnMut(usize, &mut [f32])) {
    let mut room = [0f32; PIECE];
    for start in (0..width).step_by(PIECE) {
        each(start, &mut room[..PIECE.min(width - start)]);
    }
}

/// The greatest magnitude of a row; no number where one is in it. Magnitudes are in the order of their bits.
fn greatest(width: usize, read: &impl Fn(usize, &mut [f32])) -> f32 {
    let mut most = 0;
    pieces(width, |start, piece| {
        read(start, piece);
        most = piece.iter().fold(most, |most, value| most.max(value.abs().to_bits() as i32));
    });
    f32::from_bits(most as u32)
}

/// Converts a row that `read` gives a piece at a time.
pub(crate) fn write_row(
    integer: Integer,
    conversion: Conversion,
    width: usize,
    out: &mut [u8],
    read: impl Fn(usize, &mut [f32]),
) {
    pieces(width, |start, piece| {
        read(start, piece);
        match integer {
            Integer::Int8 => {
                let out = bytemuck::cast_slice_mut(&mut out[start..][..piece.len()]);
                conversion.convert(integer, piece, out);
            }
            Integer::Int4 => {
                let mut wide = [0i8; PIECE];
                conversion.convert(integer, piece, &mut wide[..piece.len()]);
                let pairs = wide.as_chunks::<2>().0;
                let out = &mut out[start / 2..][..piece.len() / 2];
                out.iter_mut().zip(pairs).for_each(|(out, [low, high])| *out = int4_byte(*low, *high));
            }
        }
    });
}

/// Factors on the elements of rows before they are quantised.
#[derive(Debug, Clone, Copy)]
pub struct Smooth<'a, S> {
    /// Host `S [groups, width]`, or `[width]` where all rows have the same.
    pub factors: &'a [S],
    /// Which rows have which factors, all rows being in some group; `None` for the same everywhere.
    pub groups: Option<&'a [Group]>,
}

impl<'a, S> Smooth<'a, S> {
    fn check(&self, rows: usize, width: usize) -> Result<(), KernelError> {
        let Some(groups) = self.groups else { return error::length("smooth factors", width, self.factors.len()) };
        let sets = error::divide("smooth factors", self.factors.len(), width)?;
        let end = groups.last().map_or(0, |group| group.rows.end);
        error::length("rows of all groups", rows, end)?;
        groups.iter().try_for_each(|group| error::range("group", group.expert + 1, 1, sets))
    }

    fn of(&self, row: usize, width: usize) -> &'a [S] {
        let set = self.groups.map_or(0, |groups| groups[groups.partition_point(|group| group.rows.end <= row)].expert);
        &self.factors[set * width..][..width]
    }
}

/// Quantises rows, each with the scale of its greatest magnitude, in parallel.
///
/// - `x` host `T [rows, width]`; `smooth` factors on it.
/// - `y` host bytes of `[rows, width]` int8 or int4; `scale` host f32 `[rows]`.
///
/// Rows of no element have nothing written, nor their scales.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit, the groups do not cover
/// the rows, or a row of int4 is odd.
pub fn dynamic_quantise<T: Float, S: Float>(
    quantiser: RowQuantiser,
    x: &[T],
    width: usize,
    smooth: Option<Smooth<'_, S>>,
    y: &mut [u8],
    scale: &mut [f32],
) -> Result<(), KernelError> {
    let row_bytes = check_rows(quantiser.integer, x.len(), width, y.len(), scale.len())?;
    smooth.map_or(Ok(()), |smooth| smooth.check(scale.len(), width))?;
    if width == 0 {
        return Ok(());
    }
    let rows = y.par_chunks_mut(row_bytes).zip(scale).zip(x.par_chunks(width)).enumerate();
    rows.with_min_len(TASK.div_ceil(width)).for_each(|(row, ((out, scale), x))| {
        let smooth = smooth.map(|smooth| smooth.of(row, width));
        *scale = quantiser.quantise(width, &smoothed(x, smooth), out);
    });
    Ok(())
}

/// Quantises rows, each from its least to its greatest value, in parallel: `scale = max((max - min) / 255, 1e-12)`,
/// `offset = 127 - max / scale`, `y = v * (1 / scale) + offset` to nearest, for int4 with 15 and 7.
///
/// - As [`dynamic_quantise`]; `offset` host f32 `[rows]`.
///
/// # Errors
/// Those of [`dynamic_quantise`].
pub fn dynamic_quantise_asymmetric<T: Float>(
    integer: Integer,
    x: &[T],
    width: usize,
    smooth: Option<Smooth<'_, T>>,
    y: &mut [u8],
    scale: &mut [f32],
    offset: &mut [f32],
) -> Result<(), KernelError> {
    let row_bytes = check_rows(integer, x.len(), width, y.len(), scale.len())?;
    error::length("offset", scale.len(), offset.len())?;
    smooth.map_or(Ok(()), |smooth| smooth.check(scale.len(), width))?;
    if width == 0 {
        return Ok(());
    }
    let rows = y.par_chunks_mut(row_bytes).zip(scale).zip(offset).zip(x.par_chunks(width)).enumerate();
    rows.with_min_len(TASK.div_ceil(width)).for_each(|(row, (((out, scale), offset), x))| {
        let read = smoothed(x, smooth.map(|smooth| smooth.of(row, width)));
        let (least, most) = extremes(width, &read);
        let step = (most - least) / (integer.most() - integer.least());
        // Not a maximum: no number gives the least step.
        *scale = if step > LEAST_STEP { step } else { LEAST_STEP };
        *offset = integer.most() - most / *scale;
        let (factor, offset) = (1.0 / *scale, *offset);
        write_row(integer, Conversion::Nearest, width, out, |start, piece| {
            read(start, piece);
            piece.iter_mut().for_each(|value| *value = *value * factor + offset);
        });
    });
    Ok(())
}

/// The least scale of a row that is quantised with an offset.
const LEAST_STEP: f32 = 1e-12;

/// The least and the greatest value of a row, in the order of their bits.
fn extremes(width: usize, read: &impl Fn(usize, &mut [f32])) -> (f32, f32) {
    // Negative numbers turned round: all of them in the order of integers.
    let turned = |bits: i32| bits ^ ((bits >> 31) & i32::MAX);
    let (mut least, mut most) = (i32::MAX, i32::MIN);
    pieces(width, |start, piece| {
        read(start, piece);
        for value in piece {
            let place = turned(value.to_bits() as i32);
            least = least.min(place);
            most = most.max(place);
        }
    });
    (f32::from_bits(turned(least) as u32), f32::from_bits(turned(most) as u32))
}

/// Numbers for the columns of a row: one for all, or one for each.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PerColumn<'a> {
    One(f32),
    Each(&'a [f32]),
}

impl PerColumn<'_> {
    /// Changes a piece of a row by the numbers of its columns.
    pub(crate) fn apply(self, start: usize, piece: &mut [f32], change: impl Fn(f32, f32) -> f32) {
        match self {
            Self::One(by) => piece.iter_mut().for_each(|value| *value = change(*value, by)),
            Self::Each(by) => piece.iter_mut().zip(&by[start..]).for_each(|(value, by)| *value = change(*value, *by)),
        }
    }
}

/// Which elements the numbers of a [`Given`] are for, where there is more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// One for each column.
    Columns,
    /// One for each row; they start again where there are more rows.
    Rows,
}

/// Scales and offsets that are given: `v * scale + offset`, the product rounded first.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// Host f32, one or one for each column or row.
    pub scale: &'a [f32],
    /// Host f32, as many.
    pub offset: Option<&'a [f32]>,
    /// Whether values are multiplied by the scale twice.
    pub squared: bool,
    /// What several numbers are for.
    pub along: Along,
}

impl Given<'_> {
    /// One scale and one offset for all.
    pub fn one<'a>(scale: &'a f32, offset: &'a f32) -> Given<'a> {
        let (scale, offset) = (std::slice::from_ref(scale), Some(std::slice::from_ref(offset)));
        Given { scale, offset, squared: false, along: Along::Columns }
    }

    fn check(&self, rows: usize, width: usize) -> Result<(), KernelError> {
        match (self.along, self.scale.len()) {
            (_, 1) => {}
            (Along::Columns, len) => error::length("given scale", width, len)?,
            (Along::Rows, len) => {
                error::divide("rows by given scales", rows, len)?;
            }
        }
        self.offset.map_or(Ok(()), |offset| error::length("given offset", self.scale.len(), offset.len()))
    }

    fn of<'a>(&self, numbers: &'a [f32], row: usize) -> PerColumn<'a> {
        match (self.along, numbers) {
            (_, [one]) => PerColumn::One(*one),
            (Along::Columns, each) => PerColumn::Each(each),
            (Along::Rows, all) => PerColumn::One(all[row % all.len()]),
        }
    }
}

/// Quantises rows by scales and offsets that are given, in parallel.
///
/// - `x` host `T [rows, width]`; `y` host bytes of `[rows, width]` int8 or int4.
///
/// Source: ops-transformer 9.1.0, moe/moe_init_routing_v3 (quantMode 0); ops-nn 9.1.0, quant/ascend_quant_v2.
///
/// # Errors
/// [`KernelError::Length`] or [`KernelError::NotMultiple`] when sizes do not fit.
pub fn static_quantise<T: Float>(
    integer: Integer,
    conversion: Conversion,
    x: &[T],
    width: usize,
    given: Given<'_>,
    y: &mut [u8],
) -> Result<(), KernelError> {
    let rows = error::divide("x", x.len(), width)?;
    let row_bytes = check_rows(integer, x.len(), width, y.len(), rows)?;
    if rows == 0 {
        return Ok(());
    }
    given.check(rows, width)?;
    let out = y.par_chunks_mut(row_bytes).zip(x.par_chunks(width)).enumerate();
    out.with_min_len(TASK.div_ceil(width)).for_each(|(row, (out, x))| {
        let (scale, offset) = (given.of(given.scale, row), given.offset.map(|offset| given.of(offset, row)));
        write_row(integer, conversion, width, out, |start, piece| {
            T::widen(&x[start..], piece);
            scale.apply(start, piece, |value, by| value * by);
            if given.squared {
                scale.apply(start, piece, |value, by| value * by);
            }
            if let Some(offset) = offset {
                offset.apply(start, piece, |value, by| value + by);
            }
        });
    });
    Ok(())
}

/// Bytes of a row of y, where all sizes fit.
fn check_rows(integer: Integer, x: usize, width: usize, y: usize, rows: usize) -> Result<usize, KernelError> {
    error::length("x", error::product("x", &[rows, width])?, x)?;
    let row_bytes = integer.row_bytes(width)?;
    error::length("y", error::product("y", &[rows, row_bytes])?, y)?;
    Ok(row_bytes)
}
