//! Quantised operands as the tests of grouped products lay them out, and their products as plain loops.

use ascend_moe::{DType, Error, Tensor, TensorView};
use ascend_sys::OperatorId;
use half::f16;
use moe_kernels::nz::{NzLayout, pack};
use moe_kernels::view::NdView;

use crate::operators::bf;
use crate::rig::Rig;

pub(crate) fn without(ids: &[OperatorId]) -> Rig {
    let absent = ids.iter().map(|id| id.info().phase2).collect();
    Rig::with(|config| config.absent = absent)
}

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) packed: bool,
    pub(crate) transposed: bool,
    /// int4 in int32.
    pub(crate) carried: bool,
}

pub(crate) const LAYOUTS: [Layout; 4] = [
    Layout { packed: false, transposed: false, carried: false },
    Layout { packed: true, transposed: false, carried: false },
    Layout { packed: false, transposed: false, carried: true },
    Layout { packed: true, transposed: false, carried: true },
];

/// Two to a byte, the even one low.
pub(crate) fn nibbles(values: &[i8]) -> Vec<u8> {
    values.chunks_exact(2).map(|pair| (pair[0] as u8 & 15) | (pair[1] as u8) << 4).collect()
}

/// Weights `[E, K, N]` of int8 or int4; a transposed one is to be viewed as such.
pub(crate) fn weight(rig: &Rig, values: &[i8], [e, k, n]: [usize; 3], int4: bool, layout: Layout) -> Tensor {
    let [rows, cols] = if layout.transposed { [n, k] } else { [k, n] };
    let stored: Vec<i8> = (0..e * k * n)
        .map(|i| {
            let (expert, row, col) = (i / (k * n), i / cols % rows, i % cols);
            let [k_at, n_at] = if layout.transposed { [col, row] } else { [row, col] };
            values[expert * k * n + k_at * n + n_at]
        })
        .collect();
    let packed = if !layout.packed {
        stored
    } else if int4 {
        let blocks = NzLayout::int4(rows, cols).unwrap();
        let mut all = Vec::new();
        for matrix in stored.chunks_exact(rows * cols) {
            let mut block = vec![0; blocks.storage_len()];
            (0..rows * cols).for_each(|i| block[blocks.offset(i / cols, i % cols).unwrap()] = matrix[i]);
            all.extend(block);
        }
        all
    } else {
        let mut all = vec![0; e * NzLayout::new(rows, cols, 1).unwrap().storage_len()];
        pack(&NdView::contiguous(&stored, &[e, rows, cols]).unwrap(), &mut all).unwrap();
        all
    };
    let (dtype, shape) = match (int4, layout.carried) {
        (false, _) => (DType::I8, [e, rows, cols]),
        (true, false) => (DType::I4, [e, rows, cols]),
        (true, true) => (DType::I32, [e, rows, cols / 8]),
    };
    let bytes = if int4 { nibbles(&packed) } else { bytemuck::cast_slice(&packed).to_vec() };
    match layout.packed {
        true => Tensor::from_nz_bytes(&rig.device, dtype, &bytes, &shape).unwrap(),
        false => Tensor::from_bytes(&rig.device, dtype, &bytes, &shape).unwrap(),
    }
}

pub(crate) fn views(tensors: &[Tensor]) -> Vec<TensorView<'_>> {
    tensors.iter().map(Tensor::view).collect()
}

pub(crate) fn viewed(weight: &Tensor, layout: Layout) -> TensorView<'_> {
    if layout.transposed { weight.view().transpose().unwrap() } else { weight.view() }
}

/// Scales as the low halves of uint64.
pub(crate) fn wide(rig: &Rig, values: &[f32], shape: &[usize]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| u64::from(value.to_bits()).to_ne_bytes()).collect();
    Tensor::from_bytes(&rig.device, DType::U64, &bytes, shape).unwrap()
}

pub(crate) fn numbers(len: usize, low: i64, high: i64, seed: usize) -> Vec<i8> {
    (0..len).map(|i| (low + ((i * 7919 + i / 13 + seed * 131) as i64 * 37 % (high - low + 1))) as i8).collect()
}

pub(crate) fn factors(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 31 + seed * 17) % 97) as f32 * 1.37e-3 - 0.02).collect()
}

pub(crate) fn half(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

pub(crate) fn dot(x: &[i8], w: &[i8], n: usize, column: usize) -> i32 {
    x.iter().enumerate().map(|(k, &x)| i32::from(x) * i32::from(w[k * n + column])).sum()
}

/// The sum of scaled products over the parts of K, all in f16.
pub(crate) fn halves(x: &[i8], w: &[i8], n: usize, column: usize, scale: &[f32]) -> f32 {
    let size = x.len() / (scale.len() / n);
    let parts = x.chunks(size).enumerate();
    parts.fold(0.0, |sum, (part, x)| {
        half(sum + half(dot(x, &w[part * size * n..], n, column) as f32 * scale[part * n + column]))
    })
}

/// `16 * high + low` of the halves of x.
pub(crate) fn msd(x: &[i8], w: &[i8], n: usize, column: usize, scale: &[f32]) -> f32 {
    let part = |of: fn(i8) -> i8| halves(&x.iter().map(|&x| of(x)).collect::<Vec<_>>(), w, n, column, scale);
    16.0 * part(|x| x.div_euclid(16)) + part(|x| x.rem_euclid(16) - 8)
}

pub(crate) const COUNTS: [usize; 3] = [3, 0, 4];

pub(crate) const ROWS: usize = 9;

pub(crate) const POISON: f32 = -7.0;

/// One row of numbers for each row of x that belongs to an expert, and what was there for the others.
pub(crate) fn rows_of(n: usize, value: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
    let experts: Vec<usize> = COUNTS.iter().enumerate().flat_map(|(expert, &count)| vec![expert; count]).collect();
    (0..ROWS * n).map(|i| experts.get(i / n).map_or(POISON, |&expert| value(i / n, expert, i % n))).collect()
}

pub(crate) fn bf16s(values: &[f32]) -> Vec<f32> {
    bf(values).iter().map(|value| value.to_f32()).collect()
}

pub(crate) fn f16s(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| half(value)).collect()
}

/// The rule of the operator that a call breaks.
pub(crate) fn rule(result: ascend_moe::Result<OperatorId>) -> (OperatorId, &'static str) {
    match result {
        Err(Error::Rule(violation)) => (violation.operator, violation.rule),
        other => panic!("{other:?}"),
    }
}
