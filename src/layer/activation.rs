//! What an expert computes between its projections, as operator calls.
//!
//! | activation | operators |
//! |---|---|
//! | SwiGLU | `SwiGlu` |
//! | SwiGLU or gpt-oss with a clamp before it | `ClippedSwiglu` |
//! | soft-capped | `Muls`, `Sigmoid`, `Adds`, `Mul` in fp32, `Cast`: `tanh(x)` is `2 * sigmoid(2x) - 1` |
//! | every other | `Clamp`, `Silu`, `Gelu`, `Relu`, `Sigmoid`, `Mul`, each rounding to the layer's type |

use ascend_sys::OperatorId;

use super::route::size;
use crate::dtype::DType;
use crate::error::Result;
use crate::op::{self, ClippedSwiglu};
use crate::scratch::Sequence;
use crate::spec::{Activation, ActivationFn, Clamp, ClampAt};
use crate::tensor::{TensorView, TensorViewMut};

/// The most groups that `aclnnClippedSwiglu` takes (ops-nn 9.1.0, activation/clipped_swiglu).
const MAX_GROUPS: i64 = 1024;

/// `out = act(gate, up)`.
///
/// * `first`: what the first projection gave, `[rows, 2I]`, gate in the left half; without a gate `[rows, I]`.
/// * `counts`: i64 `[E]`, rows of each expert, where rows behind their sum were never written.
/// * `out`: `[rows, I]`.
pub(super) fn activate(
    sequence: &Sequence<'_>,
    activation: &Activation,
    first: TensorView<'_>,
    counts: Option<&TensorView<'_>>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if let (ActivationFn::Silu, true, None) = (activation.function, activation.gated, activation.clamp) {
        return op::swiglu(sequence, &first, -1, out);
    }
    if let ActivationFn::Softcapped { gate, up } = activation.function {
        return softcapped(sequence, activation, [gate, up], first, out);
    }
    if let Some(clipped) = clipped(activation)
        && sequence.device().cann().table().has_operator(OperatorId::ClippedSwiglu)
    {
        let counts = counts.filter(|counts| counts.dim(0) <= MAX_GROUPS);
        return op::clipped_swiglu(sequence, &first, counts, -1, &clipped, out);
    }
    composed(sequence, activation, first, out)
}

/// The activation as `aclnnClippedSwiglu` computes it: `min(g, limit) * sigmoid(alpha * ..) * (clamp(u) + bias)`.
fn clipped(activation: &Activation) -> Option<ClippedSwiglu> {
    let limit = match activation.clamp {
        Some(Clamp { limit, at: ClampAt::Before }) => limit,
        Some(_) => return None,
        // Finite numbers pass as they are.
        None => f64::from(f32::MAX),
    };
    match activation.function {
        ActivationFn::Silu if activation.gated => {
            Some(ClippedSwiglu { alpha: 1.0, limit, bias: 0.0, interleaved: false })
        }
        ActivationFn::GptOss { alpha } => Some(ClippedSwiglu { alpha, limit, bias: 1.0, interleaved: false }),
        _ => None,
    }
}

