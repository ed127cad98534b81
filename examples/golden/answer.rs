//! One golden file: its layer, its weights, its answer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ascend_moe::checkpoint::{HostTensor, NamedTensor, TensorFile, write_tensors};
use ascend_moe::layer::{LayerInput, LayerOptions, MoeLayer, Router, WeightSource};
use ascend_moe::spec::{FloatType, MoeSpec, Part};
use ascend_moe::{Device, Error, Stream, Tensor};
use half::{bf16, f16};

use super::formats;
use super::meta::{Meta, Sizes, Storage};
use super::quantisation;

/// Tensors that a file of this kind may hold: inputs, weights, and intermediates that only serve a reader. Another one
/// could change what is asked, so it is refused.
const KNOWN: &[&str] = &[
    "hidden_states",
    "gate_weight",
    "e_score_correction_bias",
    "router_logit_bias",
    "tid2eid",
    "input_ids",
    "experts.gate_up_proj",
    "experts.up_proj",
    "experts.down_proj",
    "experts.gate_up_proj_bias",
    "experts.up_proj_bias",
    "experts.down_proj_bias",
    "shared.gate_proj",
    "shared.up_proj",
    "shared.gate_up_proj",
    "shared.down_proj",
    "shared.expert_gate",
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
    if meta.is_quantisation() {
        return quantisation::answer(&file, &meta, out);
    }
    let is_known = |name: &str| KNOWN.contains(&name) || OUTPUTS.contains(&name);
    if let Some(unknown) = file.tensors().find(|t| !is_known(t.name) && !is_known(&formats::weight_of(t.name))) {
        bail!("tensor {:?} is not understood", unknown.name);
    }
    let golden = Golden::read(&file, &meta)?;
    let dtype = meta.dtype()?;
    let stream = Stream::new(device)?;
    let x = Tensor::from_f32(device, dtype, &golden.hidden_states.data, &golden.hidden_states.shape)?;
    let options = LayerOptions::new(dtype);
    let token_ids = golden.token_ids.as_ref().map(|ids| Tensor::from_slice(device, ids, &[ids.len()])).transpose()?;
    let mut input = LayerInput::from(x.view());
    if let Some(ids) = &token_ids {
        input = input.with_token_ids(ids.view());
    }
    let (ids, weights, output) = if meta.is_routing_only() {
        let router = Router::load(&stream, &golden, options)?;
        let (ids, weights) = router.route(&stream, input)?;
        (ids, weights, None)
    } else {
        let layer = MoeLayer::load(&stream, &golden, options, &mut |_, _| {})?;
        let result = layer.forward(&stream, input)?;
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

/// The weights of a file, as values in the layout of [`Part`].
pub(crate) struct Golden {
    spec: MoeSpec,
    hidden_states: HostTensor,
    pub(crate) token_ids: Option<Vec<i32>>,
    parts: BTreeMap<Part, Vec<f32>>,
    table: Vec<i32>,
}

impl Golden {
    pub(crate) fn read(file: &TensorFile, meta: &Meta) -> Result<Self> {
        let reader = Reader { file, storage: meta.storage()? };
        let hidden_states = file.values("hidden_states")?;
        let [_, hidden] = shape(&hidden_states)?;
        let gate_weight = file.values("gate_weight")?;
        let [routed, gate_hidden] = shape(&gate_weight)?;
        if hidden != gate_hidden {
            bail!("hidden_states has width {hidden}, gate_weight {gate_hidden}");
        }
        let mut parts = BTreeMap::new();
        parts.insert(Part::Router, gate_weight);
        for (part, name) in [
            (Part::LogitBias, "router_logit_bias"),
            (Part::ChoiceBias, "e_score_correction_bias"),
            (Part::W2Bias, "experts.down_proj_bias"),
            (Part::SharedW2, "shared.down_proj"),
            (Part::SharedGate, "shared.expert_gate"),
        ] {
            parts.extend(reader.optional(name)?.map(|tensor| (part, tensor)));
        }
        parts.extend(reader.matrices("experts.down_proj", false)?.map(|tensor| (Part::W2, tensor)));
        for (part, fused, alone) in [
            (Part::W13, "experts.gate_up_proj", "experts.up_proj"),
            (Part::W13Bias, "experts.gate_up_proj_bias", "experts.up_proj_bias"),
        ] {
            let read = |name, in_turn| match part {
                Part::W13 => reader.matrices(name, in_turn),
                _ => reader.biases(name, in_turn),
            };
            let found = match read(fused, true)? {
                Some(found) => Some(found),
                None => read(alone, false)?,
            };
            parts.extend(found.map(|tensor| (part, tensor)));
        }
        parts.extend(reader.shared()?.map(|tensor| (Part::SharedW13, tensor)));

        let table = reader.integers("tid2eid")?;
        let intermediate = parts.get(&Part::W2).map(|down| shape::<3>(down).map(|[_, _, inner]| inner)).transpose()?;
        let shared = parts.get(&Part::SharedW2).map(|down| shape::<2>(down).map(|[_, inner]| inner)).transpose()?;
        let vocab = table.as_ref().and_then(|(shape, _)| shape.first().copied());
        let spec = meta.spec(Sizes { hidden, routed, intermediate, shared, vocab })?;
        // Experts without weights may have rows in the fused tensors; nothing uses them.
        if let Some(first) = parts.get_mut(&Part::W13) {
            keep_first(first, spec.experts().num);
        }
        for part in
            Part::ALL.into_iter().filter(|part| !part.is_integer() && (!meta.is_routing_only() || part.of_router()))
        {
            let (found, due) = (parts.get(&part).map(|tensor| tensor.shape.clone()), spec.shape(part));
            if found != due {
                bail!("{} is {found:?} in the file; by its metadata {due:?} is due", part.name());
            }
        }
        Ok(Self {
            spec,
            hidden_states,
            token_ids: reader.integers("input_ids")?.map(|(_, ids)| ids),
            parts: parts.into_iter().map(|(part, tensor)| (part, tensor.data)).collect(),
            table: table.map(|(_, values)| values).unwrap_or_default(),
        })
    }
}

/// Reads the tensors of a file into the layout of [`Part`].
struct Reader<'a> {
    file: &'a TensorFile,
    storage: Storage,
}

impl Reader<'_> {
    fn optional(&self, name: &str) -> Result<Option<HostTensor>> {
        let there = self.file.tensors().any(|tensor| tensor.name == name);
        if there { self.file.values(name).map(Some).map_err(Into::into) } else { formats::expanded(self.file, name) }
    }

    fn integers(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<i32>)>> {
        if !self.file.tensors().any(|tensor| tensor.name == name) {
            return Ok(None);
        }
        let (shape, values) = self.file.integers(name)?;
        let narrow = values.into_iter().map(i32::try_from).collect::<Result<_, _>>();
        Ok(Some((shape, narrow.with_context(|| format!("{name} holds values beyond 32 bits"))?)))
    }

    /// Matrices `[E, out, in]` of all experts; `in_turn` where their rows are gate and up.
    fn matrices(&self, name: &str, in_turn: bool) -> Result<Option<HostTensor>> {
        let Some(mut tensor) = self.optional(name)? else { return Ok(None) };
        let [experts, mut rows, mut cols] = shape(&tensor)?;
        if self.storage.transposed {
            (rows, cols) = (cols, rows);
            let each = (rows * cols).max(1);
            tensor.data = tensor.data.chunks(each).flat_map(|matrix| transposed(matrix, cols, rows)).collect();
        }
        if in_turn && self.storage.interleaved {
            tensor.data = tensor.data.chunks((rows * cols).max(1)).flat_map(|matrix| halves(matrix, cols)).collect();
        }
        tensor.shape = vec![experts, rows, cols];
        Ok(Some(tensor))
    }

    /// Biases `[E, out]`.
    fn biases(&self, name: &str, in_turn: bool) -> Result<Option<HostTensor>> {
        let Some(mut tensor) = self.optional(name)? else { return Ok(None) };
        let [_, rows] = shape(&tensor)?;
        if in_turn && self.storage.interleaved {
            tensor.data = tensor.data.chunks(rows.max(1)).flat_map(|bias| halves(bias, 1)).collect();
        }
        Ok(Some(tensor))
    }

    /// The shared expert's first projection: gate rows, then up rows, or up rows alone.
    fn shared(&self) -> Result<Option<HostTensor>> {
        let names = ["shared.gate_up_proj", "shared.gate_proj", "shared.up_proj"];
        match names.map(|name| self.optional(name)) {
            [Ok(Some(both)), Ok(None), Ok(None)] => Ok(Some(both)),
            [Ok(None), Ok(Some(gate)), Ok(Some(up))] => stack(gate, &up).map(Some),
            [Ok(None), Ok(None), Ok(up)] => Ok(up),
            _ => bail!("shared.gate_up_proj, shared.gate_proj and shared.up_proj do not go together"),
        }
    }
}

