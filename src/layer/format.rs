//! How the projections of a layer's experts are held on the device, and which operators multiply with them.
//!
//! | format | weights | activations | routed experts | shared expert |
//! |---|---|---|---|---|
//! | float | the layer's type | the layer's type | `GroupedMatmul*` | `Mm` |
//! | W8A8 | int8, a scale per output | int8, a scale per token | `GroupedMatmulSwigluQuant*` or in steps, `GroupedMatmul*` | `QuantMatmul*` |
//! | W4A8 | int4, a scale per output, or per 256 along K | int8, a scale per token | the same with int4 | as W8A8 |
//! | W8A16 | int8, a scale per output | the layer's type | `GroupedMatmul*` that expands weights | `WeightQuantBatchMatmul*` |
//! | W4A16 | int4, a scale per output, or per group along K | the layer's type | the same | the same |
//!
//! In steps: product to the layer's type, activation, `DynamicQuant`. There is no product of int8 with int4 for a dense layer, so
//! the shared expert of W4A8 is held as W8A8, as msModelSlim ships it.

use std::fmt;

use ascend_sys::{OperatorId, Release};

use super::LayerOptions;
use super::project::{self, Rows};
use super::source::Codes;
use super::weights::WeightShapes;
use crate::checkpoint::{HostLayer, Stored};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::spec::{Activation, FloatType, MoeSpec, Part};
use crate::tensor::TensorView;

/// How the projections of experts, routed and shared, are held on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExpertFormat {
    /// In the layer's type.
    #[default]
    Float,
    /// int8 with a scale per output channel; activations are quantised to int8 per token.
    W8A8,
    /// int4; activations are quantised to int8 per token. The shared expert is W8A8.
    W4A8 {
        /// Inputs that share a scale: 256, of which there is a whole number, up to 18432. `None` for a scale per output channel.
        group: Option<usize>,
    },
    /// int8 with a scale per output channel, expanded to the layer's type for each product.
    W8A16,
    /// int4, expanded to the layer's type for each product.
    W4A16 {
        /// Inputs that share a scale; `None` for a scale per output channel.
        group: Option<usize>,
    },
}

impl ExpertFormat {
    /// The format in which a layer's experts are stored, where a device multiplies with their codes: int8 and int4 with scales
    /// per output channel, for int8 activations or for others, and int4 in groups. Everything else is expanded: FP8 and MXFP4,
    /// which Atlas A3 does not multiply with, and int4 for int8 activations in groups other than 256 becomes W4A16.
    pub fn stored(layer: &HostLayer<'_>) -> Self {
        let [first, second] = [Part::W13, Part::W2].map(|part| layer.stored(part));
        match (first, second, layer.int8_activations()) {
            (Some(Stored::Int8 { group: None }), Some(Stored::Int8 { group: None }), true) => Self::W8A8,
            (Some(Stored::Int8 { group: None }), Some(Stored::Int8 { group: None }), false) => Self::W8A16,
            (Some(Stored::Int4 { group: first }), Some(Stored::Int4 { group: second }), int8) => {
                match common_group(layer.spec(), [first, second]) {
                    Some(group) if int8 && w4a8_groups(layer.spec(), group).is_none() => Self::W4A8 { group },
                    Some(group) => Self::W4A16 { group },
                    None => Self::Float,
                }
            }
            _ => Self::Float,
        }
    }

    /// Whether activations are quantised.
    pub const fn quantises_activations(self) -> bool {
        matches!(self, Self::W8A8 | Self::W4A8 { .. })
    }

    /// That of a part: its own for the routed experts' projections, W8A8 for a shared expert of W4A8, float for all others.
    pub(super) const fn of(self, part: Part) -> Self {
        match (part, self) {
            (Part::W13 | Part::W2, format) => format,
            (Part::SharedW13 | Part::SharedW2, Self::W4A8 { .. }) => Self::W8A8,
            (Part::SharedW13 | Part::SharedW2, format) => format,
            _ => Self::Float,
        }
    }

    /// What its weights are as codes; `None` in floating point.
    pub const fn codes(self) -> Option<Codes> {
        match self {
            Self::Float => None,
            Self::W8A8 | Self::W8A16 => Some(Codes::Int8),
            Self::W4A8 { group } | Self::W4A16 { group } => Some(Codes::Int4 { group }),
        }
    }

    /// Its name: `float`, `w8a8`, `w4a8`, `w8a16`, `w4a16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::W8A8 => "w8a8",
            Self::W4A8 { .. } => "w4a8",
            Self::W8A16 => "w8a16",
            Self::W4A16 { .. } => "w4a16",
        }
    }
}

impl fmt::Display for ExpertFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::W4A8 { group: Some(group) } | Self::W4A16 { group: Some(group) } => {
                write!(f, " in groups of {group}")
            }
            _ => Ok(()),
        }
    }
}

/// How the experts of a layer run on the loaded CANN.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertPlan {
    /// How their projections are held.
    pub format: ExpertFormat,
    /// The operator that multiplies with gate and up, activates and quantises at once; `None` where these are steps.
    pub fused: Option<OperatorId>,
    /// Why they are steps where activations are quantised.
    pub reason: Option<String>,
}

