//! Finding the tensors of one mixture-of-experts layer, by whichever names and in whichever storage they are there.

use std::collections::{BTreeMap, HashSet};
use std::mem::discriminant;

use super::convert::to_i64;
use super::layer::Mlp;
use super::matrix::Matrix;
use super::weight::Weight;
use super::{Checkpoint, CheckpointError, HostLayer, TensorRef};
use crate::spec::{Activation, MoeSpec, Part, TensorNames, names};

impl Checkpoint {
    /// Whether any tensor of a layer is there.
    pub(crate) fn has_layer(&self, layer: usize) -> bool {
        names::LAYERS.iter().any(|layers| self.names_below(&format!("{layers}.{layer}.")).next().is_some())
    }
}

/// Finds the tensors of a layer and remembers which.
pub(super) struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a MoeSpec,
    names: TensorNames,
    /// What the names of the layer's block start with, and those beside the block.
    block: String,
    beside: String,
    used: HashSet<String>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, layer: usize, spec: &'a MoeSpec) -> Self {
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

    pub(super) fn layer(mut self, layer: usize) -> Result<HostLayer<'a>, CheckpointError> {
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
        self.stored_alike(&experts)?;
        self.stored_alike(shared.as_slice())?;
        self.nothing_else()?;
        Ok(HostLayer { index: layer, spec, parts, table, experts, shared, int8_activations: false })
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
        self.checkpoint.has_weight(&format!("{}{name}", self.block))
    }

    fn table(&mut self, shape: &[usize]) -> Result<(String, TensorRef<'a>), CheckpointError> {
        let name = self.first(names::TABLE);
        let tensor = self.checkpoint.tensor(&name)?;
        if to_i64(TensorRef { bytes: &[], ..tensor }).is_none() {
            let (file, legal) = (self.file(&name), "I32 or I64");
            return Err(CheckpointError::WrongDtype { file, tensor: name, found: tensor.dtype, legal });
        }
        if tensor.shape != shape {
            let (found, legal) = (tensor.shape.to_vec(), shape.to_vec());
            return Err(CheckpointError::WrongShape { file: self.file(&name), tensor: name, found, legal });
        }
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
        let bias =
            |all: Matrix<'a>, expert: usize| Matrix { along: expert, cols: 1, ..Matrix::whole(all.stored, true) };
        Ok((0..count)
            .map(|expert| Mlp {
                gate: Some(both(expert).take_rows(0, step, inner)),
                up: both(expert).take_rows(second, step, inner),
                down: down(expert),
                gate_bias: biases.map(|(both, _)| bias(both, expert).take_rows(0, step, inner)),
                up_bias: biases.map(|(both, _)| bias(both, expert).take_rows(second, step, inner)),
                down_bias: biases.map(|(_, down)| bias(down, expert)),
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
        let [gates, ups] = [all(names[0])?, all(names[1])?];
        // As codes, down is a matrix for each expert, `[out, in]` like all codes.
        let name = format!("{}{}", self.block, names[2]);
        let down = self.checkpoint.weight(&name)?;
        let apart = down.shape == [count, width, inner];
        let legal = if apart { down.shape.clone() } else { vec![count * inner, width] };
        self.has_shape(&down, &legal)?;
        self.use_up(&down);
        let one = |expert| Mlp {
            gate: Some(gates.take_rows(expert * inner, 1, inner)),
            up: ups.take_rows(expert * inner, 1, inner),
            down: match apart {
                true => Matrix::whole(down.matrix(expert), false),
                false => Matrix { along: expert * inner, cols: inner, ..Matrix::whole(down.matrix(0), true) },
            },
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
        let weight = self.checkpoint.weight(&name)?;
        let with_idle = count + experts.routed().saturating_sub(experts.num);
        let count = if weight.shape.first() == Some(&with_idle) { with_idle } else { count };
        let (plain, turned) = ([count, rows, cols], [count, cols, rows]);
        let either = weight.shape == turned && (weight.shape != plain || self.names.transposed());
        let is_turned = weight.turned.unwrap_or(either);
        self.has_shape(&weight, if is_turned { &turned } else { &plain })?;
        self.use_up(&weight);
        Ok(move |expert: usize| Matrix::whole(weight.matrix(expert), is_turned))
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
        let fused = names::SHARED_FUSED.iter().find(|[both, _]| self.checkpoint.has_weight(&format!("{prefix}{both}")));
        let Some([both, down]) = fused.filter(|_| activation.gated) else {
            return self.mlp(&prefix, hidden, inner, activation);
        };
        let both = self.matrix(format!("{prefix}{both}"), &[2 * inner, hidden])?;
        Ok(Mlp {
            gate: Some(both.take_rows(0, 1, inner)),
            up: both.take_rows(inner, 1, inner),
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
            self.checkpoint.has_weight(&format!("{prefix}{first}.weight"))
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

    /// A weight of one or two axes as a matrix.
    fn matrix(&mut self, name: String, shape: &[usize]) -> Result<Matrix<'a>, CheckpointError> {
        let weight = self.checkpoint.weight(&name)?;
        self.has_shape(&weight, shape)?;
        self.use_up(&weight);
        Ok(Matrix::whole(weight.matrix(0), false))
    }

    fn use_up(&mut self, weight: &Weight<'a>) {
        self.used.insert(weight.tensor.name.to_owned());
        self.used.extend(weight.beside.iter().map(|name| (*name).to_owned()));
    }

    /// A vector may also be stored as a matrix of one row.
    fn has_shape(&self, weight: &Weight<'_>, legal: &[usize]) -> Result<(), CheckpointError> {
        let found = weight.shape.as_slice();
        if found == legal || matches!((found, legal), ([1, a], [b]) if a == b) {
            return Ok(());
        }
        let (file, tensor) = (self.checkpoint.path_of(weight.tensor.name).to_path_buf(), weight.tensor.name.to_owned());
        Err(CheckpointError::WrongShape { file, tensor, found: found.to_vec(), legal: legal.to_vec() })
    }

    /// The matrices of all of these are stored in one format.
    fn stored_alike(&self, mlps: &[Mlp<'a>]) -> Result<(), CheckpointError> {
        let mut all = mlps.iter().flat_map(|mlp| [mlp.gate, Some(mlp.up), Some(mlp.down)]).flatten();
        let Some(first) = all.next() else { return Ok(()) };
        let as_first = first.stored_as();
        match all.find(|matrix| discriminant(&matrix.stored_as()) != discriminant(&as_first)) {
            None => Ok(()),
            Some(other) => Err(CheckpointError::MixedFormats {
                tensor: other.stored.name.to_owned(),
                found: other.stored_as(),
                first: first.stored.name.to_owned(),
                as_first,
            }),
        }
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

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.checkpoint.path_of(name).to_path_buf()
    }
}
