//! The operators: how much workspace each asks for, and what it computes. A call that comes here has passed its row;
//! what is left to go wrong is what only the device sees: addresses, and values read from device memory.

mod dequant_swiglu;
mod elementwise;
mod expand;
mod expert_balance;
mod expert_table;
mod format;
mod fused_topk;
mod grouped_antiquant;
mod grouped_finalize;
mod grouped_matmul;
mod grouped_quant;
mod grouped_swiglu;
mod index;
mod lanes;
mod matmul;
mod permute;
mod pointwise;
mod quant_matmul;
mod quantise;
mod quantised;
mod routing;
mod routing_map;
mod softmax_gating;
#[cfg(test)]
mod tests;
mod view;
mod weight_quant;

use ascend_sys::OperatorId;
use ascend_sys::aclDataType;
use ascend_sys::aclError;
use moe_kernels::KernelError;

use crate::executor::Args;
use crate::instance::Instance;
use crate::memory::MemoryError;
use crate::report::{Finding, FindingKind};
use crate::task::DeviceFault;
use view::Device;

/// Why an operator could not run on the device.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpError {
    /// An address is not device memory that is alive and large enough.
    #[error("{parameter}: {source}")]
    Memory {
        /// The parameter.
        parameter: &'static str,
        /// What is wrong with it.
        source: MemoryError,
    },
    /// Memory of another device than the stream's.
    #[error("{parameter}: memory of device {found} on a stream of device {expected}")]
    ForeignDevice {
        /// The parameter.
        parameter: &'static str,
        /// Device of the memory.
        found: u32,
        /// Device of the stream.
        expected: u32,
    },
    /// A view reaches outside its storage.
    #[error("{parameter}: the view reaches element {last} of a storage of {storage}")]
    View {
        /// The parameter.
        parameter: &'static str,
        /// The furthest element, or a negative one.
        last: i128,
        /// Elements of the storage.
        storage: u64,
    },
    /// An output shares memory with an input of an operator that does not work in place.
    #[error("{output} shares memory with {input}")]
    Overlap {
        /// The output.
        output: &'static str,
        /// The input.
        input: &'static str,
    },
    /// A group list read from the device does not fit.
    #[error("group list: {0}")]
    GroupList(KernelError),
    /// Counts of rows read from the device are negative or more than there are.
    #[error("group index: counts that are negative, or more than {rows} rows")]
    Groups {
        /// Rows that there are.
        rows: usize,
    },
    /// Values read from the device do not fit.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A dtype that the operator's row lets through and no kernel here handles.
    #[error("no kernel for {0:?}")]
    DType(aclDataType),
    /// The row let a null pointer through.
    #[error("{0} is null")]
    Null(&'static str),
}

impl OpError {
    fn kind(&self) -> FindingKind {
        match self {
            Self::Memory { source, .. } => source.finding_kind(),
            Self::View { .. } => FindingKind::OutOfBounds,
            Self::ForeignDevice { .. } => FindingKind::ForeignContext,
            Self::Overlap { .. } => FindingKind::Overlap,
            Self::GroupList(_) | Self::Groups { .. } => FindingKind::GroupList,
            Self::Kernel(_) => FindingKind::OutOfBounds,
            Self::DType(_) | Self::Null(_) => FindingKind::Internal,
        }
    }
}

/// Bytes that kernels built on the vendor's kernel library ask for before their own: 16 MiB on A2 and A3. The sizes CANN
/// really announces are tiling results and differ by release; callers may rely on nothing but that they can be above 0.
const SYSTEM_WORKSPACE: u64 = 16 << 20;

/// What an operator asks for before it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Workspace {
    /// Nothing.
    Nothing,
    /// What kernels of the vendor's library ask for.
    System,
    /// Contiguous copies of what the kernel cannot read in place: what hand-written wrappers make.
    Copies,
    /// Both; a transposed matrix is read in place.
    SystemAndCopies,
    /// Nothing: the host does the work before the call returns, and no stream is asked.
    Host,
}

