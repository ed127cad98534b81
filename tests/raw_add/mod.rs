//! `out = a + b` of 16 f32, once through the safe layer and once by the same calls straight on the call table.

use core::ffi::c_void;
use core::ptr;
use std::sync::Arc;

use ascend_moe::{Cann, Device, DeviceBuffer, Sequence, Stream, Tensor, op};
use ascend_sys::{Table, aclDataType, aclFormat, aclTensor, aclnnStatus};

/// Elements of each tensor.
pub(crate) const LEN: usize = 16;

pub(crate) struct Add {
    a: Tensor,
    b: Tensor,
    out: Tensor,
    pub(crate) stream: Stream,
    device: Device,
    /// What the raw calls use; grown to what phase 1 asks for.
    workspace: Option<DeviceBuffer<u8>>,
    table: Arc<Table>,
}

impl Add {
    pub(crate) fn new(cann: &Cann) -> ascend_moe::Result<Self> {
        let device = cann.device(0)?;
        let stream = Stream::new(&device)?;
        let table = Arc::clone(cann.table());
        Ok(Self {
            a: Tensor::from_slice(&device, &[1.5f32; LEN], &[LEN])?,
            b: Tensor::from_slice(&device, &[2.0f32; LEN], &[LEN])?,
            out: Tensor::from_slice(&device, &[0.0f32; LEN], &[LEN])?,
            workspace: None,
            stream,
            device,
            table,
        })
    }

    /// The sum that the last call left.
    pub(crate) fn sum(&self) -> ascend_moe::Result<Vec<f32>> {
        self.out.to_vec(&self.stream)
    }

    /// Through the safe layer, beginning and ending a sequence for it.
    pub(crate) fn safe(&mut self) -> ascend_moe::Result<()> {
        let sequence: Sequence<'_> = self.stream.sequence()?;
        op::add(&sequence, &self.a.view(), &self.b.view(), 1.0, &mut self.out.view_mut())
    }

    /// By the calls that a C program makes whose thread has the device's context: descriptors, both phases with a workspace
    /// kept from call to call, and the descriptors destroyed.
    pub(crate) fn raw(&mut self) -> ascend_moe::Result<()> {
        let table = &*self.table;
        let tensor = |tensor: &Tensor| {
            let (shape, stride) = ([LEN as i64], [1i64]);
            let data = tensor.view().desc().data as *mut c_void;
            let (dtype, format) = (aclDataType::FLOAT, aclFormat::ND);
            // SAFETY: the arrays have one entry each and are copied; the data is device memory of this length.
            unsafe {
                table.aclCreateTensor(shape.as_ptr(), 1, dtype, stride.as_ptr(), 0, format, shape.as_ptr(), 1, data)
            }
        };
        // SAFETY: every object is made here, given to the calls that expect it, and destroyed once; the executor is used
        // once; the tensors outlive the stream's work.
        unsafe {
            let (a, b, out): (_, _, *mut aclTensor) = (tensor(&self.a)?, tensor(&self.b)?, tensor(&self.out)?);
            let mut alpha = 1.0f32;
            let alpha = table.aclCreateScalar(ptr::from_mut(&mut alpha).cast(), aclDataType::FLOAT)?;
            let (mut size, mut executor) = (0, ptr::null_mut());
            let code = table.aclnnAddGetWorkspaceSize(a, b, alpha, out, &mut size, &mut executor)?;
            assert_eq!(code, aclnnStatus::SUCCESS);
            if self.workspace.as_ref().map_or(0, DeviceBuffer::len) < size as usize {
                self.workspace = Some(DeviceBuffer::alloc_uninit(&self.device, size as usize)?);
            }
            let workspace = self.workspace.as_ref().map_or(0, DeviceBuffer::address) as *mut c_void;
            let code = table.aclnnAdd(workspace, size, executor, self.stream.raw())?;
            assert_eq!(code, aclnnStatus::SUCCESS);
            for tensor in [a, b, out] {
                table.aclDestroyTensor(tensor)?;
            }
            table.aclDestroyScalar(alpha)?;
        }
        Ok(())
    }
}
