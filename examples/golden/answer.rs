//! One golden file: its layer, its weights, its answer.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ascend_moe::checkpoint::{HostTensor, NamedTensor, TensorFile, write_tensors};
use ascend_moe::layer::{LayerOptions, MoeLayer, Router, WeightSource};
use ascend_moe::spec::{FloatType, MoeSpec};
use ascend_moe::{Device, Error, Stream, Tensor};
use half::{bf16, f16};

use super::meta::{Meta, Sizes};

/// Tensors that a file of this kind may hold: inputs, weights, and intermediates that only serve a reader. Another one
/// could change what is asked, so it is refused.
const KNOWN: [&str; 21] = [
    "hidden_states",
    "gate_weight",
    "e_score_correction_bias",
    "experts.gate_up_proj",
    "experts.down_proj",
    "shared.gate_proj",
    "shared.up_proj",
    "shared.gate_up_proj",
    "shared.down_proj",
    "router_logits",
    "routed_output",
    "shared_output",
    "expert_counts",
    "group_list_cumsum",
    "perm_expert",
    "perm_token",
    "gmm1_out",
    "act_out",
    "gmm2_out",
    "topk_idx",
    "topk_weight",
];
const OUTPUTS: [&str; 2] = ["output", "output_f32"];

/// Runs the layer of `path` on `device` and writes the answer.
pub(crate) fn answer(device: &Device, path: &Path, out: &Path) -> Result<()> {
    let file = TensorFile::open(path)?;
    let meta = Meta::parse(file.metadata().get("golden").context("no `golden` in the file's metadata")?)?;
    if let Some(unknown) = file.tensors().find(|t| !KNOWN.contains(&t.name) && !OUTPUTS.contains(&t.name)) {
        bail!("tensor {:?} is not understood", unknown.name);
    }
    let golden = Golden::read(&file, &meta)?;
    let dtype = meta.dtype()?;
    let stream = Stream::new(device)?;
    let x = Tensor::from_f32(device, dtype, &golden.hidden_states.data, &golden.hidden_states.shape)?;
    let options = LayerOptions::new(dtype);
    let (ids, weights, output) = if meta.is_routing_only() {
        let router = Router::load(&stream, &golden, options)?;
        let (ids, weights) = router.route(&stream, x.view())?;
        (ids, weights, None)
    } else {
        let layer = MoeLayer::load(&stream, &golden, options, &mut |_, _| {})?;
        let result = layer.forward(&stream, x.view())?;
        (result.expert_ids, result.expert_weights, Some(result.output))
    };
    let chosen: Vec<usize> = ids.shape().iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
    let ids = ids.to_vec::<i32>(&stream)?;
    let weights = weights.to_f32(&stream)?;
    let output = output.map(|output| output.to_f32(&stream)).transpose()?;
    let mut tensors =
        vec![NamedTensor::i32("topk_idx", &chosen, &ids), NamedTensor::f32("topk_weight", &chosen, &weights)];
    if let Some(output) = &output {
        tensors.push(NamedTensor::f32("output", &golden.hidden_states.shape, output));
    }
    Ok(write_tensors(out, &tensors)?)
}

/// The weights of a file, as values.
struct Golden {
    spec: MoeSpec,
    hidden_states: HostTensor,
    gate_weight: HostTensor,
    choice_bias: Option<HostTensor>,
    /// `[E, 2I, H]`, gate rows first.
    gate_up: Option<HostTensor>,
    /// `[E, H, I]`.
    down: Option<HostTensor>,
    /// `[2S, H]`, gate rows first.
    shared_gate_up: Option<HostTensor>,
    /// `[H, S]`.
    shared_down: Option<HostTensor>,
}

