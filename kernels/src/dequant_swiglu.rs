//! Between the two products of a quantised expert: accumulators or floats in, SwiGLU, int8 or int4 with their scales out.
//!
//! Everything is f32. Rows go by groups, the experts; each has scales, biases and factors of its own.
//!
//! Source: ops-nn 9.1.0, quant/dequant_swiglu_quant and quant/swi_glu_quant (op_kernel).

use rayon::prelude::*;

use crate::activation::Clipped;
use crate::element::Float;
use crate::error::{self, KernelError};
use crate::gated::{Gate, gated};
use crate::group_list::Group;
use crate::isa::Isa;
use crate::quantise::{Conversion, Integer, PerColumn, RowQuantiser, of_f32, write_row};

/// Elements that are handled at a time.
const PIECE: usize = 256;

/// Elements that are worth a task of their own.
const TASK: usize = 1024;

/// A bias for each column of each group.
#[derive(Debug, Clone, Copy)]
pub enum Bias<'a> {
    /// Host i32 `[groups, 2n]`, added to the accumulators.
    Accumulators(&'a [i32]),
    /// Host f32 `[groups, 2n]`, added behind the scales.
    Floats(&'a [f32]),
}

/// What accumulators stand for: `(acc + bias) * weight_scale * activation_scale + bias`, one of the two biases.
#[derive(Debug, Clone, Copy)]
pub struct Dequant<'a> {
    /// Host f32 `[groups, 2n]`.
    pub weight_scale: &'a [f32],
    /// Host f32 `[rows]`.
    pub activation_scale: Option<&'a [f32]>,
    /// A bias for each column.
    pub bias: Option<Bias<'a>>,
}

/// Rows that come in.
#[derive(Debug, Clone, Copy)]
pub enum GatedRows<'a, T> {
    /// Host i32 `[rows, 2n]`: sums of products of whole numbers.
    Accumulators(&'a [i32], Dequant<'a>),
    /// Host `T [rows, 2n]`.
    Floats(&'a [T]),
}

/// The gated activation of a row of 2n.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Glu {
    /// `gate / (1 + exp(-gate)) * up` of the two halves.
    Halves {
        /// Whether the gate is the first half.
        gate_first: bool,
    },
    /// That of [`clipped_swiglu`](crate::activation::clipped_swiglu).
    Clipped(Clipped),
}

/// How the activation is quantised.
#[derive(Debug, Clone, Copy)]
pub enum Requantise<'a> {
    /// Each row, times factors, to its greatest magnitude.
    Dynamic {
        /// How.
        quantiser: RowQuantiser,
        /// Host f32, one for each group or `[groups, n]`.
        smooth: Option<&'a [f32]>,
    },
    /// By scales and offsets that are given.
    Static {
        /// What to.
        integer: Integer,
        /// Whether values are multiplied by a scale, divided by it, or multiplied by its reciprocal.
        by: ScaleBy,
        /// Host f32, one for each group or `[groups, n]`.
        scale: &'a [f32],
        /// Host f32, as many.
        offset: &'a [f32],
    },
}

/// How a given scale is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleBy {
    /// `v * scale`.
    Multiply,
    /// `v / scale` where there is one for each column, `v * (1 / scale)` where there is one for the group, and v where that
    /// is 0.
    Divide,
}

/// Which rows have which scales and factors.
#[derive(Debug, Clone, Copy)]
pub struct RowGroups<'a> {
    /// Number of groups.
    pub count: usize,
    /// Those that are not empty, in ascending order of rows from 0 on.
    pub rows: &'a [Group],
    /// Whether the rows behind the last group are computed too, without factors, scales and offsets; else they are not
    /// written.
    pub rest: bool,
}

