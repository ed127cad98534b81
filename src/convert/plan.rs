//! What a conversion writes: for each file of the input the tensors that its own become.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::{ConvertError, Format, Options};
use crate::checkpoint::{Checkpoint, CheckpointError, Matrix, Stored, TensorRef, Weight};
use crate::spec::FloatType;

/// What an expert's weight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Role {
    routed: bool,
    /// Whether its matrices are stored `[in, out]`.
    turned: bool,
    /// Its inputs; fewer than a stored matrix has rows where several experts lie behind one another in it.
    inputs: usize,
}

/// What a tensor of the input becomes.
#[derive(Debug)]
pub(super) enum Job<'a> {
    /// The same.
    Copy(TensorRef<'a>),
    /// Matrices, one after the other, in another format.
    Encode {
        /// The name of the weight.
        name: String,
        matrices: Vec<Matrix<'a>>,
        from: Stored,
        target: Target,
    },
}

/// What matrices are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Bf16,
    Int8,
    Int4 { group: Option<usize> },
}

impl Target {
    pub(super) const fn stored(self) -> Stored {
        match self {
            Self::Bf16 => Stored::Float(FloatType::Bf16),
            Self::Int8 => Stored::Int8 { group: None },
            Self::Int4 { group } => Stored::Int4 { group },
        }
    }

    /// Scales of a row of so many inputs.
    pub(super) fn scales(self, inputs: usize) -> usize {
        match self {
            Self::Bf16 => 0,
            Self::Int4 { group: Some(group) } => inputs / group.max(1),
            Self::Int8 | Self::Int4 { group: None } => 1,
        }
    }
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OutTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: usize,
}

impl OutTensor {
    fn new(name: String, dtype: Dtype, shape: Vec<usize>) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        Self { name, dtype, shape, bytes }
    }
}

/// One step of writing a file: the tensors it writes, one after the other.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) job: Job<'a>,
    pub(super) tensors: Vec<OutTensor>,
}

/// A file of the output.
#[derive(Debug)]
pub(super) struct Shard<'a> {
    pub(super) file: String,
    pub(super) steps: Vec<Step<'a>>,
}

impl Step<'_> {
    pub(super) fn is_copy(&self) -> bool {
        matches!(self.job, Job::Copy(_))
    }
}

impl Shard<'_> {
    pub(super) fn bytes(&self) -> u64 {
        self.steps.iter().flat_map(|step| &step.tensors).map(|tensor| tensor.bytes as u64).sum()
    }
}

/// A plan, and the names of the modules whose weights are int8 and int4.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) shards: Vec<Shard<'a>>,
    pub(super) int8: Vec<String>,
    pub(super) int4: Vec<String>,
}

pub(super) fn plan(checkpoint: &Checkpoint, options: Options) -> Result<Plan<'_>, ConvertError> {
    if options.group.is_some() && options.format != Format::W4a8 {
        return Err(ConvertError::NoGroups { format: options.format });
    }
    let roles = roles(checkpoint)?;
    let count = checkpoint.files().len();
    let mut plan = Plan { shards: Vec::new(), int8: Vec::new(), int4: Vec::new() };
    for (index, file) in checkpoint.files().iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let mut shard = Shard { file: name, steps: Vec::new() };
        for tensor in file.tensors() {
            let weight = checkpoint.weight_of(tensor.name);
            let role = roles.get(tensor.name).copied();
            if role.is_none() && !checkpoint.is_quantised(&weight) {
                let out = OutTensor::new(tensor.name.to_owned(), tensor.dtype, tensor.shape.to_vec());
                shard.steps.push(Step { job: Job::Copy(tensor), tensors: vec![out] });
                continue;
            }
            let found = checkpoint.weight(&weight)?;
            // Its scales go with its codes.
            if found.tensor.name != tensor.name {
                continue;
            }
            let target = match (role, options.format) {
                (None, _) | (_, Format::Bf16) => Target::Bf16,
                (Some(Role { routed: true, .. }), Format::W4a8) => Target::Int4 { group: options.group },
                _ => Target::Int8,
            };
            if let (Target::Int4 { group }, Some(Role { inputs, .. })) = (target, role) {
                let file = file.path().to_path_buf();
                if !inputs.is_multiple_of(2) {
                    return Err(CheckpointError::OddNibbles { file, tensor: weight.into_owned(), count: inputs }.into());
                }
                if let Some(group) = group.filter(|group| !inputs.is_multiple_of(*group)) {
                    let tensor = weight.into_owned();
                    return Err(CheckpointError::GroupSize { file, tensor, group, size: inputs }.into());
                }
            }
            match target {
                Target::Bf16 => {}
                Target::Int8 => plan.int8.push(module(&weight)),
                Target::Int4 { .. } => plan.int4.push(module(&weight)),
            }
            shard.steps.push(encode(checkpoint, &weight, &found, role, target, options));
        }
        plan.shards.push(shard);
    }
    Ok(plan)
}

