//! Products of quantised activations and weights: exact int32 accumulators, and the scales that make numbers of them.
//!
//! The accumulators are those of [`crate::int_gemm`]; what follows is f32, element by element, so that the results are the same
//! bits for any number of threads. [`Rounding`] says whether the roundings that CANN makes on the way are made here too.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul (op_kernel: quantised, MSD and int4 products).

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::group_list::Group;
use crate::grouped_gemm::split_groups;
use crate::int_gemm::{IntProblem, IntWeight, Span, int_gemms, int_gemms_in_k_groups};
use crate::vectors::{Vectors, vectorised};
use crate::view::{Mat, MatMut};

/// Numbers that are handled at a time.
const PIECE: usize = 256;

/// Rows whose halves are held at a time.
const MSD_ROWS: usize = 4096;

/// Which roundings a quantised product makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Sums in f32 and one rounding at the end: the fewest steps.
    Fast,
    /// Those of CANN: partial sums in fp16, and activations in two parts, where its kernels have them.
    Faithful,
}

/// What is multiplied with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// int8 by int8, a scale for each column.
    Int8,
    /// int8 by int4, a scale for each column or for each of equal parts of K.
    ///
    /// Faithful: `x = 16 * high + low + 8` with `high = floor(x / 16)` and `low = (x & 15) - 8`. Each part has a product of its
    /// own, scaled, rounded to fp16 and, over the parts of K, added up in fp16; with `bias = 8 * sum of w * scale`, which the
    /// caller brings, the result is `((16 * high + low) + bias) * row scale`. Fast: the product itself; the bias is not used.
    Msd,
    /// int4 (in int8) by int4, scales as there. Faithful: the scaled product is rounded to fp16 and, over the parts of K, added
    /// up in fp16.
    Int4,
}

/// Which scale a sum is multiplied with first, where both are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleOrder {
    /// That of the column, as grouped_matmul does.
    Column,
    /// That of the row, as grouped_matmul_swiglu_quant does.
    Row,
}

/// What is done to a dequantised number before it is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(x, 0)`.
    Relu,
    /// GELU in its tanh form.
    GeluTanh,
    /// `x * sigmoid(1.702 * x)`.
    FastGelu,
    /// `x * sigmoid(x)`.
    Silu,
}

impl Activation {
    fn apply(self, x: f32) -> f32 {
        let sigmoid_of = |t: f32| x / (1.0 + (-t).exp());
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
            // 0.5 * (1 + tanh(t)) is sigmoid(2 * t), and t has the factor sqrt(2 / pi).
            Self::GeluTanh => sigmoid_of(2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (x + 0.044_715 * x * x * x)),
            Self::FastGelu => sigmoid_of(1.702 * x),
            Self::Silu => sigmoid_of(x),
        }
    }
}

/// What is added to the columns of a quantised product.
#[derive(Debug, Clone, Copy)]
pub enum QuantBias<'a> {
    /// Nothing.
    None,
    /// int32 `[N]`, added to the accumulators.
    Whole(&'a [i32]),
    /// f32 `[N]`, added after all scales; that of [`Scheme::Msd`] before the scale of the row.
    Float(&'a [f32]),
}

/// What one expert applies to its rows.
#[derive(Debug, Clone, Copy)]
pub struct QuantExpert<'a> {
    /// `[K, N]`.
    pub weight: IntWeight<'a>,
    /// f32 `[G, N]`, row-major: a row for each of G equal parts of K. Not looked at where accumulators are asked for.
    pub scale: &'a [f32],
    /// f32 `[N]`: `sum of x * offset` is added to the scaled product, before the bias. Of [`Scheme::Msd`] alone.
    pub offset: Option<&'a [f32]>,
    /// `[N]`.
    pub bias: QuantBias<'a>,
}

