//! The first product of quantised experts, its SwiGLU and the quantisation of what comes out, row by row.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul_swiglu_quant and gmm/grouped_matmul_swiglu_quant_v2.

use std::cell::Cell;

use rayon::prelude::*;

use crate::error::{self, KernelError};
use crate::gated::{Gate, gated};
use crate::group_list::Group;
use crate::grouped_gemm::check_groups;
use crate::isa::Isa;
use crate::quant_gemm::{
    Activation, Dequant, QuantExpert, Rounding, ScaleOrder, Scheme, products_of_groups, quant_gemm,
};
use crate::quantise::{Conversion, Integer, RowQuantiser, Scaling, of_f32};
use crate::view::{Mat, MatMut};

/// Elements that are activated at a time.
const PIECE: usize = 256;

/// Dequantised numbers that are held at a time.
const BLOCK: usize = 1 << 23;

thread_local! {
    /// Room for a block, kept from one call to the next: to be given its pages anew costs more than to fill them.
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Factors of activated numbers before they are quantised.
#[derive(Debug, Clone, Copy)]
pub enum Smooth<'a> {
    /// None.
    None,
    /// f32 `[E]`: one for each expert.
    Expert(&'a [f32]),
    /// f32 `[E, N / 2]`: one for each column of each expert.
    Column(&'a [f32]),
}

/// Inputs of [`grouped_swiglu_quant`], for E experts.
#[derive(Debug, Clone, Copy)]
pub struct SwigluQuant<'a> {
    /// int8 `[M, K]`, any strides; int4 in int8 for [`Scheme::Int4`].
    pub x: Mat<'a, i8>,
    /// f32 `[M]`.
    pub x_scale: &'a [f32],
    /// Each `[K, N]`: the first N / 2 columns are the gate, the others the up projection.
    pub experts: &'a [QuantExpert<'a>],
    /// In ascending order of rows, without overlap.
    pub groups: &'a [Group],
    /// What is multiplied with what.
    pub scheme: Scheme,
    /// Which roundings are made. [`Rounding::Faithful`] rounds to fp16 before it rounds to int8.
    pub rounding: Rounding,
    /// Factors of the activated numbers.
    pub smooth: Smooth<'a>,
}

/// For each row of a group: `s = gate / (1 + exp(-gate)) * up` of the dequantised product, `scale = max |s| / 127` and `q` the
/// nearest whole numbers to `s * (1 / scale)`, in parallel. A row of zeros gives zeros and a scale of 0.
///
/// - `q` host i8 `[M, N / 2]`, `scale` host f32 `[M]`; rows of no group are not written.
///
/// # Errors
/// Those of [`products_of_groups`] and [`quant_gemm`]; [`KernelError::NotMultiple`] for an odd N, [`KernelError::Length`] for
/// slices of another length.
pub fn grouped_swiglu_quant(inputs: &SwigluQuant<'_>, q: &mut [i8], scale: &mut [f32]) -> Result<(), KernelError> {
    let &SwigluQuant { x, x_scale, experts, groups, smooth, .. } = inputs;
    let n = experts.first().map_or(0, |expert| expert.weight.n());
    let half = error::divide("N", n, 2)?;
    error::length("x_scale", x.rows(), x_scale.len())?;
    error::length("q", error::product("q", &[x.rows(), half])?, q.len())?;
    error::length("scale", x.rows(), scale.len())?;
    match smooth {
        Smooth::None => {}
        Smooth::Expert(factors) => error::length("smooth", experts.len(), factors.len())?,
        Smooth::Column(factors) => {
            error::length("smooth", error::product("smooth", &[experts.len(), half])?, factors.len())?;
        }
    }
    check_groups(groups, experts.len(), x.rows())?;
    if half == 0 {
        return Ok(());
    }
    let rows = (BLOCK / n).max(1);
    // Taken, not borrowed: another call may begin on this thread while it waits for others.
    let mut sums = SUMS.take();
    sums.resize(sums.len().max(rows.min(x.rows()) * n), 0.0);
    let blocks = q.chunks_mut(rows * half).zip(scale.chunks_mut(rows)).enumerate();
    let done = blocks.map(|(block, outputs)| (block * rows, outputs)).try_for_each(|(start, (q, scale))| {
        let end = start + scale.len();
        let within = groups.iter().map(|Group { expert, rows }| {
            let rows = rows.start.clamp(start, end) - start..rows.end.clamp(start, end) - start;
            Group { expert: *expert, rows }
        });
        let groups: Vec<Group> = within.filter(|group| !group.rows.is_empty()).collect();
        let x = x.row_range(start..end);
        block_of_rows(
            &SwigluQuant { x, x_scale: &x_scale[start..end], groups: &groups, ..*inputs },
            &mut sums,
            q,
            scale,
        )
    });
    SUMS.set(sums);
    done
}

/// [`grouped_swiglu_quant`] of as many rows as are held as numbers at a time, in `sums`, of which rows of no group are not looked
/// at.
fn block_of_rows(
    inputs: &SwigluQuant<'_>,
    sums: &mut [f32],
    q: &mut [i8],
    scale: &mut [f32],
) -> Result<(), KernelError> {
    let &SwigluQuant { x, x_scale, experts, groups, scheme, rounding, smooth } = inputs;
    let half = q.len() / x.rows().max(1);
    let sums = &mut sums[..2 * q.len()];
    let products = products_of_groups(x, experts, groups, MatMut::row_major(sums, x.rows(), 2 * half)?)?;
    let (row_scale, order, activation) = (Some(x_scale), ScaleOrder::Row, Activation::None);
    quant_gemm(products, &Dequant { scheme, rounding, row_scale, order, activation })?;
    let mut expert_of = vec![None; x.rows()];
    for Group { expert, rows } in groups {
        expert_of[rows.clone()].fill(Some(*expert));
    }
    let conversion = match rounding {
        Rounding::Fast => Conversion::Nearest,
        Rounding::Faithful => Conversion::NearestHalf,
    };
    let quantiser = RowQuantiser { integer: Integer::Int8, scaling: Scaling::MultiplyByReciprocal, conversion };
    let isa = Isa::current();
    let rows = q.par_chunks_mut(half).zip(scale).zip(sums.par_chunks_mut(2 * half)).zip(expert_of);
    rows.for_each(|(((q, scale), sums), expert)| {
        let Some(expert) = expert else { return };
        let (gate, up) = sums.split_at_mut(half);
        for (gate, up) in gate.chunks_mut(PIECE).zip(up.chunks(PIECE)) {
            let mut active = [0f32; PIECE];
            let active = &mut active[..gate.len()];
            gated(isa, Gate::Divide, gate, up, active);
            gate.copy_from_slice(active);
        }
        match smooth {
            Smooth::None => {}
            Smooth::Expert(factors) => gate.iter_mut().for_each(|s| *s *= factors[expert]),
            Smooth::Column(factors) => {
                let factors = &factors[expert * half..(expert + 1) * half];
                gate.iter_mut().zip(factors).for_each(|(s, factor)| *s *= factor);
            }
        }
        *scale = quantiser.quantise(half, &of_f32(gate), bytemuck::cast_slice_mut(q));
    });
    Ok(())
}