/// The module of a weight.
fn module(weight: &str) -> String {
    weight.strip_suffix(".weight").unwrap_or(weight).to_owned()
}

/// The tensors that hold experts' weights.
fn roles(checkpoint: &Checkpoint) -> Result<BTreeMap<String, Role>, ConvertError> {
    let mut roles = BTreeMap::new();
    // A folder may hold some of a model's layers.
    for &layer in checkpoint.moe_layers().iter().filter(|layer| checkpoint.has_layer(**layer)) {
        let weights = checkpoint.layer_weights(layer)?;
        for (routed, matrix) in weights.matrices() {
            let role = Role { routed, turned: matrix.turned, inputs: matrix.cols };
            roles.insert(matrix.stored.name.to_owned(), role);
        }
    }
    if roles.is_empty() {
        return Err(ConvertError::NoExperts { dir: checkpoint.dir().to_path_buf() });
    }
    Ok(roles)
}

fn encode<'a>(
    checkpoint: &'a Checkpoint,
    name: &str,
    weight: &Weight<'a>,
    role: Option<Role>,
    target: Target,
    options: Options,
) -> Step<'a> {
    let (outer, from) = (weight.count(), weight.stored());
    let whole = (0..outer).map(|index| weight.matrix(index));
    let Role { turned, inputs, .. } =
        role.unwrap_or(Role { routed: false, turned: false, inputs: weight.inputs(false) });
    // What is read as `[in, out]` where its shape does not tell stays so as a float; codes are `[out, in]`, their scales tell.
    let stack = weight.shape.len() > 2;
    let keeps_turned = match (target, from) {
        _ if options.nz => false,
        (Target::Bf16, Stored::Float(_)) => turned,
        (Target::Bf16, _) => turned && !stack || role.is_some() && stack && checkpoint.model().names().transposed(),
        _ => false,
    };
    let matrices: Vec<Matrix<'a>> = whole
        .flat_map(|stored| {
            let all = Matrix::whole(stored, turned != keeps_turned);
            // Several experts behind one another in a matrix that is turned become matrices of their own.
            let experts = if all.turned && !stack { all.cols / inputs.max(1) } else { 1 };
            (0..experts).map(move |expert| Matrix {
                along: expert * (all.cols / experts),
                cols: all.cols / experts,
                ..all
            })
        })
        .collect();
    let (rows, cols) = matrices.first().map_or((0, 0), |matrix| (matrix.rows, matrix.cols));
    let lead = match (weight.shape.len(), matrices.len()) {
        (0..=2, 1) => Vec::new(),
        (0..=2, experts) => vec![experts],
        (axes, _) => weight.shape.get(..axes - 2).unwrap_or_default().to_vec(),
    };
    let shape = |last: &[usize]| [lead.as_slice(), last].concat();
    let nz = options.nz && role.is_some();
    let codes = super::encode::codes(name, target, nz, [rows, cols]);
    let codes = OutTensor::new(codes.0, codes.1, shape(&codes.2));
    let mut tensors = vec![codes];
    if target != Target::Bf16 {
        tensors.push(OutTensor::new(format!("{name}_scale"), Dtype::F32, shape(&[rows, target.scales(cols)])));
    }
    if matches!(target, Target::Int4 { .. }) || nz {
        tensors.push(OutTensor::new(format!("{name}_shape"), Dtype::I64, vec![lead.len() + 2]));
    }
    Step { job: Job::Encode { name: name.to_owned(), matrices, from, target }, tensors }
}