fn shape<const N: usize>(tensor: &HostTensor) -> Result<[usize; N]> {
    <[usize; N]>::try_from(tensor.shape.as_slice())
        .map_err(|_| anyhow::anyhow!("a tensor of shape {:?} where {N} dimensions are due", tensor.shape))
}

/// A matrix `[rows, cols]` as `[cols, rows]`.
fn transposed(matrix: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| matrix[row * cols + col])).collect()
}

/// Rows in turn as the even ones above the odd ones.
fn halves(rows: &[f32], cols: usize) -> Vec<f32> {
    let every = |first: usize| rows.chunks(cols).skip(first).step_by(2).flatten().copied();
    every(0).chain(every(1)).collect()
}

/// The first `count` of a tensor's first axis.
fn keep_first(tensor: &mut HostTensor, count: usize) {
    if let Some(first) = tensor.shape.first_mut()
        && *first > count
    {
        let each = tensor.data.len() / *first;
        tensor.data.truncate(count * each);
        *first = count;
    }
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

impl WeightSource for Golden {
    fn spec(&self) -> &MoeSpec {
        &self.spec
    }

    fn fill(&self, part: Part, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        let wrong = |found: usize| Error::Shape {
            what: part.name(),
            found: format!("{found} values"),
            legal: format!("{} bytes of {dtype}", target.len()),
        };
        if part.is_integer() {
            if self.table.len() * 4 != target.len() {
                return Err(wrong(self.table.len()));
            }
            target.chunks_exact_mut(4).zip(&self.table).for_each(|(out, id)| out.copy_from_slice(&id.to_le_bytes()));
            return Ok(());
        }
        let values = self.parts.get(&part).map(Vec::as_slice).unwrap_or_default();
        let values = if part.per_expert() {
            let each = values.len() / self.spec.experts().num;
            values.get(experts.start * each..experts.end * each).unwrap_or_default()
        } else {
            values
        };
        if values.len() * dtype.bytes() != target.len() {
            return Err(wrong(values.len()));
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
}
