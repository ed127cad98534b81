//! The weights of one mixture-of-experts layer: found, checked, and copied out in the layout a device takes.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;
use safetensors::Dtype;

use super::convert::{add_one, convert, float_type, to_i64};
use super::{Checkpoint, CheckpointError, TensorRef};
use crate::spec::{Activation, FloatType, MoeSpec, Part, TensorNames, names};

/// What stands next to a quantised weight, in place of `weight` in its name.
const QUANTISED: [&str; 5] = ["weight_scale_inv", "weight_scale", "weight_packed", "qweight", "scales"];

/// A float weight of two axes as it lies in a mapped file: any strides, so that transposed, stacked and alternating storage are
/// one thing.
#[derive(Debug, Clone, Copy)]
struct Matrix<'a> {
    bytes: &'a [u8],
    dtype: FloatType,
    rows: usize,
    cols: usize,
    /// Elements from the start of `bytes` to the first one.
    first: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row after row.
    fn packed(bytes: &'a [u8], dtype: FloatType, rows: usize, cols: usize) -> Self {
        Self { bytes, dtype, rows, cols, first: 0, row_stride: cols, col_stride: 1 }
    }

    /// `dst` holds as many elements.
    fn copy_to(&self, dst: &mut [u8], dtype: FloatType) {
        let size = self.dtype.bytes();
        let element = |index: usize| self.bytes.get(index * size..(index + 1) * size).unwrap_or_default();
        if self.col_stride == 1 && self.row_stride == self.cols {
            let all = self.bytes.get(self.first * size..(self.first + self.rows * self.cols) * size);
            return convert(all.unwrap_or_default(), self.dtype, dst, dtype);
        }
        dst.par_chunks_mut((self.cols * dtype.bytes()).max(1)).enumerate().for_each(|(row, dst)| {
            let first = self.first + row * self.row_stride;
            if self.col_stride == 1 {
                let row = self.bytes.get(first * size..(first + self.cols) * size).unwrap_or_default();
                return convert(row, self.dtype, dst, dtype);
            }
            let row: Vec<u8> = (0..self.cols).flat_map(|col| element(first + col * self.col_stride)).copied().collect();
            convert(&row, self.dtype, dst, dtype);
        });
    }
}

/// An expert: its projections, and their biases as matrices of one row.
#[derive(Debug, Clone, Copy)]
struct Mlp<'a> {
    /// `[I, L]`.
    gate: Option<Matrix<'a>>,
    /// `[I, L]`.
    up: Matrix<'a>,
    /// `[L, I]`.
    down: Matrix<'a>,
    gate_bias: Option<Matrix<'a>>,
    up_bias: Option<Matrix<'a>>,
    down_bias: Option<Matrix<'a>>,
}

