//! What a mixture-of-experts model is: the axes along which model families differ, and the sizes.
//!
//! [`MoeSpec`] describes one layer: how its router scores, chooses and weighs, what an expert computes, whether a
//! shared expert is added. It is built from code, or read out of a published `config.json` by
//! [`ModelSpec::from_config`], which also knows which layers are mixtures and how their tensors are called. Both ways
//! validate: a value of these types that exists is legal.
//!
//! Host only. No weights and no device here: weights are found by [`crate::checkpoint`].

mod config;
mod defaults;
mod error;
mod expert;
mod families;
mod family;
mod float;
mod layers;
mod model;
mod moe;
pub(crate) mod names;
mod part;
mod router;
#[cfg(test)]
mod spec_tests;
#[cfg(test)]
mod tests;

pub use error::SpecError;
pub use expert::{Activation, ActivationFn, Clamp, ClampAt, ExpertSpec, SharedSpec};
pub use float::FloatType;
pub use model::{MAX_LAYERS, ModelSpec};
pub use moe::{MAX_EXPERTS, MAX_LAYER_ELEMENTS, MAX_WIDTH, MoeSpec};
pub use names::TensorNames;
pub use part::Part;
pub use router::{Choice, GroupFill, GroupScore, GroupSpec, InputNorm, Normalise, Precision, RouterSpec, Score, Weigh};