impl QuantExpert<'_> {
    /// Equal parts of K.
    fn parts(&self) -> usize {
        self.scale.len().checked_div(self.weight.n()).unwrap_or(1)
    }

    /// Scales of a part of K, of these columns.
    fn scales(&self, part: usize, cols: &Range<usize>) -> &[f32] {
        let start = part * self.weight.n();
        &self.scale[start + cols.start..start + cols.end]
    }

    fn check(&self, parts: usize) -> Result<(), KernelError> {
        let (k, n) = (self.weight.k(), self.weight.n());
        error::length("scales", error::product("scales", &[parts, n])?, self.scale.len())?;
        error::divide("K, in equal parts", k, parts)?;
        match self.bias {
            QuantBias::None => {}
            QuantBias::Whole(bias) => error::length("bias", n, bias.len())?,
            QuantBias::Float(bias) => error::length("bias", n, bias.len())?,
        }
        self.offset.map_or(Ok(()), |offset| error::length("offset", n, offset.len()))
    }
}

/// One product of a batch that runs together.
#[derive(Debug)]
pub struct QuantProduct<'a, 'o, O> {
    /// int8 `[M, K]`, any strides.
    pub x: Mat<'a, i8>,
    /// The rows of x that belong to it.
    pub rows: Range<usize>,
    /// What they are multiplied with.
    pub expert: QuantExpert<'a>,
    /// `[rows, N]`, any strides.
    pub out: MatMut<'o, O>,
}

/// A product for every group of rows.
///
/// - `x` host i8 `[M, K]`, any strides.
/// - `experts` each `[K, N]`, with the same K and N.
/// - `groups` in ascending order of rows, without overlap; an expert may have several groups or none.
/// - `out` host `O [M, N]`, any strides; rows of no group are in no product.
///
/// # Errors
/// [`KernelError::Dim`] when shapes disagree (of every expert, used or not), [`KernelError::GroupExpert`],
/// [`KernelError::GroupRows`] or [`KernelError::GroupOverlap`] for groups that do not fit.
pub fn products_of_groups<'a, 'o, O: Copy>(
    x: Mat<'a, i8>,
    experts: &[QuantExpert<'a>],
    groups: &[Group],
    out: MatMut<'o, O>,
) -> Result<Vec<QuantProduct<'a, 'o, O>>, KernelError> {
    error::dim("out, axis M", x.rows(), out.rows())?;
    for expert in experts {
        error::dim("expert weight, axis K", x.cols(), expert.weight.k())?;
        error::dim("expert weight, axis N", out.cols(), expert.weight.n())?;
    }
    let parts = split_groups(groups, experts.len(), out)?;
    let product = |(Group { expert, rows }, out): (&Group, _)| QuantProduct {
        x,
        rows: rows.clone(),
        expert: experts[*expert],
        out,
    };
    Ok(groups.iter().zip(parts).map(product).collect())
}

/// How accumulators become numbers.
#[derive(Debug, Clone, Copy)]
pub struct Dequant<'a> {
    /// What is multiplied with what.
    pub scheme: Scheme,
    /// Which roundings are made.
    pub rounding: Rounding,
    /// f32 `[M]`: a scale for each row of x; `None` for 1.
    pub row_scale: Option<&'a [f32]>,
    /// Which scale comes first, with [`Scheme::Int8`]; with the others it is that of the column.
    pub order: ScaleOrder,
    /// With [`Scheme::Int8`].
    pub activation: Activation,
}

/// The bias that [`Scheme::Msd`] asks for: 8 times the sum of weight * scale over K, in parallel over the columns.
///
/// - `scale` host f32 `[G, N]`, row-major: a row for each of G equal parts of K.
/// - `out` host f32 `[N]`. Each part's sum is exact and multiplied with its scale; parts are added in ascending order.
///
/// # Errors
/// [`KernelError::Length`] or [`KernelError::NotMultiple`] where scales or `out` do not fit.
pub fn msd_bias(weight: &IntWeight<'_>, scale: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    const COLUMNS: usize = 256;
    let (k, n) = (weight.k(), weight.n());
    error::length("out", n, out.len())?;
    let part = error::divide("K, in equal parts", k, error::divide("scales", scale.len(), n)?)?.max(1);
    out.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, out)| {
        let cols = task * COLUMNS..task * COLUMNS + out.len();
        let (mut sums, mut line) = (vec![0i64; out.len()], vec![0i8; out.len()]);
        out.fill(0.0);
        for (index, start) in (0..k).step_by(part).enumerate() {
            sums.fill(0);
            for row in start..start + part {
                weight.row(row, cols.clone(), &mut line);
                sums.iter_mut().zip(&line).for_each(|(sum, w)| *sum += i64::from(*w));
            }
            let scales = &scale[index * n..][cols.clone()];
            for ((out, sum), scale) in out.iter_mut().zip(&sums).zip(scales) {
                *out += (8 * sum) as f32 * scale;
            }
        }
    });
    Ok(())
}