/// All weights of one layer, still in the mapped files. Each is there, has its shape, and is F32, F16 or BF16.
///
/// [`fill`](Self::fill) writes into buffers of the caller's, in the type asked for: host memory, row-major, little-endian, no
/// alignment needed, rounded to the nearest even. Experts are written range by range, so that a caller with a small staging
/// buffer never holds more than that and the destination; [`MoeSpec::fill_bytes`] has the sizes.
#[derive(Debug, Clone)]
pub struct HostLayer<'a> {
    index: usize,
    spec: &'a MoeSpec,
    /// Parts that are one matrix or vector.
    parts: BTreeMap<Part, Matrix<'a>>,
    /// Experts by token id, and the tensor's name.
    table: Option<(String, TensorRef<'a>)>,
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
        Finder::new(self, layer, spec).layer(layer)
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
    /// [`MoeSpec::fill_bytes`] says; a part the layer does not have takes an empty one. [`CheckpointError::ExpertId`] if a
    /// table names an expert that is not there.
    pub fn fill(
        &self,
        part: Part,
        experts: Range<usize>,
        dtype: FloatType,
        dst: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let each = self.spec.fill_bytes(part, dtype);
        if part.per_expert() {
            let experts = self.range(part.name(), experts, each, dst)?;
            dst.par_chunks_mut(each.max(1)).zip(experts).for_each(|(dst, mlp)| mlp.fill(part, dtype, dst));
            return Ok(());
        }
        check_size(part.name(), dst, each)?;
        match (part, &self.table, self.shared) {
            (Part::ExpertTable, Some((name, table)), _) => self.fill_table(name, *table, dst)?,
            (Part::SharedW13, _, Some(shared)) => shared.fill(Part::W13, dtype, dst),
            (Part::SharedW2, _, Some(shared)) => shared.fill(Part::W2, dtype, dst),
            _ => {
                if let Some(matrix) = self.parts.get(&part) {
                    matrix.copy_to(dst, dtype);
                }
                // Stored less 1, see [`names::EXPERT_NORMS`].
                if let Part::LatentNorm | Part::RowNorm = part {
                    add_one(dst, dtype);
                }
            }
        }
        Ok(())
    }

    fn fill_table(&self, name: &str, table: TensorRef<'_>, dst: &mut [u8]) -> Result<(), CheckpointError> {
        let (experts, top_k) = (self.spec.experts().routed(), self.spec.router().top_k.max(1));
        let ids = to_i64(table).unwrap_or_default();
        for (index, (dst, id)) in dst.as_chunks_mut::<4>().0.iter_mut().zip(ids).enumerate() {
            let known = usize::try_from(id).is_ok_and(|id| id < experts);
            let narrow = i32::try_from(id).ok().filter(|_| known).ok_or_else(|| CheckpointError::ExpertId {
                tensor: name.to_owned(),
                row: index / top_k,
                id,
                experts,
            })?;
            *dst = narrow.to_le_bytes();
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
    fn fill(&self, part: Part, dtype: FloatType, dst: &mut [u8]) {
        let (gate, up) = match part {
            Part::W13 => (self.gate, Some(self.up)),
            Part::W13Bias => (self.gate_bias, self.up_bias),
            Part::W2 => (None, Some(self.down)),
            _ => (None, self.down_bias),
        };
        let split = if gate.is_some() { dst.len() / 2 } else { 0 };
        let (above, below) = dst.split_at_mut(split);
        if let Some(gate) = gate {
            gate.copy_to(above, dtype);
        }
        if let Some(up) = up {
            up.copy_to(below, dtype);
        }
    }
}

fn check_size(what: &'static str, dst: &[u8], needed: usize) -> Result<(), CheckpointError> {
    if dst.len() == needed { Ok(()) } else { Err(CheckpointError::Destination { what, bytes: dst.len(), needed }) }
}

/// Finds the tensors of a layer and remembers which.
struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a MoeSpec,
    names: TensorNames,
    /// What the names of the layer's block start with, and those beside the block.
    block: String,
    beside: String,
    used: HashSet<String>,
}

impl<'a> Finder<'a> {
    fn new(checkpoint: &'a Checkpoint, layer: usize, spec: &'a MoeSpec) -> Self {
        let places =
            || names::LAYERS.iter().flat_map(|layers| names::BLOCKS.iter().map(move |block| (*layers, *block)));
        let has_router = |&(layers, block): &(&str, &str)| {
            names::ROUTER.iter().any(|router| checkpoint.find(&format!("{layers}.{layer}.{block}{router}")).is_some())
        };
        let holds_any = |&(layers, block): &(&str, &str)| {
            !block.is_empty() && checkpoint.names_below(&format!("{layers}.{layer}.{block}")).next().is_some()
        };
        let place = places().find(has_router).or_else(|| places().find(holds_any));
        let (layers, block) = place.unwrap_or(("model.layers", "mlp."));
        Self {
            checkpoint,
            spec,
            names: *checkpoint.model().names(),
            block: format!("{layers}.{layer}.{block}"),
            beside: format!("{layers}.{layer}."),
            used: HashSet::new(),
        }
    }

    fn layer(mut self, layer: usize) -> Result<HostLayer<'a>, CheckpointError> {
        let spec = self.spec;
        let mut parts = BTreeMap::new();
        for (part, candidates) in [
            (Part::Router, names::ROUTER),
            (Part::LogitBias, names::LOGIT_BIAS),
            (Part::ChoiceBias, names::CHOICE_BIAS),
            (Part::LatentIn, names::LATENT[0]),
            (Part::LatentOut, names::LATENT[1]),
            (Part::SharedGate, names::SHARED_GATE),
            (Part::ExpertScale, names::EXPERT_SCALE),
            (Part::WeightScale, names::WEIGHT_SCALE),
            (Part::OutputNorm, names::OUTPUT_NORM),
            (Part::LatentNorm, names::EXPERT_NORMS[0]),
            (Part::RowNorm, names::EXPERT_NORMS[1]),
            (Part::RouterNorm, names::ROUTER_NORM),
        ] {
            if let Some(shape) = spec.shape(part) {
                let name = self.first(candidates);
                parts.insert(part, self.matrix(name, &shape)?);
            }
        }
        let table = match spec.shape(Part::ExpertTable) {
            None => None,
            Some(shape) => Some(self.table(&shape)?),
        };
        let experts = self.experts()?;
        let shared = spec.shared().map(|shared| self.shared(shared.intermediate, &shared.activation)).transpose()?;
        self.nothing_else()?;
        Ok(HostLayer { index: layer, spec, parts, table, experts, shared })
    }

    /// The first of the names in the block that is there, or the first of them.
    fn first(&self, candidates: &[&str]) -> String {
        let name = |candidate: &&str| match candidate.strip_prefix('^') {
            Some(name) => format!("{}{name}", self.beside),
            None => format!("{}{candidate}", self.block),
        };
        let there = candidates.iter().map(name).find(|name| self.checkpoint.find(name).is_some());
        there.or_else(|| candidates.first().map(name)).unwrap_or_default()
    }

    fn is_there(&self, name: &str) -> bool {
        self.checkpoint.find(&format!("{}{name}", self.block)).is_some()
    }

    fn table(&mut self, shape: &[usize]) -> Result<(String, TensorRef<'a>), CheckpointError> {
        let name = self.first(names::TABLE);
        let tensor = self.checkpoint.tensor(&name)?;
        if to_i64(TensorRef { bytes: &[], ..tensor }).is_none() {
            let (file, legal) = (self.file(&name), "I32 or I64");
            return Err(CheckpointError::WrongDtype { file, tensor: name, found: tensor.dtype, legal });
        }
        self.has_shape(&name, tensor.shape, shape)?;
        self.used.insert(name.clone());
        Ok((name, tensor))
    }

    /// The routed experts, from whichever storage is there, and behind them those that every token gets.
    fn experts(&mut self) -> Result<Vec<Mlp<'a>>, CheckpointError> {
        let always = self.spec.router().always;
        let mut experts = self.chosen(self.spec.experts().num.saturating_sub(always))?;
        if always > 0 {
            experts.extend(self.always(always)?);
        }
        Ok(experts)
    }

    /// So many experts that tokens choose among.
    fn chosen(&mut self, count: usize) -> Result<Vec<Mlp<'a>>, CheckpointError> {
        let experts = *self.spec.experts();
        let fused = names::FUSED.iter().find(|[gate_up, _]| self.is_there(gate_up));
        if let Some(fused) = fused.filter(|_| experts.activation.gated) {
            return self.fused(fused, count);
        }
        if let Some(stacked) = names::STACKED.iter().find(|[_, up, _]| self.is_there(up)) {
            return self.stacked(stacked, count);
        }
        if let Some(flat) = names::FLAT.iter().find(|[_, up, _]| self.is_there(up)) {
            return self.flat(flat, count);
        }
        let one = |finder: &mut Self, expert: usize| {
            let prefix = format!("{}experts.{expert}.", finder.block);
            finder.mlp(&prefix, experts.width(), experts.intermediate, &experts.activation)
        };
        (0..count).map(|expert| one(self, expert)).collect()
    }

    /// So many experts that every token gets.
    fn always(&mut self, count: usize) -> Result<Vec<Mlp<'a>>, CheckpointError> {
        let fused = names::ALWAYS_FUSED.iter().find(|[gate_up, _]| self.is_there(gate_up));
        if let Some(fused) = fused.filter(|_| self.spec.experts().activation.gated) {
            return self.fused(fused, count);
        }
        let there = names::ALWAYS_STACKED.iter().find(|[_, up, _]| self.is_there(up));
        self.stacked(there.or(names::ALWAYS_STACKED.first()).unwrap_or(&[""; 3]), count)
    }

    /// Gate and up of `count` experts in one tensor, down in another.
    fn fused(&mut self, [gate_up, down]: &[&str; 2], count: usize) -> Result<Vec<Mlp<'a>>, CheckpointError> {
        let experts = *self.spec.experts();
        let (inner, width) = (experts.intermediate, experts.width());
        let both = self.stack(gate_up, count, 2 * inner, width)?;
        let down = self.stack(down, count, width, inner)?;
        let [gate_up_bias, down_bias] = names::FUSED_BIASES.first().copied().unwrap_or_default();
        let biases = if experts.bias {
            let both = self.matrix(format!("{}{gate_up_bias}", self.block), &[count, 2 * inner])?;
            Some((both, self.matrix(format!("{}{down_bias}", self.block), &[count, width])?))
        } else {
            None
        };
        // Gate rows are the even ones, or the first half.
        let (step, second) = if self.names.interleaved() { (2, 1) } else { (1, inner) };
        let rows = |matrix: Matrix<'a>, first: usize| Matrix {
            rows: inner,
            first: matrix.first + first * matrix.row_stride,
            row_stride: step * matrix.row_stride,
            ..matrix
        };
        let columns = |matrix: Matrix<'a>, expert: usize, first: usize, cols: usize, step: usize| Matrix {
            rows: 1,
            cols,
            first: matrix.first + expert * matrix.row_stride + first,
            row_stride: matrix.row_stride,
            col_stride: step,
            ..matrix
        };
        Ok((0..count)
            .map(|expert| Mlp {
                gate: Some(rows(both(expert), 0)),
                up: rows(both(expert), second),
                down: down(expert),
                gate_bias: biases.map(|(both, _)| columns(both, expert, 0, inner, step)),
                up_bias: biases.map(|(both, _)| columns(both, expert, second, inner, step)),
                down_bias: biases.map(|(_, down)| columns(down, expert, 0, width, 1)),
            })
            .collect())
    }

    /// Each projection of `count` experts in a tensor.
    fn stacked(&mut self, [gate, up, down]: &[&str; 3], count: usize) -> Result<Vec<Mlp<'a>>, CheckpointError> {
        let experts = *self.spec.experts();
        let (inner, width) = (experts.intermediate, experts.width());
        let gates = if experts.activation.gated { Some(self.stack(gate, count, inner, width)?) } else { None };
        let (ups, downs) = (self.stack(up, count, inner, width)?, self.stack(down, count, width, inner)?);
        let one = |expert| Mlp {
            gate: gates.as_ref().map(|gates| gates(expert)),
            up: ups(expert),
            down: downs(expert),
            gate_bias: None,
            up_bias: None,
            down_bias: None,
        };
        Ok((0..count).map(one).collect())
    }

    /// Each projection of `count` experts in a matrix `[E * I, L]`, down turned.
    fn flat(&mut self, names: &[&str; 3], count: usize) -> Result<Vec<Mlp<'a>>, CheckpointError> {
        let experts = *self.spec.experts();
        let (inner, width) = (experts.intermediate, experts.width());
        let mut all = |name: &str| self.matrix(format!("{}{name}", self.block), &[count * inner, width]);
        let [gates, ups, downs] = [all(names[0])?, all(names[1])?, all(names[2])?];
        let of = |all: Matrix<'a>, expert: usize| Matrix { rows: inner, first: expert * inner * width, ..all };
        let one = |expert| Mlp {
            gate: Some(of(gates, expert)),
            up: of(ups, expert),
            down: Matrix { rows: width, cols: inner, row_stride: 1, col_stride: width, ..of(downs, expert) },
            gate_bias: None,
            up_bias: None,
            down_bias: None,
        };
        Ok((0..count).map(one).collect())
    }

    /// Matrices `[rows, cols]` of `count` experts in one tensor, stored so or as `[cols, rows]`. Experts without weights may have
    /// rows there, which nothing uses.
    fn stack(
        &mut self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<impl Fn(usize) -> Matrix<'a> + use<'a>, CheckpointError> {
        let experts = self.spec.experts();
        let name = format!("{}{name}", self.block);
        let (tensor, dtype) = self.float(&name)?;
        let with_idle = count + experts.routed().saturating_sub(experts.num);
        let count = if tensor.shape.first() == Some(&with_idle) { with_idle } else { count };
        let (plain, turned) = ([count, rows, cols], [count, cols, rows]);
        let is_turned = tensor.shape == turned && (tensor.shape != plain || self.names.transposed());
        if !is_turned {
            self.has_shape(&name, tensor.shape, &plain)?;
        }
        self.used.insert(name);
        let (row_stride, col_stride) = if is_turned { (1, rows) } else { (cols, 1) };
        let bytes = tensor.bytes;
        Ok(move |expert: usize| Matrix {
            bytes,
            dtype,
            rows,
            cols,
            first: expert * rows * cols,
            row_stride,
            col_stride,
        })
    }

    /// The shared expert, by whichever name it goes.
    fn shared(&mut self, inner: usize, activation: &Activation) -> Result<Mlp<'a>, CheckpointError> {
        let hidden = self.spec.experts().hidden;
        let place = |name: &&str| match name.strip_prefix('^') {
            Some(name) => format!("{}{name}.", self.beside),
            None => format!("{}{name}.", self.block),
        };
        let there = names::SHARED.iter().map(place).find(|prefix| self.checkpoint.names_below(prefix).next().is_some());
        let prefix = there.unwrap_or_else(|| format!("{}shared_experts.", self.block));
        let fused =
            names::SHARED_FUSED.iter().find(|[both, _]| self.checkpoint.find(&format!("{prefix}{both}")).is_some());
        let Some([both, down]) = fused.filter(|_| activation.gated) else {
            return self.mlp(&prefix, hidden, inner, activation);
        };
        let both = self.matrix(format!("{prefix}{both}"), &[2 * inner, hidden])?;
        Ok(Mlp {
            gate: Some(Matrix { rows: inner, ..both }),
            up: Matrix { rows: inner, first: both.first + inner * both.row_stride, ..both },
            down: self.matrix(format!("{prefix}{down}"), &[hidden, inner])?,
            gate_bias: None,
            up_bias: None,
            down_bias: None,
        })
    }

    /// An expert of a tensor for each projection.
    fn mlp(
        &mut self,
        prefix: &str,
        hidden: usize,
        inner: usize,
        activation: &Activation,
    ) -> Result<Mlp<'a>, CheckpointError> {
        let there = names::PROJECTIONS.iter().find(|[gate, up, _]| {
            let first = if activation.gated { gate } else { up };
            self.checkpoint.find(&format!("{prefix}{first}.weight")).is_some()
        });
        let [gate, up, down] = there.or(names::PROJECTIONS.first()).copied().unwrap_or_default();
        let gate = activation.gated.then(|| self.matrix(format!("{prefix}{gate}.weight"), &[inner, hidden]));
        Ok(Mlp {
            gate: gate.transpose()?,
            up: self.matrix(format!("{prefix}{up}.weight"), &[inner, hidden])?,
            down: self.matrix(format!("{prefix}{down}.weight"), &[hidden, inner])?,
            gate_bias: None,
            up_bias: None,
            down_bias: None,
        })
    }

    /// A tensor of one or two axes as a matrix.
    fn matrix(&mut self, name: String, shape: &[usize]) -> Result<Matrix<'a>, CheckpointError> {
        let (tensor, dtype) = self.float(&name)?;
        self.has_shape(&name, tensor.shape, shape)?;
        self.used.insert(name);
        let (rows, cols) = match *shape {
            [rows, cols] => (rows, cols),
            _ => (1, shape.iter().product()),
        };
        Ok(Matrix::packed(tensor.bytes, dtype, rows, cols))
    }

    fn float(&self, name: &str) -> Result<(TensorRef<'a>, FloatType), CheckpointError> {
        let found = self.checkpoint.find(name);
        if let Some(evidence) = self.quantisation(name, found) {
            return Err(CheckpointError::Quantised { tensor: name.to_owned(), evidence });
        }
        let tensor = found.map_or_else(|| self.checkpoint.tensor(name), Ok)?;
        match float_type(tensor.dtype) {
            Some(dtype) => Ok((tensor, dtype)),
            None => Err(CheckpointError::WrongDtype {
                file: self.file(name),
                tensor: name.to_owned(),
                found: tensor.dtype,
                legal: "F32, F16 or BF16",
            }),
        }
    }

    /// A vector may also be stored as a matrix of one row.
    fn has_shape(&self, name: &str, found: &[usize], legal: &[usize]) -> Result<(), CheckpointError> {
        if found == legal || matches!((found, legal), ([1, a], [b]) if a == b) {
            return Ok(());
        }
        let (found, legal) = (found.to_vec(), legal.to_vec());
        Err(CheckpointError::WrongShape { file: self.file(name), tensor: name.to_owned(), found, legal })
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

    /// No tensor of the layer's block is left that nothing asked for.
    fn nothing_else(&self) -> Result<(), CheckpointError> {
        let below: Vec<String> = if self.block == self.beside {
            names::MEMBERS.iter().map(|member| format!("{}{member}", self.block)).collect()
        } else {
            vec![self.block.clone()]
        };
        let mut all = below.iter().flat_map(|prefix| self.checkpoint.names_below(prefix));
        // Experts without weights may have tensors, which nothing uses.
        let experts = self.spec.experts();
        let idle: Vec<String> =
            (experts.num..experts.routed()).map(|expert| format!("{}experts.{expert}.", self.block)).collect();
        let is_idle = |name: &str| idle.iter().any(|prefix| name.starts_with(prefix.as_str()));
        match all.find(|name| !self.used.contains(*name) && !is_idle(name)) {
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