impl Golden {
    fn read(file: &TensorFile, meta: &Meta) -> Result<Self> {
        let optional = |name: &str| -> Result<Option<HostTensor>> {
            if file.tensors().any(|tensor| tensor.name == name) { Ok(Some(file.values(name)?)) } else { Ok(None) }
        };
        let hidden_states = file.values("hidden_states")?;
        let gate_weight = file.values("gate_weight")?;
        let gate_up = optional("experts.gate_up_proj")?;
        let down = optional("experts.down_proj")?;
        let shared_down = optional("shared.down_proj")?;
        let shared_gate_up = match (optional("shared.gate_proj")?, optional("shared.up_proj")?) {
            (Some(gate), Some(up)) => Some(stack(gate, &up)?),
            (None, None) => optional("shared.gate_up_proj")?,
            _ => bail!("one of shared.gate_proj and shared.up_proj is missing"),
        };
        let ([_, hidden], [experts, gate_hidden]) = (shape(&hidden_states)?, shape(&gate_weight)?);
        if hidden != gate_hidden {
            bail!("hidden_states has width {hidden}, gate_weight {gate_hidden}");
        }
        let intermediate = down.as_ref().map(|down| shape::<3>(down).map(|[_, _, inner]| inner)).transpose()?;
        let shared = shared_down.as_ref().map(|down| shape::<2>(down).map(|[_, inner]| inner)).transpose()?;
        let spec = meta.spec(Sizes { hidden, experts, intermediate, shared })?;
        let choice_bias = optional("e_score_correction_bias")?;
        if choice_bias.is_some() != spec.router().choice_bias {
            bail!("metadata and tensors disagree on whether there is a choice bias");
        }
        if let (Some(gate_up), Some(inner)) = (&gate_up, intermediate)
            && shape::<3>(gate_up)? != [experts, 2 * inner, hidden]
        {
            bail!("experts.gate_up_proj has shape {:?}; legal is {:?}", gate_up.shape, [experts, 2 * inner, hidden]);
        }
        Ok(Self { spec, hidden_states, gate_weight, choice_bias, gate_up, down, shared_gate_up, shared_down })
    }
}

fn shape<const N: usize>(tensor: &HostTensor) -> Result<[usize; N]> {
    <[usize; N]>::try_from(tensor.shape.as_slice())
        .map_err(|_| anyhow::anyhow!("a tensor of shape {:?} where {N} dimensions are due", tensor.shape))
}

/// The rows of one matrix above those of another.
fn stack(mut above: HostTensor, below: &HostTensor) -> Result<HostTensor> {
    let ([rows, cols], [more, same]) = (shape(&above)?, shape(below)?);
    if cols != same {
        bail!("shared.gate_proj has width {cols}, shared.up_proj {same}");
    }
    above.data.extend_from_slice(&below.data);
    above.shape = vec![rows + more, cols];
    Ok(above)
}

/// Copies values into bytes of a type.
fn fill(what: &'static str, values: Option<&[f32]>, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
    let values = values.unwrap_or_default();
    if values.len() * dtype.bytes() != target.len() {
        return Err(Error::Shape {
            what,
            found: format!("{} values", values.len()),
            legal: format!("{}", target.len() / dtype.bytes()),
        });
    }
    for (bytes, &value) in target.chunks_exact_mut(dtype.bytes()).zip(values) {
        match dtype {
            FloatType::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
            FloatType::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            _ => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        }
    }
    Ok(())
}

/// The values of a range of experts.
fn part<'a>(tensor: Option<&'a HostTensor>, range: &Range<usize>) -> Option<&'a [f32]> {
    let tensor = tensor?;
    let each = tensor.data.len().checked_div(*tensor.shape.first()?)?;
    tensor.data.get(range.start * each..range.end * each)
}

impl WeightSource for Golden {
    fn spec(&self) -> &MoeSpec {
        &self.spec
    }

    fn fill_router(&self, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill("gate_weight", Some(&self.gate_weight.data), dtype, target)
    }

    fn fill_choice_bias(&self, target: &mut [u8]) -> ascend_moe::Result<()> {
        let bias = self.choice_bias.as_ref().map(|bias| bias.data.as_slice());
        fill("e_score_correction_bias", bias, FloatType::F32, target)
    }

    fn fill_w13(&self, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill("experts.gate_up_proj", part(self.gate_up.as_ref(), &experts), dtype, target)
    }

    fn fill_w2(&self, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill("experts.down_proj", part(self.down.as_ref(), &experts), dtype, target)
    }

    fn fill_shared_w13(&self, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill("shared.gate_up_proj", self.shared_gate_up.as_ref().map(|t| t.data.as_slice()), dtype, target)
    }

    fn fill_shared_w2(&self, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill("shared.down_proj", self.shared_down.as_ref().map(|t| t.data.as_slice()), dtype, target)
    }
}