/// The accumulators themselves, with whole biases added, in parallel.
///
/// # Errors
/// Those of [`int_gemms`], and [`KernelError::Length`] for a bias of another length.
pub fn accumulators(products: Vec<QuantProduct<'_, '_, i32>>) -> Result<(), KernelError> {
    for QuantProduct { expert: QuantExpert { bias, weight, .. }, .. } in &products {
        if let QuantBias::Whole(bias) = bias {
            error::length("bias", weight.n(), bias.len())?;
        }
    }
    let (problems, experts) = problems(products);
    int_gemms(problems, |span, acc, out| {
        let acc = acc.iter().copied();
        match experts[span.problem].bias {
            QuantBias::Whole(bias) => fill(out, acc.zip(&bias[span.cols.clone()]).map(|(acc, b)| acc.wrapping_add(*b))),
            _ => fill(out, acc),
        }
    })
}

/// `out = x @ w` with scales, bias and activation, in parallel: [`Scheme`] says of what and in which order.
///
/// # Errors
/// Those of [`int_gemms`]; [`KernelError::Length`] for scales, biases, offsets or a scale of rows of another length;
/// [`KernelError::NotMultiple`] where the scales do not divide K evenly.
pub fn quant_gemm<O: Float>(products: Vec<QuantProduct<'_, '_, O>>, dequant: &Dequant<'_>) -> Result<(), KernelError> {
    let parts = products.first().map_or(1, |product| product.expert.parts());
    let parts = if dequant.scheme == Scheme::Int8 { 1 } else { parts };
    for QuantProduct { x, expert, .. } in &products {
        expert.check(parts)?;
        if let Some(scale) = dequant.row_scale {
            error::length("scale of rows", x.rows(), scale.len())?;
        }
    }
    match (dequant.scheme, dequant.rounding) {
        (Scheme::Int8, _) => int8(products, dequant, O::narrow),
        (_, Rounding::Fast) => in_parts(products, parts, dequant.row_scale, |_| {}),
        (Scheme::Int4, Rounding::Faithful) => in_parts(products, parts, dequant.row_scale, halve),
        (Scheme::Msd, Rounding::Faithful) => msd(products, parts, dequant.row_scale),
    }
}

/// As [`quant_gemm`] of [`Scheme::Int8`], to int8: nearest whole number, ties to even, held within -128 to 127.
///
/// # Errors
/// As there.
pub fn requant_gemm(products: Vec<QuantProduct<'_, '_, i8>>) -> Result<(), KernelError> {
    products.iter().try_for_each(|product| product.expert.check(1))?;
    let dequant = Dequant {
        scheme: Scheme::Int8,
        rounding: Rounding::Faithful,
        row_scale: None,
        order: ScaleOrder::Column,
        activation: Activation::None,
    };
    int8(products, &dequant, |values, out| fill(out, values.iter().map(|value| round_to_i8(*value))))
}

/// The nearest int8, ties to even; what is too large becomes the largest, NaN 0.
pub fn round_to_i8(value: f32) -> i8 {
    // A cast saturates.
    value.round_ties_even() as i8
}

/// [`round_to_i8`] of the nearest fp16: a value just beside the middle of two numbers may land on it.
pub fn round_to_i8_through_f16(value: f32) -> i8 {
    round_to_i8(halved(value))
}

fn halved(value: f32) -> f32 {
    Float::to_f32(<f16 as Float>::from_f32(value))
}

/// Rounds a piece to fp16.
fn halve(values: &mut [f32]) {
    let (eights, rest) = values.as_chunks_mut::<8>();
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") && is_x86_feature_detected!("f16c") {
        // SAFETY: the CPU has the instructions.
        unsafe { halve_eights(eights) };
        return rest.iter_mut().for_each(|value| *value = halved(*value));
    }
    eights.as_flattened_mut().iter_mut().chain(rest).for_each(|value| *value = halved(*value));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
