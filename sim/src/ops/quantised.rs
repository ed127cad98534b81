//! Quantised operands in device memory: weights of int8 and int4, encoded scales; and the operators that make them.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{aclDataType, aclFormat};
use moe_kernels::gemm::Weight;
use moe_kernels::int_gemm::{Int4Weight, IntWeight};
use moe_kernels::nz::{NzLayout, pack};
use moe_kernels::view::NdView;
use moe_kernels::{int4, quant_param};

use super::OpError;
use super::view::{Device, check_outputs, last_two, sizes, weights};
use crate::executor::Args;

/// Numbers of 4 bits in an int32.
const CARRIED: usize = 8;

/// An int4 tensor, by itself or carried by int32, from its first byte on; shape and strides in int4.
pub(super) struct Nibbles<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl<'a> Nibbles<'a> {
    pub(super) fn load(device: &Device<'a>, name: &'static str, tensor: &TensorDesc) -> Result<Self, OpError> {
        let bytes = device.read_bytes(name, tensor)?;
        let (mut shape, mut strides) = sizes(tensor);
        let mut offset = usize::try_from(tensor.offset).unwrap_or(0);
        if tensor.dtype == aclDataType::INT32 {
            // Eight lie together along the dimension whose elements do.
            let carrying = shape.len().saturating_sub(if tensor.is_transposed() { 2 } else { 1 });
            shape.iter_mut().skip(carrying).take(1).for_each(|dim| *dim *= CARRIED);
            let others = strides.iter_mut().enumerate().filter(|(axis, _)| *axis != carrying);
            others.for_each(|(_, stride)| *stride *= CARRIED);
            offset *= CARRIED;
        }
        Ok(Self { bytes: bytes.get(offset / 2..).unwrap_or_default(), shape, strides })
    }
}

/// The weights `[K, N]` of a tensor `[.., K, N]`, or `[.., N, K]` where it is `transposed`, one after the other; of int4 there is
/// one.
pub(super) fn int_weights<'a>(
    device: &Device<'a>,
    name: &'static str,
    tensor: &TensorDesc,
    transposed: bool,
) -> Result<Vec<IntWeight<'a>>, OpError> {
    if tensor.dtype == aclDataType::INT8 {
        let turned = |weight| match weight {
            Weight::Strided(mat) => Weight::Strided(mat.transposed()),
            Weight::Nz(mat) => Weight::NzTransposed(mat),
            Weight::NzTransposed(mat) => Weight::Nz(mat),
            // `weights` makes none.
            antiquant @ Weight::Antiquant(_) => antiquant,
        };
        let weights = weights::<i8>(device, name, tensor)?.into_iter();
        return Ok(weights.map(|weight| IntWeight::Int8(if transposed { turned(weight) } else { weight })).collect());
    }
    let Nibbles { bytes, shape, strides } = Nibbles::load(device, name, tensor)?;
    let (mut shape, mut strides) = (last_two(&shape), last_two(&strides));
    if transposed {
        shape.reverse();
        strides.reverse();
    }
    let [k, n] = shape;
    let weight = match (tensor.format == aclFormat::FRACTAL_NZ, tensor.is_transposed() != transposed) {
        (false, _) => Int4Weight::strided(bytes, shape, strides)?,
        // The storage may be longer than the blocks need.
        (true, false) => Int4Weight::nz(&bytes[..blocks(k, n)?.min(bytes.len())], k, n)?,
        (true, true) => Int4Weight::nz_transposed(&bytes[..blocks(n, k)?.min(bytes.len())], k, n)?,
    };
    Ok(vec![IntWeight::Int4(weight)])
}

/// Bytes of the blocks of a matrix of int4.
fn blocks(rows: usize, cols: usize) -> Result<usize, OpError> {
    Ok(NzLayout::int4(rows, cols)?.storage_len() / 2)
}

/// Scales, and the offsets encoded with them.
pub(super) fn decoded(
    device: &Device<'_>,
    name: &'static str,
    tensor: &TensorDesc,
) -> Result<(Vec<f32>, Vec<f32>), OpError> {
    let params = device.packed::<u64>(name, tensor)?;
    let all = |decode: fn(u64) -> f32| params.iter().copied().map(decode).collect();
    Ok((all(quant_param::scale), all(quant_param::offset)))
}

/// Scales and offsets, encoded.
pub(super) fn trans_quant_param(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let scale = args.tensor("scale").ok_or(OpError::Null("scale"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    check_outputs(args, &["out"])?;
    let scale = device.packed::<f32>("scale", scale)?;
    let offset = args.tensor("offset").map(|offset| device.packed::<f32>("offset", offset)).transpose()?;
    let mut params = device.output::<u64>("out", out)?;
    quant_param::encode_all(&scale, offset.as_deref(), params.slice())?;
    params.finish(device, "out", out)
}

/// Whole numbers of 32 bits, two to a byte.
pub(super) fn convert_weight(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let weight = args.tensor("weight").ok_or(OpError::Null("weight"))?;
    let packed = args.tensor("weightInt4Pack").ok_or(OpError::Null("weightInt4Pack"))?;
    check_outputs(args, &["weightInt4Pack"])?;
    let values = device.packed::<i32>("weight", weight)?;
    let mut bytes = vec![0; values.len() / 2];
    int4::pack(&values, &mut bytes)?;
    let storage = device.write_bytes("weightInt4Pack", packed)?;
    if packed.format == aclFormat::FRACTAL_NZ {
        // Bytes in blocks: the same as int4 in blocks.
        let (mut shape, _) = sizes(weight);
        shape.iter_mut().skip(weight.rank().saturating_sub(1)).for_each(|dim| *dim /= 2);
        pack(&NdView::contiguous(&bytes, &shape)?, storage)?;
        return Ok(());
    }
    let bits = packed.dtype.bits().unwrap_or(0);
    let start = usize::try_from(packed.offset).unwrap_or(0) * bits / 8;
    let target = storage.get_mut(start..).unwrap_or_default();
    target.iter_mut().zip(bytes).for_each(|(target, byte)| *target = byte);
    Ok(())
}
