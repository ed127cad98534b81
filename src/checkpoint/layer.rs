//! The weights of one mixture-of-experts layer: found, checked, and copied out in the layout a device takes.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;
use safetensors::Dtype;

use super::convert::{convert, float_type};
use super::{Checkpoint, CheckpointError, TensorRef};
use crate::spec::{FloatType, MoeSpec, Part, Projection};

/// What stands next to a quantised weight, in place of `weight` in its name.
const QUANTISED: [&str; 5] = ["weight_scale_inv", "weight_scale", "weight_packed", "qweight", "scales"];

/// A checked weight and the type it is stored in.
#[derive(Debug, Clone, Copy)]
struct Weight<'a> {
    bytes: &'a [u8],
    dtype: FloatType,
}

impl Weight<'_> {
    /// `dst` holds the same number of elements.
    fn copy_to(self, dst: &mut [u8], dtype: FloatType) {
        convert(self.bytes, self.dtype, dst, dtype);
    }
}

/// The projections of one expert: gate and up `[I, H]`, down `[H, I]`.
#[derive(Debug, Clone, Copy)]
struct Mlp<'a> {
    gate: Weight<'a>,
    up: Weight<'a>,
    down: Weight<'a>,
}

/// All weights of one layer, still in the mapped files. Each is there, has its shape, and is F32, F16 or BF16.
///
/// `fill_*` write into buffers of the caller's, in the type asked for: host memory, row-major, little-endian, no
/// alignment needed, rounded to the nearest even. Experts are written range by range, so that a caller with a small
/// staging buffer never holds more than that and the destination; [`MoeSpec::weight_bytes`] has the sizes. A part the
/// layer does not have takes an empty buffer.
#[derive(Debug, Clone)]
pub struct HostLayer<'a> {
    index: usize,
    spec: &'a MoeSpec,
    router: Weight<'a>,
    choice_bias: Option<Weight<'a>>,
    experts: Vec<Mlp<'a>>,
    shared: Option<Mlp<'a>>,
}

impl Checkpoint {
    /// The weights of layer `layer`. Reads no weight: finds every tensor and checks name, shape and type.
    ///
    /// # Errors
    /// [`CheckpointError`] names the tensor and the rule; [`CheckpointError::NotAMoeLayer`] if the layer is dense,
    /// [`CheckpointError::Quantised`] if its weights are, [`CheckpointError::UnexpectedTensor`] if the layer holds one
    /// that this model does not use, such as a bias, so that leaving it out would change the result.
    pub fn layer_weights(&self, layer: usize) -> Result<HostLayer<'_>, CheckpointError> {
        let Some(spec) = self.model().moe(layer) else {
            return Err(CheckpointError::NotAMoeLayer { layer, moe_layers: self.moe_layers().to_vec() });
        };
        let names = self.model().names();
        let (num, hidden) = (spec.experts().num, spec.experts().hidden);
        let mut finder = Finder { checkpoint: self, used: HashSet::new() };
        let router = finder.weight(names.router(layer), &[num, hidden])?;
        let choice_bias =
            spec.router().choice_bias.then(|| finder.weight(names.choice_bias(layer), &[num])).transpose()?;
        let experts = (0..num)
            .map(|expert| finder.mlp(|p| names.expert(layer, expert, p), hidden, spec.experts().intermediate))
            .collect::<Result<_, _>>()?;
        let shared = spec
            .shared()
            .map(|shared| finder.mlp(|p| names.shared(layer, p), hidden, shared.intermediate))
            .transpose()?;
        finder.nothing_else(&names.block(layer))?;
        Ok(HostLayer { index: layer, spec, router, choice_bias, experts, shared })
    }
}

impl HostLayer<'_> {
    /// The layer's number in the model.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// What the layer computes.
    pub const fn spec(&self) -> &MoeSpec {
        self.spec
    }

    /// Fills `dst` with a part of the weights in `dtype`, in the layout that [`Part`] says; `experts` is the range wanted of a
    /// part that comes [expert by expert](Part::per_expert), and of no account for others. Integers are always `i32`.
    ///
    /// # Errors
    /// [`CheckpointError::ExpertRange`], or [`CheckpointError::Destination`] if `dst` has another size than
    /// [`MoeSpec::fill_bytes`] says; a part the layer does not have takes an empty one.
    pub fn fill(
        &self,
        part: Part,
        experts: Range<usize>,
        dtype: FloatType,
        dst: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let each = self.spec.fill_bytes(part, dtype);
        if !part.per_expert() {
            check_size(part.name(), dst, each)?;
        }
        match (part, self.choice_bias, self.shared) {
            (Part::Router, ..) => self.router.copy_to(dst, dtype),
            (Part::ChoiceBias, Some(bias), _) => bias.copy_to(dst, dtype),
            (Part::W13, ..) => {
                let experts = self.range(part.name(), experts, each, dst)?;
                dst.par_chunks_mut(each).zip(experts).for_each(|(dst, mlp)| mlp.fill_w13(dtype, dst));
            }
            (Part::W2, ..) => {
                let experts = self.range(part.name(), experts, each, dst)?;
                dst.par_chunks_mut(each).zip(experts).for_each(|(dst, mlp)| mlp.down.copy_to(dst, dtype));
            }
            (Part::SharedW13, _, Some(shared)) => shared.fill_w13(dtype, dst),
            (Part::SharedW2, _, Some(shared)) => shared.down.copy_to(dst, dtype),
            _ => {}
        }
        Ok(())
    }

    /// The experts of a range, if it is one and `dst` holds `each` bytes for each of them.
    fn range(
        &self,
        what: &'static str,
        Range { start, end }: Range<usize>,
        each: usize,
        dst: &[u8],
    ) -> Result<&[Mlp<'_>], CheckpointError> {
        let experts = self.experts.get(start..end).ok_or(CheckpointError::ExpertRange {
            start,
            end,
            experts: self.experts.len(),
        })?;
        check_size(what, dst, experts.len() * each)?;
        Ok(experts)
    }
}