fn halve_eights(values: &mut [[f32; 8]]) {
    use std::arch::x86_64::*;
    for eight in values {
        // SAFETY: eight values lie there.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(eight.as_ptr()));
            _mm256_storeu_ps(eight.as_mut_ptr(), _mm256_cvtph_ps(half));
        }
    }
}

#[inline(always)]
fn fill<O>(out: &mut [O], values: impl Iterator<Item = O>) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
}

/// The products without what comes after the accumulators, and that by itself.
fn problems<'a, 'o, O>(products: Vec<QuantProduct<'a, 'o, O>>) -> (Vec<IntProblem<'a, 'o, O>>, Vec<QuantExpert<'a>>) {
    let part = |QuantProduct { x, rows, expert, out }| (IntProblem { x, rows, weight: expert.weight, out }, expert);
    products.into_iter().map(part).unzip()
}

/// `narrow` gives a piece of numbers their type.
fn int8<O: Copy + Send + Sync>(
    products: Vec<QuantProduct<'_, '_, O>>,
    dequant: &Dequant<'_>,
    narrow: impl Fn(&[f32], &mut [O]) + Sync,
) -> Result<(), KernelError> {
    let (problems, experts) = problems(products);
    let vectors = Vectors::widest();
    let &Dequant { row_scale, order, activation, .. } = dequant;
    int_gemms(problems, |Span { problem, row, cols }, acc, out| {
        let expert = &experts[*problem];
        let row = row_scale.map_or(1.0, |scale| scale[*row]);
        let pieces = cols.clone().step_by(PIECE).zip(acc.chunks(PIECE)).zip(out.chunks_mut(PIECE));
        for ((start, acc), out) in pieces {
            let cols = start..start + acc.len();
            let bias = match expert.bias {
                QuantBias::None => QuantBias::None,
                QuantBias::Whole(bias) => QuantBias::Whole(&bias[cols.clone()]),
                QuantBias::Float(bias) => QuantBias::Float(&bias[cols.clone()]),
            };
            let mut values = [0f32; PIECE];
            let values = &mut values[..acc.len()];
            scale_sums(vectors, acc, order, row, expert.scales(0, &cols), bias, values);
            if activation != Activation::None {
                values.iter_mut().for_each(|value| *value = activation.apply(*value));
            }
            narrow(values, out);
        }
    })
}

vectorised! {
    /// `out` is `acc` with the scales of its row and of its columns, in that order or the other, and with a bias.
    fn scale_sums(
        acc: &[i32], order: ScaleOrder, row: f32, columns: &[f32], bias: QuantBias<'_>, out: &mut [f32],
    ) = scale_sums_plain;
}