/// `cap(gate) * sigmoid(gate) * cap(up)` in fp32, between the clamps that the activation has.
fn softcapped(
    sequence: &Sequence<'_>,
    activation: &Activation,
    caps: [f64; 2],
    first: TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    let (rows, inner) = (size(out.dim(0)), size(out.dim(1)));
    let tensor = || sequence.tensor(DType::F32, &[rows, inner]);
    let half = |range| -> Result<TensorViewMut<'_>> {
        let mut wide = tensor()?;
        op::cast(sequence, &first.narrow(1, range)?, &mut wide)?;
        Ok(wide)
    };
    let (mut gate, mut up) = (half(0..inner)?, half(inner..2 * inner)?);
    let clamp = |x: &mut TensorViewMut<'_>, least, limit| -> Result<()> {
        let mut clamped = tensor()?;
        op::clamp(sequence, &x.as_view(), least, Some(limit), &mut clamped)?;
        op::copy(sequence, &clamped.as_view(), x)
    };
    if let Some(Clamp { limit, at: ClampAt::Before }) = activation.clamp {
        clamp(&mut gate, None, limit)?;
        clamp(&mut up, Some(-limit), limit)?;
    }
    let cap = |x: TensorView<'_>, cap: f64| -> Result<TensorViewMut<'_>> {
        let (mut double, mut share, mut twice, mut capped) = (tensor()?, tensor()?, tensor()?, tensor()?);
        op::muls(sequence, &x, 2.0 / cap, &mut double)?;
        op::sigmoid(sequence, &double.as_view(), &mut share)?;
        op::muls(sequence, &share.as_view(), 2.0 * cap, &mut twice)?;
        op::adds(sequence, &twice.as_view(), -cap, &mut capped)?;
        Ok(capped)
    };
    let (mut open, mut active) = (tensor()?, tensor()?);
    op::sigmoid(sequence, &gate.as_view(), &mut open)?;
    op::mul(sequence, &cap(gate.as_view(), caps[0])?.as_view(), &open.as_view(), &mut active)?;
    let mut up = cap(up.as_view(), caps[1])?;
    if let Some(Clamp { limit, at: ClampAt::After }) = activation.clamp {
        clamp(&mut active, None, limit)?;
        clamp(&mut up, Some(-limit), limit)?;
    }
    let mut product = tensor()?;
    op::mul(sequence, &active.as_view(), &up.as_view(), &mut product)?;
    op::cast(sequence, &product.as_view(), out)
}

fn composed(
    sequence: &Sequence<'_>,
    activation: &Activation,
    first: TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    let (rows, inner) = (size(out.dim(0)), size(out.dim(1)));
    let tensor = || sequence.tensor(first.dtype(), &[rows, inner]);
    if !activation.gated {
        return match activation.function {
            ActivationFn::Silu => op::silu(sequence, &first, out),
            ActivationFn::GeluTanh => op::gelu(sequence, &first, out),
            _ => {
                let mut positive = tensor()?;
                op::relu(sequence, &first, &mut positive)?;
                op::mul(sequence, &positive.as_view(), &positive.as_view(), out)
            }
        };
    }
    let (gate, up) = (first.narrow(1, 0..inner)?, first.narrow(1, inner..2 * inner)?);
    let (mut capped, mut clamped) = (tensor()?, tensor()?);
    let gate = match activation.clamp {
        Some(Clamp { limit, at: ClampAt::Before }) => {
            op::clamp(sequence, &gate, None, Some(limit), &mut capped)?;
            capped.as_view()
        }
        _ => gate,
    };
    let up = match activation.clamp {
        Some(Clamp { limit, .. }) => {
            op::clamp(sequence, &up, Some(-limit), Some(limit), &mut clamped)?;
            clamped.as_view()
        }
        None => up,
    };

    let (mut active, mut step) = (tensor()?, tensor()?);
    match activation.function {
        // The soft-capped never comes here: it is fp32 throughout, and has its own function.
        ActivationFn::Silu | ActivationFn::Softcapped { .. } => op::silu(sequence, &gate, &mut active)?,
        ActivationFn::GeluTanh => op::gelu(sequence, &gate, &mut active)?,
        ActivationFn::Relu2 => {
            op::relu(sequence, &gate, &mut step)?;
            op::mul(sequence, &step.as_view(), &step.as_view(), &mut active)?;
        }
        ActivationFn::GptOss { alpha } => {
            op::muls(sequence, &gate, alpha, &mut active)?;
            op::sigmoid(sequence, &active.as_view(), &mut step)?;
            op::mul(sequence, &step.as_view(), &gate, &mut active)?;
        }
    }
    let mut after;
    let active = match activation.clamp {
        Some(Clamp { limit, at: ClampAt::After }) => {
            after = tensor()?;
            op::clamp(sequence, &active.as_view(), None, Some(limit), &mut after)?;
            after.as_view()
        }
        _ => active.as_view(),
    };
    if let ActivationFn::GptOss { .. } = activation.function {
        let mut raised = tensor()?;
        op::adds(sequence, &up, 1.0, &mut raised)?;
        return op::mul(sequence, &active, &raised.as_view(), out);
    }
    op::mul(sequence, &active, &up, out)
}
