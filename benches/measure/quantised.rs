//! A layer's experts with weights of whole numbers, on the kernels alone.

use anyhow::{Result, ensure};
use half::bf16;
use moe_kernels::antiquant_gemm::{AntiquantExpert, antiquant_gemm};
use moe_kernels::gemm::Weight;
use moe_kernels::group_list::Group;
use moe_kernels::init_routing::Placement;
use moe_kernels::int_gemm::{Int4Weight, IntWeight};
use moe_kernels::int4;
use moe_kernels::nz::{NzLayout, NzMat};
use moe_kernels::quant_gemm::{
    Activation, Dequant, QuantBias, QuantExpert, Rounding, ScaleOrder, Scheme, msd_bias, products_of_groups, quant_gemm,
};
use moe_kernels::quantise::{Conversion, Integer, RowQuantiser, Scaling};
use moe_kernels::swiglu_quant::{Smooth, SwigluQuant, grouped_swiglu_quant};
use moe_kernels::view::{Mat, MatMut};

use super::pipeline::{Format, Pipeline, Product, Routed, Weights};
use super::workload::{Device, Experts, values};

/// How tokens are quantised: as aclnnMoeInitRoutingV3 does.
const TOKENS: RowQuantiser =
    RowQuantiser { integer: Integer::Int8, scaling: Scaling::Divide, conversion: Conversion::Nearest };

/// What is multiplied with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// int8 weights, int8 activations.
    W8A8,
    /// int4 weights, int8 activations.
    W4A8,
    /// int4 weights, bf16 activations.
    W4A16,
}

impl Numbers {
    /// The greatest weight, and the largest scale: with it weights are about as large as those of bf16 are.
    fn range(self) -> (f32, f32) {
        match self {
            Self::W8A8 => (127.0, 1.0 / 2048.0),
            Self::W4A8 | Self::W4A16 => (7.0, 1.0 / 128.0),
        }
    }

    /// How far the output may be from that of f32 with the same weights: the root of the mean square, relative.
    fn tolerance(self) -> f64 {
        match self {
            Self::W8A8 | Self::W4A8 => 0.03,
            Self::W4A16 => 0.01,
        }
    }
}

/// How weights lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// `[N, K]`, row-major, of which the operand is the transposed view.
    Transposed,
    /// `[K, N]`, row-major.
    Plain,
    /// `[K, N]` as FRACTAL_NZ.
    Nz,
}

/// One way to hold and multiply experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// What is multiplied with what.
    pub(crate) numbers: Numbers,
    /// Weights along K that share a scale; `None` for all of a column.
    pub(crate) group: Option<usize>,
    /// How weights lie.
    pub(crate) held: Held,
    /// Which roundings are made.
    pub(crate) rounding: Rounding,
}

impl Way {
    /// Bytes of the weights and scales of the experts that have tokens.
    pub(crate) fn weight_bytes(&self, job: &Experts) -> f64 {
        let (weight, scale) = match self.numbers {
            Numbers::W8A8 => (1.0, 4.0),
            Numbers::W4A8 => (0.5, 4.0),
            Numbers::W4A16 => (0.5, 2.0),
        };
        let of = |k: usize, n: usize| (k * n) as f64 * weight + (self.parts(k) * n) as f64 * scale;
        let Experts { hidden, intermediate, .. } = *job;
        job.active_experts() as f64 * (of(hidden, 2 * intermediate) + of(intermediate, hidden))
    }

    /// Equal parts of K that have scales of their own.
    fn parts(&self, k: usize) -> usize {
        self.group.map_or(1, |group| k / group)
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { numbers, group, held, rounding } = self;
        let group = group.map_or("channel".to_owned(), |group| format!("groups-{group}"));
        write!(f, "{numbers:?}/{group}/{held:?}/{rounding:?}")
    }
}

/// What one expert has.
struct One {
    /// int8, or int4 two to a byte.
    numbers: Device<u8>,
    /// `[parts of K, N]`.
    scale: Vec<f32>,
    /// The same in bf16.
    short_scale: Vec<bf16>,
    /// What the faithful rounding of W4A8 adds.
    bias: Vec<f32>,
}

/// A weight `[K, N]` of each expert.
pub(crate) struct WholeWeights {
    way: Way,
    k: usize,
    n: usize,
    each: Vec<One>,
}

