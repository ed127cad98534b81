//! Conversion between float types on the host, over little-endian bytes that need no alignment.
//!
//! Rounding is to the nearest, ties to even; what is too large for `float16` becomes infinite, NaN stays NaN.

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use moe_kernels::element::Float;
use rayon::prelude::*;
use safetensors::Dtype;

use super::TensorRef;
use crate::spec::FloatType;

/// Elements of one parallel piece.
const PIECE: usize = 1 << 16;
/// Elements converted at a time, in a buffer on the stack.
const BLOCK: usize = 256;

/// The weights' type of a type in a file, or `None` where it is no type of weights.
pub(super) fn float_type(dtype: Dtype) -> Option<FloatType> {
    match dtype {
        Dtype::F32 => Some(FloatType::F32),
        Dtype::F16 => Some(FloatType::F16),
        Dtype::BF16 => Some(FloatType::Bf16),
        _ => None,
    }
}

/// Writes the elements `src` into `dst`. Both hold the same number of elements.
pub(super) fn convert(src: &[u8], from: FloatType, dst: &mut [u8], to: FloatType) {
    debug_assert_eq!(src.len() / from.bytes(), dst.len() / to.bytes());
    dst.par_chunks_mut(PIECE * to.bytes()).zip(src.par_chunks(PIECE * from.bytes())).for_each(|(dst, src)| {
        if from == to {
            dst.copy_from_slice(src);
            return;
        }
        for (dst, src) in dst.chunks_mut(BLOCK * to.bytes()).zip(src.chunks(BLOCK * from.bytes())) {
            let mut values = [0.0_f32; BLOCK];
            decode(src, from, &mut values);
            encode(&values, to, dst);
        }
    });
}

/// The elements `src` in f32, over the shorter of the two.
pub(super) fn widen(src: &[u8], from: FloatType, dst: &mut [f32]) {
    // Without a copy where they lie as the type wants them, which is almost always; memory is little-endian on every host of ours.
    if let (FloatType::Bf16, true, Ok(values)) = (from, cfg!(target_endian = "little"), bytemuck::try_cast_slice(src)) {
        let count = values.len().min(dst.len());
        let (values, dst): (&[bf16], _) = (values, dst);
        if let (Some(values), Some(dst)) = (values.get(..count), dst.get_mut(..count)) {
            Float::widen(values, dst);
        }
        return;
    }
    let blocks = dst.chunks_mut(BLOCK).zip(src.chunks(BLOCK * from.bytes()));
    blocks.for_each(|(dst, src)| decode(src, from, dst));
}

/// The values `src` in a type, over the shorter of the two.
pub(super) fn narrow(src: &[f32], to: FloatType, dst: &mut [u8]) {
    let blocks = dst.chunks_mut(BLOCK * to.bytes()).zip(src.chunks(BLOCK));
    blocks.for_each(|(dst, src)| encode(src, to, dst));
}

/// Adds 1 to each element, rounded to the type.
pub(super) fn add_one(elements: &mut [u8], dtype: FloatType) {
    for block in elements.chunks_mut(BLOCK * dtype.bytes()) {
        let mut values = [0.0_f32; BLOCK];
        decode(block, dtype, &mut values);
        values.iter_mut().for_each(|value| *value += 1.0);
        encode(&values, dtype, block);
    }
}

/// The values of a tensor in `f32`, or `None` where its type is no float type.
pub(super) fn to_f32(tensor: TensorRef<'_>) -> Option<Vec<f32>> {
    if tensor.dtype == Dtype::F64 {
        return Some(elements(tensor.bytes).map(|bytes| f64::from_le_bytes(bytes) as f32).collect());
    }
    let from = float_type(tensor.dtype)?;
    let mut values = vec![0.0_f32; tensor.bytes.len() / from.bytes()];
    convert(tensor.bytes, from, bytemuck::cast_slice_mut(&mut values), FloatType::F32);
    Some(values)
}

/// The values of a tensor of integers, or `None` where its type is neither I32 nor I64.
pub(super) fn to_i64(tensor: TensorRef<'_>) -> Option<Vec<i64>> {
    match tensor.dtype {
        Dtype::I32 => Some(elements(tensor.bytes).map(|bytes| i64::from(i32::from_le_bytes(bytes))).collect()),
        Dtype::I64 => Some(elements(tensor.bytes).map(i64::from_le_bytes).collect()),
        _ => None,
    }
}

