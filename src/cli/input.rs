//! Where activations come from: a file, or a seed.

use anyhow::{Result, bail};
use ascend_moe::checkpoint::{CheckpointError, HostTensor, TensorFile};
use ascend_moe::layer::Pass;
use ascend_moe::spec::{Choice, MoeSpec};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::args::{MAX_RANDOM, RunArgs};

/// Tokens of random input when nothing is said.
const TOKENS: usize = 16;

/// Activations for any layer.
pub(crate) enum Input {
    File(Box<TensorFile>),
    Random { tokens: usize, seed: u64 },
}

impl Input {
    pub(crate) fn open(args: &RunArgs) -> Result<Self> {
        Ok(match &args.input {
            Some(path) => Self::File(Box::new(TensorFile::open(path)?)),
            None => Self::Random { tokens: args.tokens.unwrap_or(TOKENS), seed: args.seed.unwrap_or(0) },
        })
    }

    /// What a person reads about it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::File(file) => file.path().display().to_string(),
            Self::Random { tokens, seed } => format!("{tokens} random tokens, seed {seed}"),
        }
    }

    /// Finds everything that can be wrong for a layer, and gives the pass it asks for.
    pub(crate) fn check(&self, layer: usize, spec: &MoeSpec) -> Result<Pass> {
        let hidden = spec.experts().hidden;
        match self {
            Self::File(_) => {
                let x = self.activations(layer, hidden)?;
                self.reference(layer, &x.shape)?;
                let tokens = x.data.len() / hidden.max(1);
                self.token_ids(layer, spec, tokens)?;
                let pass = Pass::from(tokens);
                let own = self.router_input(layer, &x.shape)?.is_some();
                Ok(if own { pass.with_router_input() } else { pass })
            }
            Self::Random { tokens, .. } => {
                let most = MAX_RANDOM / hidden.max(1);
                if *tokens > most {
                    bail!(
                        "{tokens} tokens of {hidden} random values; legal is up to {most} tokens, {MAX_RANDOM} values"
                    );
                }
                Ok(Pass::from(*tokens))
            }
        }
    }

    /// The activations `[T, H]` of a layer, finite.
    pub(crate) fn activations(&self, layer: usize, hidden: usize) -> Result<HostTensor> {
        let file = match self {
            Self::File(file) => file,
            Self::Random { tokens, seed } => return random(*tokens, hidden, *seed, layer),
        };
        let own = format!("layers.{layer}.mlp.input");
        let common = "hidden_states";
        let (name, tensor) = match found(file, &own)? {
            Some(tensor) => (own.as_str(), tensor),
            None => match found(file, common)? {
                Some(tensor) => (common, tensor),
                None => bail!("{}: neither `{own}` nor `{common}` is in the file", file.path().display()),
            },
        };
        match *tensor.shape {
            [_, width] if width == hidden => {}
            _ => bail!(
                "{}: tensor `{name}` has shape {:?}; layer {layer} takes [tokens, {hidden}]",
                file.path().display(),
                tensor.shape
            ),
        }
        finite(file, name, &tensor, hidden)?;
        Ok(tensor)
    }

    /// The token ids `[T]` of a layer that chooses experts by them, each within the layer's table; `None` for other layers.
    pub(crate) fn token_ids(&self, layer: usize, spec: &MoeSpec, tokens: usize) -> Result<Option<Vec<i64>>> {
        let Choice::Table { vocab } = spec.router().choice else { return Ok(None) };
        let file = match self {
            Self::File(file) => file,
            Self::Random { seed, .. } => {
                let mut generator = ChaCha8Rng::seed_from_u64(*seed);
                return Ok(Some((0..tokens).map(|_| generator.random_range(0..vocab as i64)).collect()));
            }
        };
        let (path, name) = (file.path().display(), "input_ids");
        let (shape, ids) = match file.integers(name) {
            Err(CheckpointError::NoTensor { .. }) => bail!(
                "{path}: tensor `{name}` is not in the file; layer {layer} chooses experts by token id and needs [{tokens}]"
            ),
            found => found?,
        };
        if shape != [tokens] {
            bail!("{path}: tensor `{name}` has shape {shape:?}; layer {layer} takes [{tokens}], one for each token");
        }
        match ids.iter().enumerate().find(|(_, id)| !usize::try_from(**id).is_ok_and(|id| id < vocab)) {
            None => Ok(Some(ids)),
            Some((token, id)) => {
                bail!("{path}: tensor `{name}` holds {id} at token {token}; legal are 0 to {}", vocab - 1)
            }
        }
    }

    /// The output `[T, H]` that the layer should have, finite, where the file tells it.
    pub(crate) fn reference(&self, layer: usize, shape: &[usize]) -> Result<Option<HostTensor>> {
        self.beside(&format!("layers.{layer}.mlp.output"), shape)
    }

    /// What the router of a layer sees in place of the activations `[T, H]`, finite, where the file tells it.
    pub(crate) fn router_input(&self, layer: usize, shape: &[usize]) -> Result<Option<HostTensor>> {
        self.beside(&format!("layers.{layer}.mlp.router_input"), shape)
    }

    /// A tensor of the shape of the activations, finite, where the file has it.
    fn beside(&self, name: &str, shape: &[usize]) -> Result<Option<HostTensor>> {
        let Self::File(file) = self else { return Ok(None) };
        let Some(tensor) = found(file, name)? else { return Ok(None) };
        if tensor.shape != shape {
            let (file, found) = (file.path().display(), &tensor.shape);
            bail!("{file}: tensor `{name}` has shape {found:?}; its input has {shape:?}");
        }
        finite(file, name, &tensor, shape.last().copied().unwrap_or(0))?;
        Ok(Some(tensor))
    }
}

/// The values of a tensor, if it is there.
fn found(file: &TensorFile, name: &str) -> Result<Option<HostTensor>> {
    match file.values(name) {
        Err(CheckpointError::NoTensor { .. }) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// An error where a value is infinite or not a number.
fn finite(file: &TensorFile, name: &str, tensor: &HostTensor, hidden: usize) -> Result<()> {
    match tensor.data.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((at, value)) => bail!(
            "{}: tensor `{name}` holds {value} at token {}, feature {}; legal are finite values",
            file.path().display(),
            at / hidden.max(1),
            at % hidden.max(1)
        ),
    }
}

/// Uniform values of mean 0 and variance 1, in a random stream of the layer's own.
fn random(tokens: usize, hidden: usize, seed: u64, layer: usize) -> Result<HostTensor> {
    let elements = tokens.saturating_mul(hidden);
    let mut data = Vec::new();
    if data.try_reserve_exact(elements).is_err() {
        bail!("no host memory for {tokens} tokens of {hidden} values");
    }
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(layer as u64);
    let scale = 2.0 * 3f32.sqrt();
    data.extend((0..elements).map(|_| (generator.random::<f32>() - 0.5) * scale));
    Ok(HostTensor { shape: vec![tokens, hidden], data })
}
