//! A layer's experts on the kernels alone, without a device: what the operators of a layer call, one after the other.

use anyhow::Result;
use moe_kernels::activation::swiglu;
use moe_kernels::combine::{Finalize, Rounding, SlotOrder, finalize};
use moe_kernels::element::Float;
use moe_kernels::gemm::Weight;
use moe_kernels::group_list::{Group, GroupListKind, decode};
use moe_kernels::grouped_gemm::{Expert, grouped_gemm};
use moe_kernels::init_routing::Routing;
use moe_kernels::nz::{NzLayout, NzMat, pack};
use moe_kernels::view::{Mat, MatMut, NdView};

use super::workload::{Experts, values};

/// How weights lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Row-major `[N, K]`, as checkpoints have them.
    Nd,
    /// The same `[N, K]` as FRACTAL_NZ.
    Nz,
}

/// A weight `[N, K]` of each expert.
pub(crate) struct Weights<T> {
    format: Format,
    rows: usize,
    cols: usize,
    each: Vec<Vec<T>>,
}

impl<T: Float> Weights<T> {
    /// `rows` is N, `cols` is K.
    pub(crate) fn new(format: Format, experts: usize, rows: usize, cols: usize) -> Result<Self> {
        let row_major: Vec<T> = values(rows * cols, 0.05);
        let one = match format {
            Format::Nd => row_major,
            Format::Nz => {
                let mut packed = vec![T::from_f32(0.0); NzLayout::new(rows, cols, T::BYTES)?.storage_len()];
                pack(&NdView::contiguous(&row_major, &[rows, cols])?, &mut packed)?;
                packed
            }
        };
        Ok(Self { format, rows, cols, each: vec![one; experts] })
    }

    fn experts(&self) -> Result<Vec<Expert<'_, T>>> {
        let (rows, cols) = (self.rows, self.cols);
        let expert = |storage| {
            let weight = match self.format {
                Format::Nd => Weight::Strided(Mat::row_major(storage, rows, cols)?.transposed()),
                Format::Nz => Weight::NzTransposed(NzMat::new(storage, rows, cols)?),
            };
            Ok(Expert { weight, bias: None })
        };
        self.each.iter().map(|storage| expert(storage.as_slice())).collect()
    }
}

/// Weights, activations and buffers of a workload.
pub(crate) struct Pipeline<T> {
    job: Experts,
    gate_up: Weights<T>,
    down: Weights<T>,
    x: Vec<T>,
    ids: Vec<i32>,
    scales: Vec<f32>,
    expanded: Vec<T>,
    projected: Vec<T>,
    activated: Vec<T>,
    combined: Vec<T>,
    row_index: Vec<i32>,
    counts: Vec<i64>,
    output: Vec<T>,
}

impl<T: Float> Pipeline<T> {
    /// Makes the operands of a workload.
    pub(crate) fn new(job: Experts, format: Format) -> Result<Self> {
        let Experts { tokens, hidden, intermediate, experts, top_k, .. } = job;
        let slots = tokens * top_k;
        let zeros = |len| vec![T::from_f32(0.0); len];
        Ok(Self {
            job,
            gate_up: Weights::new(format, experts, 2 * intermediate, hidden)?,
            down: Weights::new(format, experts, hidden, intermediate)?,
            x: values(tokens * hidden, 1.0),
            ids: job.expert_ids(),
            scales: vec![1.0 / top_k as f32; slots],
            expanded: zeros(slots * hidden),
            projected: zeros(slots * 2 * intermediate),
            activated: zeros(slots * intermediate),
            combined: zeros(slots * hidden),
            row_index: vec![0; slots],
            counts: vec![0; experts],
            output: zeros(tokens * hidden),
        })
    }

    /// Does the job once.
    pub(crate) fn run(&mut self) -> Result<()> {
        let Experts { hidden, intermediate, experts, top_k, .. } = self.job;
        let slots = self.ids.len();
        let routing = Routing::new(&self.ids, 0..experts)?;
        routing.gather_index(&mut self.row_index)?;
        routing.write_counts(GroupListKind::Count, &mut self.counts)?;
        let src = bytemuck::cast_slice(&self.x);
        routing.expand(src, hidden * T::BYTES, top_k, None, bytemuck::cast_slice_mut(&mut self.expanded))?;
        let groups = decode(GroupListKind::Count, &self.counts, experts, slots)?;
        product(&self.expanded, &self.gate_up, &groups, &mut self.projected)?;
        swiglu(&self.projected, &[slots, 2 * intermediate], 1, &mut self.activated)?;
        product(&self.activated, &self.down, &groups, &mut self.combined)?;
        let operands = Finalize {
            expanded: &self.combined,
            hidden,
            row_index: &self.row_index,
            top_k,
            order: SlotOrder::RowMajor,
            drop_pad: false,
            x1: None,
            x2: None,
            bias: None,
            scales: Some(&self.scales),
            rounding: Rounding::Once,
        };
        Ok(finalize(&operands, &mut self.output)?)
    }

    /// What the last run gave, `[tokens, hidden]`.
    pub(crate) fn output(&self) -> &[T] {
        &self.output
    }
}

/// `out = x @ weight` of each group's expert.
fn product<T: Float>(x: &[T], weights: &Weights<T>, groups: &[Group], out: &mut [T]) -> Result<()> {
    let rows = x.len() / weights.cols;
    let (x, out) = (Mat::row_major(x, rows, weights.cols)?, MatMut::row_major(out, rows, weights.rows)?);
    Ok(grouped_gemm(x, &weights.experts()?, groups, out)?)
}
