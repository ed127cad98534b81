//! Where activations come from: a file, or a seed.

use std::path::PathBuf;

use anyhow::{Result, bail};
use ascend_moe::checkpoint::{CheckpointError, HostTensor, TensorFile};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::args::RunArgs;

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
            Some(path) => Self::File(Box::new(TensorFile::open(PathBuf::from(path))?)),
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

    /// The activations `[T, H]` of a layer, finite.
    pub(crate) fn activations(&self, layer: usize, hidden: usize) -> Result<HostTensor> {
        let (name, tensor) = match self {
            Self::File(file) => {
                let own = format!("layers.{layer}.mlp.input");
                match file.values(&own) {
                    Err(CheckpointError::NoTensor { .. }) => {
                        let common = "hidden_states".to_owned();
                        match file.values(&common) {
                            Err(CheckpointError::NoTensor { .. }) => bail!(
                                "{}: neither `{own}` nor `hidden_states` is in the file",
                                file.path().display()
                            ),
                            found => (common, found?),
                        }
                    }
                    found => (own, found?),
                }
            }
            Self::Random { tokens, seed } => {
                ("random input".to_owned(), random(*tokens, hidden, *seed, layer)?)
            }
        };
        match *tensor.shape {
            [_, width] if width == hidden => {}
            _ => bail!("`{name}` has shape {:?}; layer {layer} takes [tokens, {hidden}]", tensor.shape),
        }
        if let Some(at) = tensor.data.iter().position(|value| !value.is_finite()) {
            bail!(
                "`{name}` holds {} at token {}, feature {}; activations must be finite",
                tensor.data[at],
                at / hidden.max(1),
                at % hidden.max(1)
            );
        }
        Ok(tensor)
    }

    /// The output `[T, H]` that the layer should have, where the file tells it.
    pub(crate) fn reference(&self, layer: usize, shape: &[usize]) -> Result<Option<HostTensor>> {
        let Self::File(file) = self else { return Ok(None) };
        let name = format!("layers.{layer}.mlp.output");
        match file.values(&name) {
            Err(CheckpointError::NoTensor { .. }) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(tensor) if tensor.shape == shape => Ok(Some(tensor)),
            Ok(tensor) => bail!("`{name}` has shape {:?}; its input has {shape:?}", tensor.shape),
        }
    }
}

/// Uniform values of mean 0 and variance 1.
fn random(tokens: usize, hidden: usize, seed: u64, layer: usize) -> Result<HostTensor> {
    let Some(elements) = tokens.checked_mul(hidden).filter(|&n| n <= isize::MAX as usize / 8) else {
        bail!("{tokens} tokens of {hidden} values do not fit into memory");
    };
    let mut generator = ChaCha8Rng::seed_from_u64(seed.wrapping_add((layer as u64) << 32));
    let scale = 2.0 * 3f32.sqrt();
    let data = (0..elements).map(|_| (generator.random::<f32>() - 0.5) * scale).collect();
    Ok(HostTensor { shape: vec![tokens, hidden], data })
}
