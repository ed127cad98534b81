//! Mixture-of-experts layers on Huawei Ascend NPUs, and on a simulator of CANN where there is none.
//!
//! From below: [`Cann`] is a table of CANN's C functions, filled by the host's libraries or by the simulator
//! ([`backend`] chooses). [`Device`], [`Stream`], [`Event`], [`DeviceBuffer`], [`PinnedBuffer`] and [`Tensor`] own what
//! CANN gives, so that memory is freed in stream order, work that moves between streams is put in order and nothing is
//! read before it is written. [`op`] has the operators as safe functions, each held against its row of rules before any
//! call. [`layer`] runs a whole mixture-of-experts layer with them; [`spec`] says what a layer computes, and
//! [`checkpoint`] reads published weights.
//!
//! No operator here was run on hardware yet: facts about CANN come from its public sources, named where they are used.

pub mod backend;
mod buffer;
mod cann;
pub mod checkpoint;
pub mod convert;
mod dense;
mod device;
mod dtype;
mod error;
mod event;
mod float;
mod graph;
mod holdings;
pub mod layer;
mod memory;
pub mod op;
mod pinned;
mod scratch;
pub mod spec;
mod stream;
mod sync;
mod tensor;

pub use ascend_sys::{Implementation, OperatorId, Release};
pub use backend::Choice;
pub use buffer::DeviceBuffer;
pub use cann::Cann;
pub use device::{Device, MemoryInfo};
pub use dtype::{DType, Element};
pub use error::{Error, Family, Result, VendorError};
pub use event::Event;
pub use graph::{CaptureMode, Graph};
pub use pinned::{Pending, PinnedBuffer};
pub use scratch::{Footprint, PlannedCall, Sequence};
pub use stream::Stream;
pub use tensor::{Tensor, TensorView, TensorViewMut};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