/// Dequantises, activates and quantises rows, in parallel.
///
/// - `x` the rows, `half` n; `y` host bytes of `[rows, n]` int8 or int4; `scale` host f32 `[rows]`, of dynamic quantisation
///   only.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit.
pub fn dequant_swiglu_quant<T: Float>(
    x: GatedRows<'_, T>,
    half: usize,
    groups: RowGroups<'_>,
    glu: Glu,
    requantise: Requantise<'_>,
    y: &mut [u8],
    scale: &mut [f32],
) -> Result<(), KernelError> {
    let row_bytes = requantise.integer().row_bytes(half)?;
    let rows = error::divide("y", y.len(), row_bytes)?;
    check(x, rows, half, groups, requantise, scale.len())?;
    if half == 0 {
        return Ok(());
    }
    let grouped = groups.rows.last().map_or(0, |group| group.rows.end);
    let mut unused = if requantise.is_dynamic() { vec![] } else { vec![0f32; rows] };
    let scale = if requantise.is_dynamic() { scale } else { &mut unused };
    let out = y.par_chunks_mut(row_bytes).zip(scale).enumerate();
    out.take(if groups.rest { rows } else { grouped }).with_min_len(TASK.div_ceil(half)).for_each_init(
        || vec![0f32; half],
        |activation, (row, (out, scale))| {
            let at = groups.rows.partition_point(|group| group.rows.end <= row);
            let group = groups.rows.get(at).map(|group| group.expert);
            activate(x, row, group.unwrap_or(0), half, glu, activation);
            *scale = requantise.row(activation, group, groups.count, out);
        },
    );
    Ok(())
}

fn check<T>(
    x: GatedRows<'_, T>,
    rows: usize,
    half: usize,
    groups: RowGroups<'_>,
    requantise: Requantise<'_>,
    scales: usize,
) -> Result<(), KernelError> {
    let (size, columns) =
        (error::product("x", &[rows, half, 2])?, error::product("columns", &[groups.count, half, 2])?);
    match x {
        GatedRows::Floats(x) => error::length("x", size, x.len())?,
        GatedRows::Accumulators(x, dequant) => {
            error::length("x", size, x.len())?;
            error::length("weight scale", columns, dequant.weight_scale.len())?;
            dequant.activation_scale.map_or(Ok(()), |scale| error::length("activation scale", rows, scale.len()))?;
            match dequant.bias {
                Some(Bias::Accumulators(bias)) => error::length("bias", columns, bias.len())?,
                Some(Bias::Floats(bias)) => error::length("bias", columns, bias.len())?,
                None => {}
            }
        }
    }
    let of_groups = |what, len: usize| match len {
        len if len == groups.count => Ok(()),
        len => error::length(what, error::product(what, &[groups.count, half])?, len),
    };
    match requantise {
        Requantise::Dynamic { smooth, .. } => {
            error::length("scale", rows, scales)?;
            smooth.map_or(Ok(()), |smooth| of_groups("smooth factors", smooth.len()))?;
        }
        Requantise::Static { scale, offset, .. } => {
            of_groups("given scale", scale.len())?;
            error::length("given offset", scale.len(), offset.len())?;
        }
    }
    groups.rows.iter().try_for_each(|group| {
        error::range("group", group.expert + 1, 1, groups.count)?;
        error::range("end of a group", group.rows.end, 0, rows)
    })
}

/// The activation of a row.
fn activate<T: Float>(x: GatedRows<'_, T>, row: usize, group: usize, half: usize, glu: Glu, out: &mut [f32]) {
    let read = |start: usize, piece: &mut [f32]| x.read(row, group, 2 * half, start, piece);
    let mut room = [0f32; 2 * PIECE];
    for (at, out) in out.chunks_mut(PIECE).enumerate() {
        let start = at * PIECE;
        let room = &mut room[..2 * out.len()];
        if matches!(glu, Glu::Clipped(Clipped { interleaved: true, .. })) {
            read(2 * start, room);
        } else {
            let (first, second) = room.split_at_mut(out.len());
            read(start, first);
            read(half + start, second);
        }
        let (isa, halves) = (Isa::current(), room.split_at(out.len()));
        match glu {
            Glu::Halves { gate_first: true } => gated(isa, Gate::Divide, halves.0, halves.1, out),
            Glu::Halves { gate_first: false } => gated(isa, Gate::Divide, halves.1, halves.0, out),
            Glu::Clipped(clipped) if clipped.interleaved => {
                let mut apart = [[0f32; PIECE]; 2];
                for (at, [gate, up]) in room.as_chunks().0.iter().enumerate() {
                    (apart[0][at], apart[1][at]) = (*gate, *up);
                }
                gated(isa, clipped.gate(), &apart[0], &apart[1], out);
            }
            Glu::Clipped(clipped) => gated(isa, clipped.gate(), halves.0, halves.1, out),
        }
    }
}

