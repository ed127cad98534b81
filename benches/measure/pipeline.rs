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

use super::workload::{Device, Experts, values};

/// How weights lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Row-major `[N, K]`, as checkpoints have them; the operand is its transposed view.
    Nd,
    /// `[K, N]` as FRACTAL_NZ.
    Nz,
    /// `[N, K]` as FRACTAL_NZ, the operand being its transpose.
    NzTransposed,
}

/// What multiplies rows by the experts that they belong to.
pub(crate) trait Product<T> {
    /// `out [rows, N] = x [rows, K] @ weight` of each group's expert.
    ///
    /// # Errors
    /// Those of the kernel.
    fn product(&self, x: &[T], groups: &[Group], out: &mut [T]) -> Result<()>;
}

/// A weight `[N, K]` of each expert.
pub(crate) struct Weights<T> {
    format: Format,
    rows: usize,
    cols: usize,
    each: Vec<Device<T>>,
}

impl<T: Float> Weights<T> {
    /// `rows` is N, `cols` is K; made up.
    pub(crate) fn new(format: Format, experts: usize, rows: usize, cols: usize) -> Result<Self> {
        Self::of(values(rows * cols, 0.05), format, experts, rows, cols)
    }

    /// The same `[N, K]`, row-major, for each expert.
    pub(crate) fn of(row_major: Vec<T>, format: Format, experts: usize, rows: usize, cols: usize) -> Result<Self> {
        let one = match format {
            Format::Nd => row_major,
            Format::Nz => packed(&NdView::new(&row_major, &[cols, rows], &[1, cols])?)?,
            Format::NzTransposed => packed(&NdView::contiguous(&row_major, &[rows, cols])?)?,
        };
        Ok(Self { format, rows, cols, each: (0..experts).map(|_| Device::new(&one)).collect() })
    }

    fn experts(&self) -> Result<Vec<Expert<'_, T>>> {
        let (rows, cols) = (self.rows, self.cols);
        let expert = |storage| {
            let weight = match self.format {
                Format::Nd => Weight::Strided(Mat::row_major(storage, rows, cols)?.transposed()),
                Format::Nz => Weight::Nz(NzMat::new(storage, cols, rows)?),
                Format::NzTransposed => Weight::NzTransposed(NzMat::new(storage, rows, cols)?),
            };
            Ok(Expert { weight, bias: None })
        };
        self.each.iter().map(|storage| expert(storage)).collect()
    }
}

/// A matrix as FRACTAL_NZ.
fn packed<T: Float>(matrix: &NdView<'_, T>) -> Result<Vec<T>> {
    let &[rows, cols] = matrix.shape() else { anyhow::bail!("a matrix has two axes") };
    let mut packed = vec![T::from_f32(0.0); NzLayout::new(rows, cols, T::BYTES)?.storage_len()];
    pack(matrix, &mut packed)?;
    Ok(packed)
}

impl<T: Float> Product<T> for Weights<T> {
    fn product(&self, x: &[T], groups: &[Group], out: &mut [T]) -> Result<()> {
        let rows = x.len() / self.cols;
        let (x, out) = (Mat::row_major(x, rows, self.cols)?, MatMut::row_major(out, rows, self.rows)?);
        Ok(grouped_gemm(x, &self.experts()?, groups, out)?)
    }
}

/// What the router says, and what is made of it.
pub(crate) struct Routed {
    job: Experts,
    ids: Vec<i32>,
    scales: Vec<f32>,
    row_index: Vec<i32>,
    counts: Vec<i64>,
}

impl Routed {
    /// That of a workload.
    pub(crate) fn new(job: Experts) -> Self {
        let slots = job.tokens * job.top_k;
        let scales = vec![1.0 / job.top_k as f32; slots];
        Self { job, ids: job.expert_ids(), scales, row_index: vec![0; slots], counts: vec![0; job.experts] }
    }

    /// The slots sorted by expert, and the rows of each.
    ///
    /// # Errors
    /// Those of the kernels.
    pub(crate) fn sort(&mut self) -> Result<(Routing, Vec<Group>)> {
        let routing = Routing::new(&self.ids, 0..self.job.experts)?;
        routing.gather_index(&mut self.row_index)?;
        routing.write_counts(GroupListKind::Count, &mut self.counts)?;
        let groups = decode(GroupListKind::Count, &self.counts, self.job.experts, self.ids.len())?;
        Ok((routing, groups))
    }

    /// `out [tokens, hidden]` of the weighted rows of each token, `rows [slots, hidden]` being sorted by expert.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(crate) fn combine<T: Float>(&self, rows: &[T], out: &mut [T]) -> Result<()> {
        let operands = Finalize {
            expanded: rows,
            hidden: self.job.hidden,
            row_index: &self.row_index,
            top_k: self.job.top_k,
            order: SlotOrder::RowMajor,
            drop_pad: false,
            x1: None,
            x2: None,
            bias: None,
            scales: Some(&self.scales),
            rounding: Rounding::Once,
        };
        Ok(finalize(&operands, out)?)
    }
}

/// Weights, activations and buffers of a workload.
pub(crate) struct Pipeline<T, W = Weights<T>> {
    job: Experts,
    gate_up: W,
    down: W,
    x: Vec<T>,
    routed: Routed,
    expanded: Vec<T>,
    projected: Vec<T>,
    activated: Vec<T>,
    combined: Vec<T>,
    output: Vec<T>,
}

impl<T: Float> Pipeline<T> {
    /// Makes the operands of a workload.
    pub(crate) fn new(job: Experts, format: Format) -> Result<Self> {
        let Experts { hidden, intermediate, experts, .. } = job;
        let gate_up = Weights::new(format, experts, 2 * intermediate, hidden)?;
        Ok(Self::with(job, gate_up, Weights::new(format, experts, hidden, intermediate)?))
    }
}

impl<T: Float, W: Product<T>> Pipeline<T, W> {
    /// Of a workload with these weights.
    pub(crate) fn with(job: Experts, gate_up: W, down: W) -> Self {
        let Experts { tokens, hidden, intermediate, top_k, .. } = job;
        let slots = tokens * top_k;
        let zeros = |len| vec![T::from_f32(0.0); len];
        Self {
            job,
            gate_up,
            down,
            x: values(tokens * hidden, 1.0),
            routed: Routed::new(job),
            expanded: zeros(slots * hidden),
            projected: zeros(slots * 2 * intermediate),
            activated: zeros(slots * intermediate),
            combined: zeros(slots * hidden),
            output: zeros(tokens * hidden),
        }
    }

    /// Does the job once.
    pub(crate) fn run(&mut self) -> Result<()> {
        let Experts { tokens, hidden, intermediate, top_k, .. } = self.job;
        let (routing, groups) = self.routed.sort()?;
        let src = bytemuck::cast_slice(&self.x);
        routing.expand(src, hidden * T::BYTES, top_k, None, bytemuck::cast_slice_mut(&mut self.expanded))?;
        self.gate_up.product(&self.expanded, &groups, &mut self.projected)?;
        swiglu(&self.projected, &[tokens * top_k, 2 * intermediate], 1, &mut self.activated)?;
        self.down.product(&self.activated, &groups, &mut self.combined)?;
        self.routed.combine(&self.combined, &mut self.output)
    }

    /// What the last run gave, `[tokens, hidden]`.
    pub(crate) fn output(&self) -> &[T] {
        &self.output
    }
}
