//! ascend-moe.

pub mod backend;
mod buffer;
mod cann;
pub mod checkpoint;
mod device;
mod dtype;
mod error;
mod event;
mod holdings;
mod float;
pub mod layer;
mod memory;
pub mod op;
mod pinned;
mod scratch;
pub mod spec;
mod stream;
mod sync;
mod tensor;

pub use backend::Choice;
pub use buffer::DeviceBuffer;
pub use cann::Cann;
pub use device::{Device, MemoryInfo};
pub use dtype::{DType, Element};
pub use error::{Error, Family, Result, VendorError};
pub use event::Event;
pub use pinned::{Pending, PinnedBuffer};
pub use scratch::{Footprint, Sequence};
pub use stream::Stream;
pub use tensor::{Tensor, TensorView, TensorViewMut};
pub use ascend_sys::{Implementation, OperatorId, Release};