impl<T: Float> GatedRows<'_, T> {
    /// Columns of a row from `start` on, in f32.
    fn read(&self, row: usize, group: usize, width: usize, start: usize, piece: &mut [f32]) {
        let (cells, columns) = (row * width + start, group * width + start);
        match self {
            Self::Floats(x) => T::widen(&x[cells..], piece),
            Self::Accumulators(x, dequant) => {
                let len = piece.len();
                let x = &x[cells..][..len];
                match dequant.bias {
                    Some(Bias::Accumulators(bias)) => {
                        let sums = x.iter().zip(&bias[columns..]).map(|(x, bias)| x.wrapping_add(*bias));
                        piece.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
                    }
                    _ => piece.iter_mut().zip(x).for_each(|(out, x)| *out = *x as f32),
                }
                piece.iter_mut().zip(&dequant.weight_scale[columns..]).for_each(|(out, scale)| *out *= scale);
                if let Some(scale) = dequant.activation_scale.map(|scale| scale[row]) {
                    piece.iter_mut().for_each(|out| *out *= scale);
                }
                if let Some(Bias::Floats(bias)) = dequant.bias {
                    piece.iter_mut().zip(&bias[columns..]).for_each(|(out, bias)| *out += bias);
                }
            }
        }
    }
}

/// Numbers of a group: one, or one for each column.
fn of_group(values: &[f32], group: usize, groups: usize, width: usize) -> PerColumn<'_> {
    if values.len() == groups {
        PerColumn::One(values[group])
    } else {
        PerColumn::Each(&values[group * width..][..width])
    }
}

impl Requantise<'_> {
    fn is_dynamic(&self) -> bool {
        matches!(self, Self::Dynamic { .. })
    }

    fn integer(&self) -> Integer {
        match self {
            Self::Dynamic { quantiser, .. } => quantiser.integer,
            Self::Static { integer, .. } => *integer,
        }
    }

    /// Quantises a row of `group`, or of none, and gives its scale; 0 where it is not found here.
    fn row(&self, values: &mut [f32], group: Option<usize>, groups: usize, out: &mut [u8]) -> f32 {
        let width = values.len();
        match *self {
            Self::Dynamic { quantiser, smooth } => {
                if let Some((smooth, group)) = smooth.zip(group) {
                    of_group(smooth, group, groups, width).apply(0, values, |value, by| value * by);
                }
                quantiser.quantise(width, &of_f32(values), out)
            }
            Self::Static { integer, by, scale, offset } => {
                if let Some(group) = group {
                    match (by, of_group(scale, group, groups, width)) {
                        (ScaleBy::Divide, PerColumn::One(0.0)) => {}
                        (ScaleBy::Divide, PerColumn::One(scale)) => {
                            PerColumn::One(1.0 / scale).apply(0, values, |value, by| value * by);
                        }
                        (ScaleBy::Divide, each) => each.apply(0, values, |value, by| value / by),
                        (ScaleBy::Multiply, any) => any.apply(0, values, |value, by| value * by),
                    }
                    of_group(offset, group, groups, width).apply(0, values, |value, by| value + by);
                }
                write_row(integer, Conversion::Nearest, width, out, of_f32(values));
                0.0
            }
        }
    }
}