#[inline(always)]
fn scale_sums_plain(acc: &[i32], order: ScaleOrder, row: f32, columns: &[f32], bias: QuantBias<'_>, out: &mut [f32]) {
    match bias {
        QuantBias::Whole(bias) => fill(out, acc.iter().zip(bias).map(|(acc, bias)| acc.wrapping_add(*bias) as f32)),
        QuantBias::None | QuantBias::Float(_) => fill(out, acc.iter().map(|acc| *acc as f32)),
    }
    let scaled = out.iter_mut().zip(columns);
    match order {
        ScaleOrder::Column => scaled.for_each(|(value, column)| *value = *value * column * row),
        ScaleOrder::Row => scaled.for_each(|(value, column)| *value = *value * row * column),
    }
    if let QuantBias::Float(bias) = bias {
        out.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
}

/// The scaled sums over the parts of K, each of them and each of their sums through `step`; times the scale of the row.
fn in_parts<O: Float>(
    products: Vec<QuantProduct<'_, '_, O>>,
    parts: usize,
    row_scale: Option<&[f32]>,
    step: impl Fn(&mut [f32]) + Sync,
) -> Result<(), KernelError> {
    let depth = products.first().map_or(0, |product| product.expert.weight.k());
    for product in &products {
        error::dim("w, axis K, of every product", depth, product.expert.weight.k())?;
    }
    let sums: Vec<RowSums> = products.iter().map(RowSums::of).collect();
    let (problems, experts) = problems(products);
    let group = error::divide("K, in equal parts", depth, parts)?.max(1);
    let vectors = Vectors::widest();
    let add_part = |Span { problem, cols, .. }: &Span, part: usize, acc: &[i32], state: &mut [f32]| {
        let scales = experts[*problem].scales(part, cols);
        let pieces = state.chunks_mut(PIECE).zip(acc.chunks(PIECE)).zip(scales.chunks(PIECE));
        for ((state, acc), scales) in pieces {
            let mut values = [0f32; PIECE];
            let values = &mut values[..acc.len()];
            scale_columns(vectors, acc, scales, values);
            step(values);
            add(vectors, values, state);
            step(state);
        }
    };
    int_gemms_in_k_groups(problems, group, add_part, |Span { problem, row, cols }, state, out| {
        let scale = row_scale.map_or(1.0, |scale| scale[*row]);
        let offset = experts[*problem].offset.map(|offset| (sums[*problem].at(*row), &offset[cols.clone()]));
        for (index, (state, out)) in state.chunks(PIECE).zip(out.chunks_mut(PIECE)).enumerate() {
            let mut values = [0f32; PIECE];
            let values = &mut values[..state.len()];
            values.copy_from_slice(state);
            if let Some((of_row, offset)) = offset {
                add_multiple(vectors, of_row, &offset[index * PIECE..], values);
            }
            scale_row(vectors, scale, values);
            O::narrow(values, out);
        }
    })
}

vectorised! {
    /// `out[i] = acc[i] * scales[i]`.
    fn scale_columns(acc: &[i32], scales: &[f32], out: &mut [f32]) = scale_columns_plain;
}

#[inline(always)]
fn scale_columns_plain(acc: &[i32], scales: &[f32], out: &mut [f32]) {
    fill(out, acc.iter().zip(scales).map(|(acc, scale)| *acc as f32 * scale));
}

vectorised! {
    /// `sums[i] += values[i]`.
    fn add(values: &[f32], sums: &mut [f32]) = add_plain;
}

#[inline(always)]
fn add_plain(values: &[f32], sums: &mut [f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

vectorised! {
    /// `sums[i] += factor * values[i]`.
    fn add_multiple(factor: f32, values: &[f32], sums: &mut [f32]) = add_multiple_plain;
}

#[inline(always)]
fn add_multiple_plain(factor: f32, values: &[f32], sums: &mut [f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

vectorised! {
    /// `values[i] *= scale`.
    fn scale_row(scale: f32, values: &mut [f32]) = scale_row_plain;
}

#[inline(always)]
fn scale_row_plain(scale: f32, values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value *= scale);
}

/// The sum of each row of x, where an offset asks for it.
struct RowSums {
    first: usize,
    sums: Vec<f32>,
}

impl RowSums {
    fn of<O>(product: &QuantProduct<'_, '_, O>) -> Self {
        let QuantProduct { x, rows, expert, .. } = product;
        let sum = |row| (0..x.cols()).filter_map(|k| x.get(row, k)).map(i64::from).sum::<i64>() as f32;
        let sums = if expert.offset.is_some() { rows.clone().map(sum).collect() } else { Vec::new() };
        Self { first: rows.start, sums }
    }

    /// That of a row of x; 0 where none was asked for.
    fn at(&self, row: usize) -> f32 {
        row.checked_sub(self.first).and_then(|row| self.sums.get(row)).copied().unwrap_or(0.0)
    }
}

/// The high halves of the rows of a product and then the low ones, int4 each, and their scaled products in fp16, all
/// `[2 * rows, ..]`: one product of both, so that a weight is read once.
struct Halves {
    x: Vec<i8>,
    sums: Vec<f16>,
}

impl Halves {
    fn of(x: &Mat<'_, i8>, rows: &Range<usize>, n: usize) -> Self {
        let cells = rows.len() * x.cols();
        let mut halves = Vec::with_capacity(2 * cells);
        for row in rows.clone() {
            match x.row_slice(row, 0..x.cols()) {
                Some(values) => halves.extend_from_slice(values),
                None => halves.extend((0..x.cols()).map(|k| x.at(row, k))),
            }
        }
        halves.extend_from_within(..);
        let (high, low) = halves.split_at_mut(cells);
        high.iter_mut().for_each(|cell| *cell >>= 4);
        low.iter_mut().for_each(|cell| *cell = (*cell & 15) - 8);
        Self { x: halves, sums: vec![f16::ZERO; 2 * rows.len() * n] }
    }
}

/// Products of the high and the low half of x, a block of rows after the other.
fn msd<O: Float>(
    products: Vec<QuantProduct<'_, '_, O>>,
    parts: usize,
    row_scale: Option<&[f32]>,
) -> Result<(), KernelError> {
    for QuantProduct { x, rows, expert, out } in &products {
        error::range("end of the rows of x", rows.end, rows.start, x.rows())?;
        error::dim("w, axis K", x.cols(), expert.weight.k())?;
        error::dim("out, axis M", rows.len(), out.rows())?;
        error::dim("out, axis N", expert.weight.n(), out.cols())?;
    }
    let (mut block, mut held) = (Vec::new(), 0);
    for QuantProduct { x, rows, expert, mut out } in products {
        let mut start = rows.start;
        while start < rows.end {
            let taken = (MSD_ROWS - held).min(rows.end - start);
            let (part, rest) = out.split_rows(taken);
            block.push(QuantProduct { x, rows: start..start + taken, expert, out: part });
            (out, start, held) = (rest, start + taken, held + taken);
            if held == MSD_ROWS {
                msd_block(std::mem::take(&mut block), parts, row_scale)?;
                held = 0;
            }
        }
    }
    msd_block(block, parts, row_scale)
}

fn msd_block<O: Float>(
    products: Vec<QuantProduct<'_, '_, O>>,
    parts: usize,
    row_scale: Option<&[f32]>,
) -> Result<(), KernelError> {
    let operands: Vec<_> = products.iter().map(|product| (product.x, product.rows.clone(), product.expert)).collect();
    let halves = operands.par_iter().map(|(x, rows, expert)| Halves::of(x, rows, expert.weight.n()));
    let mut halves: Vec<Halves> = halves.collect();
    let mut batch = Vec::with_capacity(halves.len());
    for (Halves { x, sums }, (_, rows, expert)) in halves.iter_mut().zip(&operands) {
        let expert = QuantExpert { bias: QuantBias::None, offset: None, ..*expert };
        let rows = 2 * rows.len();
        let x = Mat::row_major(x, rows, expert.weight.k())?;
        let out = MatMut::row_major(sums, rows, expert.weight.n())?;
        batch.push(QuantProduct { x, rows: 0..rows, expert, out });
    }
    in_parts(batch, parts, None, halve)?;
    let vectors = Vectors::widest();
    products.into_par_iter().zip(&halves).for_each(|(mut product, Halves { sums, .. })| {
        let QuantExpert { weight, offset, bias, .. } = product.expert;
        let n = weight.n();
        let of_rows = RowSums::of(&product);
        let (high, low) = sums.split_at(sums.len() / 2);
        let [mut line, mut high_line] = [0; 2].map(|_| vec![0f32; n]);
        for (at, row) in product.rows.clone().enumerate() {
            <f16 as Float>::widen(&high[at * n..], &mut high_line);
            <f16 as Float>::widen(&low[at * n..], &mut line);
            // 16 times a half is exact.
            add_multiple(vectors, 16.0, &high_line, &mut line);
            if let Some(offset) = offset {
                add_multiple(vectors, of_rows.at(row), offset, &mut line);
            }
            match bias {
                QuantBias::None => {}
                QuantBias::Whole(bias) => line.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += *bias as f32),
                QuantBias::Float(bias) => add(vectors, bias, &mut line),
            }
            scale_row(vectors, row_scale.map_or(1.0, |scale| scale[row]), &mut line);
            match product.out.row_slice_mut(at) {
                Some(out) => O::narrow(&line, out),
                None => product.out.write_row(at, line.iter().map(|sum| O::from_f32(*sum))),
            }
        }
    });
    Ok(())
}
