//! NpuFormatCast: between ND and FRACTAL_NZ.

use ascend_sys::aclFormat;
use bytemuck::Pod;
use moe_kernels::nz;

use super::OpError;
use super::view::{Device, check_outputs, sizes};
use crate::executor::Args;

/// Packs or unpacks; elements are moved, never converted.
pub(super) fn format_cast(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let source = args.tensor("srcTensor").ok_or(OpError::Null("srcTensor"))?;
    match source.dtype.bytes() {
        Some(1) => moved::<u8>(args, device),
        Some(2) => moved::<u16>(args, device),
        Some(4) => moved::<u32>(args, device),
        _ => Err(OpError::DType(source.dtype)),
    }
}

fn moved<T: Pod + Send + Sync>(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let source = args.tensor("srcTensor").ok_or(OpError::Null("srcTensor"))?;
    let target = args.tensor("dstTensor").ok_or(OpError::Null("dstTensor"))?;
    check_outputs(args, &["dstTensor"])?;
    match (source.format == aclFormat::FRACTAL_NZ, target.format == aclFormat::FRACTAL_NZ) {
        (false, true) => {
            let view = device.nd::<T>("srcTensor", source)?;
            let storage = device.write_storage::<T>("dstTensor", target)?;
            let needed = blocks::<T>(view.shape())?.min(storage.len());
            nz::pack(&view, &mut storage[..needed])?;
        }
        (true, false) => {
            let (shape, _) = sizes(target);
            let storage = device.read_storage::<T>("srcTensor", source)?;
            let needed = blocks::<T>(&shape)?.min(storage.len());
            nz::unpack(&storage[..needed], &shape, device.write::<T>("dstTensor", target)?)?;
        }
        _ => {
            let storage = device.read_storage::<T>("srcTensor", source)?;
            let target = device.write_storage::<T>("dstTensor", target)?;
            moe_kernels::elementwise::map(
                &moe_kernels::view::NdView::contiguous(storage, &[storage.len()])?,
                &mut moe_kernels::view::NdViewMut::contiguous(target, &[storage.len()])?,
                |value| value,
            )?;
        }
    }
    Ok(())
}

/// Elements of the blocks of a batch of matrices; a storage may be longer.
fn blocks<T>(shape: &[usize]) -> Result<usize, OpError> {
    let [batch @ .., rows, cols] = shape else { return Ok(0) };
    Ok(batch.iter().product::<usize>() * nz::NzLayout::new(*rows, *cols, size_of::<T>())?.storage_len())
}

/// TransMatmulWeight: which layout the cube unit likes best is CANN's choice; the simulator leaves a weight as it is.
pub(super) fn keep(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let weight = args.tensor("mmWeightRef").ok_or(OpError::Null("mmWeightRef"))?;
    // The buffer must be there as long as the weight says.
    match weight.dtype.bytes() {
        Some(1) => device.read::<u8>("mmWeightRef", weight).map(drop),
        _ => device.read::<u16>("mmWeightRef", weight).map(drop),
    }
}