/// Inputs that share a scale where int4 is multiplied with int8, and the most inputs that may come in such groups (ops-transformer
/// 9.1.0, gmm/grouped_matmul).
const W4A8_GROUP: usize = 256;
const W4A8_GROUPED_INPUTS: usize = 18432;

/// Inputs of the routed experts' projections.
fn inputs(spec: &MoeSpec) -> [usize; 2] {
    [Part::W13, Part::W2].map(|part| spec.shape(part).and_then(|shape| shape.last().copied()).unwrap_or(0))
}

/// The group of both projections, as one that is as wide as the other's group has a scale per output; `None` where they differ.
fn common_group(spec: &MoeSpec, groups: [Option<usize>; 2]) -> Option<Option<usize>> {
    let group = groups[0].or(groups[1]);
    let is_same = |(own, inputs): (Option<usize>, usize)| own.unwrap_or(inputs) == group.unwrap_or(inputs);
    groups.into_iter().zip(inputs(spec)).all(is_same).then_some(group)
}

/// What of these groups the product of int8 with int4 does not take; `None` if it does.
fn w4a8_groups(spec: &MoeSpec, group: Option<usize>) -> Option<String> {
    let group = group?;
    let wrong =
        inputs(spec).into_iter().find(|inputs| !inputs.is_multiple_of(group.max(1)) || *inputs > W4A8_GROUPED_INPUTS);
    match wrong {
        _ if group != W4A8_GROUP => Some(format!("groups of {group}")),
        Some(inputs) => Some(format!("{inputs} inputs in groups of {group}")),
        None => None,
    }
}

/// The first release whose grouped product adds a bf16 bias to int8 products (ops-transformer 9.1.0, gmm/grouped_matmul).
const BIAS_SINCE: Release = Release::new(9, 1, 0);

impl ExpertPlan {
    /// Of experts in floating point.
    pub(super) const FLOAT: Self = Self { format: ExpertFormat::Float, fused: None, reason: None };

    /// Chooses operators.
    ///
    /// # Errors
    /// [`Error::Format`] for a combination that no operator of the loaded CANN computes.
    pub fn new(device: &Device, spec: &MoeSpec, options: LayerOptions) -> Result<Self> {
        let (format, experts) = (options.experts, spec.experts());
        let refuse = |what: &str, legal| {
            Err(Error::Format { format: format.name(), what: what.to_owned(), release: device.cann().release(), legal })
        };
        if format == ExpertFormat::Float {
            return Ok(Self::FLOAT);
        }
        if options.dtype == FloatType::F32 {
            return refuse("a layer that runs in f32", "bf16 or f16");
        }
        if !format.quantises_activations() {
            return Ok(Self { format, fused: None, reason: None });
        }
        if let ExpertFormat::W4A8 { group } = format
            && let Some(what) = w4a8_groups(spec, group)
        {
            return refuse(
                &what,
                "groups of 256 that divide K, up to 18432 of it, a scale per output channel, or w4a16",
            );
        }
        if experts.bias {
            if matches!(format, ExpertFormat::W4A8 { .. }) {
                return refuse("experts with biases", "float, w8a8, w8a16 or w4a16: the place of the bias is taken");
            }
            if options.dtype != FloatType::Bf16 || device.cann().release() < BIAS_SINCE {
                return refuse("experts with biases", "bf16 on CANN 9.1.0 or later, or float, w8a16 or w4a16");
            }
        }
        let steps = |reason: &str| Ok(Self { format, fused: None, reason: Some(reason.to_owned()) });
        if experts.bias {
            return steps("the fused operator takes no bias");
        }
        if experts.activation.clamp.is_some() {
            return steps("the fused operator has no clamp");
        }
        if experts.activation != Activation::SWIGLU {
            return steps("the activation of the fused operator is SwiGLU");
        }
        match Self::fused_operator(device, spec, options) {
            Ok(operator) => Ok(Self { format, fused: Some(operator), reason: None }),
            Err(error @ (Error::Rule(_) | Error::MissingOperator { .. })) => steps(&error.to_string()),
            Err(error) => Err(error),
        }
    }

    /// The operator that a fused call takes, on tensors without memory.
    fn fused_operator(device: &Device, spec: &MoeSpec, options: LayerOptions) -> Result<OperatorId> {
        // Whatever the operator, the weights are the same.
        let any = Some(OperatorId::GroupedMatmulSwigluQuantV2);
        let plan = Self { format: options.experts, fused: any, reason: None };
        let shapes = WeightShapes::new(spec, options, &plan, |part| part == Part::W13)?;
        let (experts, width) = (spec.experts().num, spec.experts().width());
        let (sequence, counts) = (device.plan(), TensorView::planned(DType::I64, &[experts])?);
        let rows = Rows {
            values: TensorView::planned(DType::I8, &[1, width])?,
            scales: Some(TensorView::planned(DType::F32, &[1])?),
        };
        let (_, operator) = project::fused(&sequence, &shapes.planned()?, &rows, &counts)?;
        Ok(operator)
    }
}