/// Computes the outputs of one call from its inputs, in device memory.
type Run = fn(&Args, &Device<'_>) -> Result<(), OpError>;

/// An operator as the simulator runs it.
struct Implementation {
    workspace: Workspace,
    run: Run,
}

/// The simulator's side of the table of operators: one line each.
fn implementation(operator: OperatorId) -> Implementation {
    use OperatorId as Id;
    use Workspace::{Copies, Host, Nothing, System, SystemAndCopies};
    let (workspace, run): (_, Run) = match operator {
        Id::Mm => (SystemAndCopies, matmul::matmul),
        Id::Matmul => (SystemAndCopies, matmul::matmul),
        Id::GroupedMatmulV4 => (System, grouped_matmul::grouped_matmul),
        Id::GroupedMatmulV5 => (System, grouped_matmul::grouped_matmul),
        Id::Cast => (Copies, elementwise::cast),
        Id::Add => (Copies, elementwise::add),
        Id::Mul => (Copies, elementwise::mul),
        Id::Muls => (Copies, elementwise::muls),
        Id::SwiGlu => (Nothing, elementwise::swiglu),
        Id::MoeGatingTopK => (System, routing::gating_top_k),
        Id::MoeInitRoutingV3 => (System, routing::init_routing),
        Id::MoeFinalizeRoutingV2 => (System, routing::finalize_routing),
        Id::MoeTokenUnpermute => (System, routing::token_unpermute),
        Id::NpuFormatCast => (Nothing, format::format_cast),
        Id::Abs => (Copies, pointwise::abs),
        Id::Neg => (Copies, pointwise::neg),
        Id::Exp => (Copies, pointwise::exp),
        Id::Sqrt => (Copies, pointwise::sqrt),
        Id::Sigmoid => (Copies, pointwise::sigmoid),
        Id::Silu => (Copies, pointwise::silu),
        Id::Relu => (Copies, pointwise::relu),
        Id::Gelu => (Copies, pointwise::gelu),
        Id::Softplus => (Copies, pointwise::softplus),
        Id::Adds => (Copies, pointwise::adds),
        Id::Sub => (Copies, pointwise::sub),
        Id::Div => (Copies, pointwise::div),
        Id::Maximum => (Copies, pointwise::maximum),
        Id::Minimum => (Copies, pointwise::minimum),
        Id::Clamp => (Copies, pointwise::clamp),
        Id::ClampMin => (Copies, pointwise::clamp_min),
        Id::EqScalar => (Copies, pointwise::eq_scalar),
        Id::LtScalar => (Copies, pointwise::lt_scalar),
        Id::GeScalar => (Copies, pointwise::ge_scalar),
        Id::SWhere => (Copies, pointwise::select),
        Id::InplaceMaskedFillScalar => (Copies, pointwise::masked_fill),
        Id::InplaceZero => (Copies, pointwise::zero),
        Id::InplaceCopy => (Copies, pointwise::copy),
        Id::Arange => (Copies, pointwise::arange),
        Id::Softmax => (Copies, lanes::softmax),
        Id::Topk => (Copies, lanes::top_k),
        Id::Sort => (Copies, lanes::sort),
        Id::Argsort => (Copies, lanes::sort),
        Id::Cumsum => (Copies, lanes::cumsum),
        Id::ReduceSum => (Copies, lanes::reduce_sum),
        Id::Amax => (Copies, lanes::amax),
        Id::AddRmsNorm => (Copies, lanes::add_rms_norm),
        Id::RmsNorm => (System, lanes::rms_norm),
        Id::Gather => (Copies, index::gather),
        Id::Scatter => (Copies, index::scatter),
        Id::IndexSelect => (Copies, index::index_select),
        Id::GatherV2 => (Copies, index::index_select),
        Id::Embedding => (Copies, index::embedding),
        Id::Cat => (Copies, index::cat),
        Id::Permute => (Copies, index::permute),
        Id::BatchMatMul => (SystemAndCopies, matmul::matmul),
        Id::Addmm => (SystemAndCopies, matmul::addmm),
        Id::TransMatmulWeight => (Nothing, format::keep),
        Id::ClippedSwiglu => (System, elementwise::clipped_swiglu),
        Id::AscendQuant => (SystemAndCopies, quantise::by_given),
        Id::AscendQuantV3 => (SystemAndCopies, quantise::by_given),
        Id::DequantSwigluQuant => (System, dequant_swiglu::dequant_swiglu_quant),
        Id::DequantSwigluQuantV2 => (System, dequant_swiglu::dequant_swiglu_quant),
        Id::DynamicQuant => (SystemAndCopies, quantise::dynamic_quant),
        Id::DynamicQuantV2 => (SystemAndCopies, quantise::dynamic_quant),
        Id::DynamicQuantV4 => (SystemAndCopies, quantise::dynamic_quant),
        Id::MoeInitRoutingQuantV2 => (System, expand::quantised),
        Id::SwiGluQuant => (System, dequant_swiglu::swiglu_quant),
        Id::SwiGluQuantV2 => (System, dequant_swiglu::swiglu_quant),
        Id::MoeGatingTopKSoftmax => (System, softmax_gating::first),
        Id::MoeGatingTopKSoftmaxV2 => (System, softmax_gating::second),
        Id::MoeTokenPermute => (System, permute::token_permute),
        Id::MoeComputeExpertTokens => (System, expert_table::compute_expert_tokens),
        Id::MoeFinalizeRoutingV3 => (System, routing::finalize_routing),
        Id::MoeInitRouting => (System, expand::first),
        Id::MoeInitRoutingV2 => (SystemAndCopies, expand::second),
        Id::MoeFinalizeRouting => (System, routing::finalize_routing_first),
        Id::MoeFusedTopk => (SystemAndCopies, fused_topk::fused_topk),
        Id::MoeGatingTopKV2 => (SystemAndCopies, routing::gating_top_k),
        Id::MoeTokenPermuteWithEp => (System, permute::token_permute),
        Id::MoeTokenUnpermuteWithEp => (System, routing::token_unpermute),
        Id::MoeTokenPermuteWithRoutingMap => (SystemAndCopies, permute::permute_with_routing_map),
        Id::MoeTokenUnpermuteWithRoutingMap => (SystemAndCopies, routing_map::unpermute_with_routing_map),
        Id::MoeReRouting => (System, permute::re_routing),
        Id::MoeUpdateExpert => (System, expert_balance::update_expert),
        Id::GroupedMatmul => (System, grouped_matmul::grouped_matmul),
        Id::GroupedMatmulV2 => (System, grouped_matmul::grouped_matmul),
        Id::GroupedMatmulV3 => (System, grouped_matmul::grouped_matmul),
        Id::GroupedMatmulWeightNz => (System, grouped_matmul::grouped_matmul),
        Id::GroupedMatmulAdd => (System, grouped_matmul::grouped_matmul_add),
        Id::QuantMatmulV5 => (SystemAndCopies, quant_matmul::quant_matmul),
        Id::QuantMatmulWeightNz => (SystemAndCopies, quant_matmul::quant_matmul),
        Id::QuantMatmulV4 => (SystemAndCopies, quant_matmul::quant_matmul),
        Id::TransQuantParamV2 => (System, quantised::trans_quant_param),
        Id::ConvertWeightToINT4Pack => (Host, quantised::convert_weight),
        Id::WeightQuantBatchMatmulV2 => (SystemAndCopies, weight_quant::weight_quant_matmul),
        Id::WeightQuantBatchMatmulV3 => (SystemAndCopies, weight_quant::weight_quant_matmul),
        Id::WeightQuantBatchMatmulNz => (SystemAndCopies, weight_quant::weight_quant_matmul),
        Id::GroupedMatmulSwigluQuant => (System, grouped_swiglu::swiglu_quant),
        Id::GroupedMatmulSwigluQuantWeightNZ => (System, grouped_swiglu::swiglu_quant),
        Id::GroupedMatmulSwigluQuantV2 => (System, grouped_swiglu::swiglu_quant),
        Id::GroupedMatmulSwigluQuantWeightNzV2 => (System, grouped_swiglu::swiglu_quant),
        Id::GroupedMatmulFinalizeRouting => (System, grouped_finalize::finalize_routing),
        Id::GroupedMatmulFinalizeRoutingV2 => (System, grouped_finalize::finalize_routing),
        Id::GroupedMatmulFinalizeRoutingV3 => (System, grouped_finalize::finalize_routing),
        Id::GroupedMatmulFinalizeRoutingWeightNz => (System, grouped_finalize::finalize_routing),
        Id::GroupedMatmulFinalizeRoutingWeightNzV2 => (System, grouped_finalize::finalize_routing),
    };
    Implementation { workspace, run }
}

/// Workspace that phase 1 announces.
pub(crate) fn workspace(operator: OperatorId, args: &Args) -> u64 {
    match implementation(operator).workspace {
        Workspace::Nothing | Workspace::Host => 0,
        Workspace::System => SYSTEM_WORKSPACE,
        Workspace::Copies => copies(args, false),
        Workspace::SystemAndCopies => SYSTEM_WORKSPACE + copies(args, true),
    }
}

/// Whether the operator's work is done when its call returns.
pub(crate) fn runs_at_once(operator: OperatorId) -> bool {
    implementation(operator).workspace == Workspace::Host
}

/// Bytes of contiguous copies of every non-contiguous tensor, each rounded to 512.
fn copies(args: &Args, transposed_is_fine: bool) -> u64 {
    args.all_tensors()
        .filter(|(_, t)| !(t.is_contiguous() || transposed_is_fine && t.is_transposed()))
        .filter_map(|(_, t)| Some(t.elements()?.saturating_mul(t.dtype.bytes()? as u64).next_multiple_of(512)))
        .sum()
}

/// Runs an operator whose turn in the stream has come.
pub(crate) fn run(
    sim: &Instance,
    operator: OperatorId,
    args: &Args,
    workspace: Option<(u64, usize)>,
    device: u32,
) -> Result<(), DeviceFault> {
    let call = operator.info().phase2.name();
    if let Some((address, bytes)) = workspace
        && let Err(error) = sim.memory().device_slice(address, bytes)
    {
        let what = format!("workspace gone before the operator ran: {error}");
        sim.report(Finding::new(FindingKind::Workspace, call, what.clone()));
        if sim.strict() {
            return Err(DeviceFault { code: aclError::RT_AICORE_EXCEPTION, message: format!("{call}: {what}") });
        }
    }
    let device = Device::new(sim, device);
    let result = sim.compute(|| (implementation(operator).run)(args, &device));
    result.or_else(|error| {
        let kind = error.kind();
        sim.report(Finding::new(kind, call, error.to_string()));
        // A wrong address faults on hardware too; for the rest it is only known that the result is not defined.
        if sim.strict() || matches!(error, OpError::Memory { .. }) {
            return Err(DeviceFault { code: aclError::RT_AICORE_EXCEPTION, message: format!("{call}: {error}") });
        }
        Ok(())
    })
}