impl WholeWeights {
    /// The same for each expert, and what it stands for, `[N, K]`.
    fn new(way: Way, experts: usize, [k, n]: [usize; 2]) -> Result<(Self, Vec<f32>)> {
        let (most, largest) = way.numbers.range();
        let whole: Vec<i8> = values::<f32>(k * n, most).into_iter().map(|value| value.round() as i8).collect();
        let parts = way.parts(k);
        // Powers of two, so that bf16 has them.
        let scale: Vec<f32> = (0..parts * n).map(|at| largest / (1 + (at / n + at) % 2) as f32).collect();
        let scale_of = |at: usize| scale[at % k * parts / k * n + at / k];
        let meant = whole.iter().enumerate().map(|(at, whole)| f32::from(*whole) * scale_of(at)).collect();
        let is_int8 = way.numbers == Numbers::W8A8;
        let layout = if is_int8 { NzLayout::new(k, n, 1)? } else { NzLayout::int4(k, n)? };
        let mut stored = vec![0i8; if way.held == Held::Nz { layout.storage_len() } else { k * n }];
        for (at, &whole) in whole.iter().enumerate() {
            let (k_at, n_at) = (at % k, at / k);
            let place = match way.held {
                Held::Transposed => Some(at),
                Held::Plain => Some(k_at * n + n_at),
                Held::Nz => layout.offset(k_at, n_at),
            };
            if let Some(to) = place.and_then(|place| stored.get_mut(place)) {
                *to = whole;
            }
        }
        let numbers = if is_int8 {
            bytemuck::cast_slice(&stored).to_vec()
        } else {
            let mut bytes = vec![0; stored.len() / 2];
            int4::pack(&stored, &mut bytes)?;
            bytes
        };
        let short_scale: Vec<bf16> = scale.iter().map(|scale| bf16::from_f32(*scale)).collect();
        let mut bias = vec![0.0; n];
        msd_bias(&weight(way, &numbers, [k, n])?, &scale, &mut bias)?;
        let one = |_| One {
            numbers: Device::new(&numbers),
            scale: scale.clone(),
            short_scale: short_scale.clone(),
            bias: bias.clone(),
        };
        Ok((Self { way, k, n, each: (0..experts).map(one).collect() }, meant))
    }

    fn experts(&self) -> Result<Vec<QuantExpert<'_>>> {
        self.each.iter().map(|one| self.expert(one)).collect()
    }

    fn expert<'a>(&self, one: &'a One) -> Result<QuantExpert<'a>> {
        let weight = weight(self.way, &one.numbers, [self.k, self.n])?;
        let bias = match self.way.numbers {
            Numbers::W4A8 => QuantBias::Float(&one.bias),
            _ => QuantBias::None,
        };
        Ok(QuantExpert { weight, scale: &one.scale, offset: None, bias })
    }

    fn short_expert<'a>(&self, one: &'a One) -> Result<AntiquantExpert<'a, bf16>> {
        let weight = weight(self.way, &one.numbers, [self.k, self.n])?;
        Ok(AntiquantExpert { weight, scale: &one.short_scale, offset: None, bias: None })
    }
}

/// The operand that bytes are.
fn weight(way: Way, bytes: &[u8], [k, n]: [usize; 2]) -> Result<IntWeight<'_>> {
    if way.numbers == Numbers::W8A8 {
        let bytes = bytemuck::cast_slice(bytes);
        return Ok(IntWeight::Int8(match way.held {
            Held::Transposed => Weight::Strided(Mat::row_major(bytes, n, k)?.transposed()),
            Held::Plain => Weight::Strided(Mat::row_major(bytes, k, n)?),
            Held::Nz => Weight::Nz(NzMat::new(bytes, k, n)?),
        }));
    }
    Ok(IntWeight::Int4(match way.held {
        Held::Transposed => Int4Weight::strided(bytes, [k, n], [1, k])?,
        Held::Plain => Int4Weight::strided(bytes, [k, n], [n, 1])?,
        Held::Nz => Int4Weight::nz(bytes, k, n)?,
    }))
}

impl Product<bf16> for WholeWeights {
    fn product(&self, x: &[bf16], groups: &[Group], out: &mut [bf16]) -> Result<()> {
        let experts = self.each.iter().map(|one| self.short_expert(one)).collect::<Result<Vec<_>>>()?;
        let rows = x.len() / self.k;
        let (x, out) = (Mat::row_major(x, rows, self.k)?, MatMut::row_major(out, rows, self.n)?);
        Ok(antiquant_gemm(x, &experts, groups, self.way.rounding, out)?)
    }
}

/// A workload with quantised weights.
pub(crate) enum QuantJob {
    /// Activations are int8.
    Whole(Box<WholePipeline>),
    /// Activations are bf16.
    Floating(Box<Pipeline<bf16, WholeWeights>>),
}