impl Mlp<'_> {
    /// `dst` is `[2I, H]`.
    fn fill_w13(&self, dtype: FloatType, dst: &mut [u8]) {
        let (gate, up) = dst.split_at_mut(dst.len() / 2);
        self.gate.copy_to(gate, dtype);
        self.up.copy_to(up, dtype);
    }
}

fn check_size(what: &'static str, dst: &[u8], needed: usize) -> Result<(), CheckpointError> {
    if dst.len() == needed { Ok(()) } else { Err(CheckpointError::Destination { what, bytes: dst.len(), needed }) }
}

/// Finds the tensors of a layer and remembers which.
struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    used: HashSet<String>,
}

impl<'a> Finder<'a> {
    fn mlp(
        &mut self,
        name: impl Fn(Projection) -> String,
        hidden: usize,
        inner: usize,
    ) -> Result<Mlp<'a>, CheckpointError> {
        Ok(Mlp {
            gate: self.weight(name(Projection::Gate), &[inner, hidden])?,
            up: self.weight(name(Projection::Up), &[inner, hidden])?,
            down: self.weight(name(Projection::Down), &[hidden, inner])?,
        })
    }

    fn weight(&mut self, name: String, shape: &[usize]) -> Result<Weight<'a>, CheckpointError> {
        let found = self.checkpoint.find(&name);
        if let Some(evidence) = self.quantisation(&name, found) {
            return Err(CheckpointError::Quantised { tensor: name, evidence });
        }
        let tensor = found.map_or_else(|| self.checkpoint.tensor(&name), Ok)?;
        let Some(dtype) = float_type(tensor.dtype) else {
            let (file, legal) = (self.file(&name), "F32, F16 or BF16");
            return Err(CheckpointError::WrongDtype { file, tensor: name, found: tensor.dtype, legal });
        };
        if tensor.shape != shape {
            let (found, legal) = (tensor.shape.to_vec(), shape.to_vec());
            return Err(CheckpointError::WrongShape { file: self.file(&name), tensor: name, found, legal });
        }
        self.used.insert(name);
        Ok(Weight { bytes: tensor.bytes, dtype })
    }

    /// What says that a weight is quantised: a tensor next to it; or, if it is not there or not of a float type, the
    /// configuration; or its type.
    fn quantisation(&self, name: &str, found: Option<TensorRef<'_>>) -> Option<String> {
        let sibling = name.strip_suffix("weight").and_then(|stem| {
            QUANTISED.iter().map(|q| format!("{stem}{q}")).find(|name| self.checkpoint.find(name).is_some())
        });
        if sibling.is_some() || found.is_some_and(|tensor| float_type(tensor.dtype).is_some()) {
            return sibling;
        }
        let by_type = found.map(|tensor| tensor.dtype).filter(|dtype| is_sub_float(*dtype));
        self.checkpoint.quantised().map(str::to_owned).or_else(|| by_type.map(|dtype| dtype.to_string()))
    }

    /// No tensor of the layer is left that nothing asked for.
    fn nothing_else(&self, block: &str) -> Result<(), CheckpointError> {
        match self.checkpoint.names_below(block).find(|name| !self.used.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(CheckpointError::UnexpectedTensor { file: self.file(name), tensor: name.to_owned() }),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.checkpoint.file_of(name).map_or_else(|| self.checkpoint.dir(), |file| file.path()).to_path_buf()
    }
}

/// A float type of 8 bits or fewer, which means nothing without scales.
fn is_sub_float(dtype: Dtype) -> bool {
    use Dtype::{F4, F6_E2M3, F6_E3M2, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0};
    matches!(dtype, F4 | F6_E2M3 | F6_E3M2 | F8_E4M3 | F8_E4M3FNUZ | F8_E5M2 | F8_E5M2FNUZ | F8_E8M0)
}