/// Reads at most [`BLOCK`] elements.
fn decode(src: &[u8], from: FloatType, values: &mut [f32]) {
    match from {
        FloatType::F32 => values.iter_mut().zip(elements(src)).for_each(|(v, bytes)| *v = f32::from_le_bytes(bytes)),
        FloatType::F16 => {
            let mut half = [f16::ZERO; BLOCK];
            half.iter_mut().zip(elements(src)).for_each(|(h, bytes)| *h = f16::from_le_bytes(bytes));
            half.get(..values.len()).unwrap_or(&half).convert_to_f32_slice(values);
        }
        FloatType::Bf16 => {
            let mut half = [bf16::ZERO; BLOCK];
            half.iter_mut().zip(elements(src)).for_each(|(h, bytes)| *h = bf16::from_le_bytes(bytes));
            Float::widen(half.get(..values.len()).unwrap_or(&half), values);
        }
    }
}

/// Writes as many elements as `dst` takes, at most [`BLOCK`].
fn encode(values: &[f32], to: FloatType, dst: &mut [u8]) {
    match to {
        FloatType::F32 => write(dst, values.iter().map(|v| v.to_le_bytes())),
        FloatType::F16 => {
            let mut half = [f16::ZERO; BLOCK];
            half.get_mut(..values.len()).unwrap_or_default().convert_from_f32_slice(values);
            write(dst, half.iter().map(|h| h.to_le_bytes()));
        }
        FloatType::Bf16 => {
            let mut half = [bf16::ZERO; BLOCK];
            Float::narrow(values, half.get_mut(..values.len()).unwrap_or_default());
            write(dst, half.iter().map(|h| h.to_le_bytes()));
        }
    }
}

fn elements<const N: usize>(src: &[u8]) -> impl Iterator<Item = [u8; N]> {
    src.as_chunks::<N>().0.iter().copied()
}

fn write<const N: usize>(dst: &mut [u8], values: impl Iterator<Item = [u8; N]>) {
    dst.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(dst, bytes)| *dst = bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::Bf16];

    /// Converts from and to slices that are not aligned.
    fn converted(src: &[u8], from: FloatType, to: FloatType) -> Vec<u8> {
        let mut shifted = vec![0];
        shifted.extend_from_slice(src);
        let mut dst = vec![0xAA; 1 + src.len() / from.bytes() * to.bytes()];
        convert(&shifted[1..], from, &mut dst[1..], to);
        dst.split_off(1)
    }

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn rounded(value: f32, to: FloatType) -> u16 {
        let bytes = converted(&value.to_le_bytes(), FloatType::F32, to);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    #[test]
    fn narrow_types_survive_the_way_through_f32() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (narrow, is_nan) in [
            (FloatType::F16, (|bits| f16::from_bits(bits).is_nan()) as fn(u16) -> bool),
            (FloatType::Bf16, |bits| bf16::from_bits(bits).is_nan()),
        ] {
            let back = converted(&converted(&all, narrow, FloatType::F32), FloatType::F32, narrow);
            for (bits, back) in (0..=u16::MAX).zip(elements(&back).map(u16::from_le_bytes)) {
                assert!(bits == back || (is_nan(bits) && is_nan(back)), "{narrow} {bits:#06x} became {back:#06x}");
            }
        }
    }

    #[test]
    fn rounds_to_nearest_even() {
        let bf16_cases: [(u32, u16); 7] = [
            (0x3F80_7FFF, 0x3F80),
            (0x3F80_8000, 0x3F80),
            (0x3F80_8001, 0x3F81),
            (0x3F81_8000, 0x3F82),
            (0xBF81_8000, 0xBF82),
            (0x7F7F_FFFF, 0x7F80),
            (0x0000_8001, 0x0001),
        ];
        for (bits, expected) in bf16_cases {
            assert_eq!(rounded(f32::from_bits(bits), FloatType::Bf16), expected, "{bits:#010x}");
        }
        let tiny = 2.0_f32.powi(-25);
        let f16_cases =
            [(65519.0, 0x7BFF), (65520.0, 0x7C00), (-1e9, 0xFC00), (tiny, 0), (tiny * 1.001, 1), (2049.0, 0x6800)];
        for (value, expected) in f16_cases {
            assert_eq!(rounded(value, FloatType::F16), expected, "{value}");
        }
        assert!(f16::from_bits(rounded(f32::NAN, FloatType::F16)).is_nan());
        // A NaN whose upper half alone would be infinity.
        assert!(bf16::from_bits(rounded(f32::from_bits(0x7F80_0001), FloatType::Bf16)).is_nan());
    }

    #[test]
    fn every_length_is_converted_to_its_end() {
        for count in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, PIECE - 1, PIECE, 2 * PIECE + 3] {
            // Integers that every type holds exactly.
            let values: Vec<f32> = (0..count).map(|i| (i % 251) as f32 - 125.0).collect();
            for from in TYPES {
                let src = converted(&bytes_of(&values), FloatType::F32, from);
                assert_eq!(src.len(), count * from.bytes());
                for to in TYPES {
                    let there = converted(&src, from, to);
                    assert_eq!(there.len(), count * to.bytes());
                    assert_eq!(converted(&there, to, FloatType::F32), bytes_of(&values), "{count} {from} {to}");
                }
            }
        }
    }
}
