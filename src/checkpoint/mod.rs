//! Published checkpoints on disk: a folder with `config.json` and safetensors, as Hugging Face writes them.
//!
//! [`Checkpoint::open`] maps the files and checks their structure, [`Checkpoint::layer_weights`] finds and checks every
//! tensor of one mixture-of-experts layer, and [`HostLayer`] copies it, converted, into buffers of the caller's, one
//! range of experts at a time. Weights may be quantised ([`Stored`]): they are expanded to any float type, or copied as int8 or int4
//! codes, as they are or requantised with the error told. [`TensorFile`] reads a single file, [`write_tensors`] writes one. A checkpoint is
//! untrusted input: whatever is in it, the answer is a value or a [`CheckpointError`].
//!
//! Host only. Knows no device: loading a layer onto one is the caller's, who stages what is filled here.

// Files are little-endian, and so is every host of an Ascend device; byte counts of a layer need 64 bits.
const _: () = assert!(cfg!(target_endian = "little") && usize::BITS >= 64);

mod convert;
mod error;
mod file;
mod finder;
mod header;
mod layer;
mod matrix;
mod open;
mod quantisation;
mod stored;
mod weight;
mod write;

pub use error::CheckpointError;
pub use file::{HostTensor, TensorFile, TensorRef};
pub use layer::HostLayer;
pub(crate) use matrix::Matrix;
pub use moe_kernels::formats::requantise::QuantError;
pub use open::{Checkpoint, read_config};
pub use quantisation::Stored;
pub(crate) use weight::Weight;
pub use write::{NamedTensor, write_tensors};