impl QuantJob {
    /// Makes the operands of a workload, runs it once and compares with f32.
    ///
    /// # Errors
    /// Where the output is too far from that of f32 with the same weights.
    pub(crate) fn checked(job: Experts, way: Way) -> Result<Self> {
        let Experts { hidden, intermediate, experts, .. } = job;
        let (gate_up, meant_gate_up) = WholeWeights::new(way, experts, [hidden, 2 * intermediate])?;
        let (down, meant_down) = WholeWeights::new(way, experts, [intermediate, hidden])?;
        let mut made = match way.numbers {
            Numbers::W4A16 => Self::Floating(Box::new(Pipeline::with(job, gate_up, down))),
            _ => Self::Whole(Box::new(WholePipeline::new(job, gate_up, down))),
        };
        made.run()?;
        // All experts are alike and a token's weights sum to 1, so that one expert gives what all of them do.
        let one = Experts { tokens: job.tokens.min(16), experts: 1, top_k: 1, ..job };
        let gate_up = Weights::of(meant_gate_up, Format::Nd, 1, 2 * intermediate, hidden)?;
        let down = Weights::of(meant_down, Format::Nd, 1, hidden, intermediate)?;
        let mut exact = Pipeline::<f32>::with(one, gate_up, down);
        exact.run()?;
        let error = distance(made.output(), exact.output());
        ensure!(error <= way.numbers.tolerance(), "{}, {way}: {:.2} % from f32", job.name, error * 100.0);
        Ok(made)
    }

    /// Does the job once.
    ///
    /// # Errors
    /// Those of the kernels.
    pub(crate) fn run(&mut self) -> Result<()> {
        match self {
            Self::Whole(pipeline) => pipeline.run(),
            Self::Floating(pipeline) => pipeline.run(),
        }
    }

    fn output(&self) -> &[bf16] {
        match self {
            Self::Whole(pipeline) => &pipeline.output,
            Self::Floating(pipeline) => pipeline.output(),
        }
    }
}

/// The root of the mean square of what the first values differ by, relative to those due.
fn distance(values: &[bf16], due: &[f32]) -> f64 {
    let squares = |of: &dyn Fn(f32, f32) -> f32| -> f64 {
        values.iter().zip(due).map(|(value, due)| f64::from(of(value.to_f32(), *due)).powi(2)).sum()
    };
    (squares(&|value, due| value - due) / squares(&|_, due| due)).sqrt()
}

/// Weights, activations and buffers of a workload with int8 activations.
pub(crate) struct WholePipeline {
    job: Experts,
    gate_up: WholeWeights,
    down: WholeWeights,
    x: Vec<bf16>,
    routed: Routed,
    expanded: Vec<u8>,
    expanded_scale: Vec<f32>,
    activated: Vec<i8>,
    activated_scale: Vec<f32>,
    combined: Vec<bf16>,
    output: Vec<bf16>,
}

impl WholePipeline {
    fn new(job: Experts, gate_up: WholeWeights, down: WholeWeights) -> Self {
        let Experts { tokens, hidden, intermediate, top_k, .. } = job;
        let slots = tokens * top_k;
        Self {
            job,
            gate_up,
            down,
            x: values(tokens * hidden, 1.0),
            routed: Routed::new(job),
            expanded: vec![0; slots * hidden],
            expanded_scale: vec![0.0; slots],
            activated: vec![0; slots * intermediate],
            activated_scale: vec![0.0; slots],
            combined: vec![bf16::ZERO; slots * hidden],
            output: vec![bf16::ZERO; tokens * hidden],
        }
    }

    fn run(&mut self) -> Result<()> {
        let Experts { tokens, hidden, intermediate, top_k, .. } = self.job;
        let slots = tokens * top_k;
        let Way { numbers, rounding, .. } = self.gate_up.way;
        let scheme = if numbers == Numbers::W8A8 { Scheme::Int8 } else { Scheme::Msd };
        let (routing, groups) = self.routed.sort()?;
        let (expanded, x_scale) = (&mut self.expanded, &mut self.expanded_scale);
        let placement = Placement::Dropless { active_rows: None };
        routing.expand_dynamic(TOKENS, placement, (&self.x, hidden), top_k, None, expanded, x_scale)?;
        let inputs = SwigluQuant {
            x: Mat::row_major(bytemuck::cast_slice(expanded), slots, hidden)?,
            x_scale,
            experts: &self.gate_up.experts()?,
            groups: &groups,
            scheme,
            rounding,
            smooth: Smooth::None,
        };
        grouped_swiglu_quant(&inputs, &mut self.activated, &mut self.activated_scale)?;
        let x = Mat::row_major(&self.activated, slots, intermediate)?;
        let out = MatMut::row_major(&mut self.combined, slots, hidden)?;
        let products = products_of_groups(x, &self.down.experts()?, &groups, out)?;
        let (row_scale, order, activation) = (Some(&*self.activated_scale), ScaleOrder::Column, Activation::None);
        quant_gemm(products, &Dequant { scheme, rounding, row_scale, order, activation })?;
        self.routed.combine(&self.combined, &mut self.output)
    }
}
