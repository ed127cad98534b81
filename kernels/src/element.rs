//! Element types: the floating point types of expert weights and activations, their conversion to and from f32, and the numbers
//! that elementwise operators take. Every kernel computes in f32 and rounds by the functions here.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::error::{self, KernelError};
use crate::vectors::{Vectors, vectorised};

/// The floating point types that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatType {
    /// `f32`.
    F32,
    /// [`bf16`].
    Bf16,
    /// [`struct@f16`].
    F16,
}

/// A floating point type that weights and activations are stored in: `f32`, [`bf16`] or [`struct@f16`].
pub trait Float: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug {
    /// Short name: `f32`, `bf16`, `f16`.
    const NAME: &'static str;
    /// Which of the three it is.
    const TYPE: FloatType;
    /// Size of one element in bytes.
    const BYTES: usize = size_of::<Self>();

    /// The same value in f32, exactly.
    fn to_f32(self) -> f32;

    /// The nearest value of this type, ties to even; overflow gives an infinity, NaN stays NaN.
    fn from_f32(value: f32) -> Self;

    /// `dst[i] = src[i].to_f32()` over the shorter of the two.
    fn widen(src: &[Self], dst: &mut [f32]);

    /// `dst[i] = Self::from_f32(src[i])` over the shorter of the two.
    fn narrow(src: &[f32], dst: &mut [Self]);
}

impl Float for f32 {
    const NAME: &'static str = "f32";
    const TYPE: FloatType = FloatType::F32;

    #[inline]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline]
    fn from_f32(value: f32) -> Self {
        value
    }

    fn widen(src: &[Self], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = *s;
        }
    }

    fn narrow(src: &[f32], dst: &mut [Self]) {
        Self::widen(src, dst);
    }
}

impl Float for bf16 {
    const NAME: &'static str = "bf16";
    const TYPE: FloatType = FloatType::Bf16;

    #[inline]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // Branch-free, so that `narrow` vectorises.
    #[inline]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        Self::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
    }

    fn widen(src: &[Self], dst: &mut [f32]) {
        widen_bf16(Vectors::widest(), src, dst);
    }

    fn narrow(src: &[f32], dst: &mut [Self]) {
        narrow_bf16(Vectors::widest(), src, dst);
    }
}

vectorised! {
    fn widen_bf16(src: &[bf16], dst: &mut [f32]) = widen_bf16_plain;
}

#[inline(always)]
fn widen_bf16_plain(src: &[bf16], dst: &mut [f32]) {
    dst.iter_mut().zip(src).for_each(|(d, s)| *d = Float::to_f32(*s));
}

vectorised! {
    fn narrow_bf16(src: &[f32], dst: &mut [bf16]) = narrow_bf16_plain;
}

#[inline(always)]
fn narrow_bf16_plain(src: &[f32], dst: &mut [bf16]) {
    dst.iter_mut().zip(src).for_each(|(d, s)| *d = Float::from_f32(*s));
}

impl Float for f16 {
    const NAME: &'static str = "f16";
    const TYPE: FloatType = FloatType::F16;

    #[inline]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    // The slice conversions of `half` use the conversion instructions of the CPU where it has them.
    fn widen(src: &[Self], dst: &mut [f32]) {
        let n = src.len().min(dst.len());
        src[..n].convert_to_f32_slice(&mut dst[..n]);
    }

    fn narrow(src: &[f32], dst: &mut [Self]) {
        let n = src.len().min(dst.len());
        dst[..n].convert_from_f32_slice(&src[..n]);
    }
}

/// Converts a slice, in parallel: each element goes to f32 exactly and is rounded once, to nearest even.
///
/// - `src` host `A [n]`, `dst` host `B [n]`.
///
/// # Errors
/// [`KernelError::Length`] when the lengths differ.
pub fn convert<A: Float, B: Float>(src: &[A], dst: &mut [B]) -> Result<(), KernelError> {
    const TASK: usize = 16 * 1024;
    const PIECE: usize = 256;
    error::length("dst", src.len(), dst.len())?;
    dst.par_chunks_mut(TASK).zip(src.par_chunks(TASK)).for_each(|(dst, src)| {
        let mut wide = [0f32; PIECE];
        for (dst, src) in dst.chunks_mut(PIECE).zip(src.chunks(PIECE)) {
            let wide = &mut wide[..src.len()];
            A::widen(src, wide);
            B::narrow(wide, dst);
        }
    });
    Ok(())
}

/// A slice in f32, serially: for the short vectors (biases) that every row of a kernel uses.
pub(crate) fn widened<T: Float>(src: &[T]) -> Vec<f32> {
    let mut dst = vec![0f32; src.len()];
    T::widen(src, &mut dst);
    dst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let e8 = 2f32.powi(-8);
        let bf = |v: f32| <bf16 as Float>::from_f32(v).to_f32();
        assert_eq!(bf(1.0 + e8), 1.0);
        assert_eq!(bf(1.0 + e8 + e8 / 2.0), 1.0078125);
        assert_eq!(bf(1.0 + 3.0 * e8), 1.015625);
        assert_eq!(bf(f32::MAX), f32::INFINITY);
        assert!(bf(f32::NAN).is_nan());
        assert!(bf(f32::from_bits(0x7f80_0001)).is_nan());
    }

    #[test]
    fn bf16_agrees_with_half_on_every_upper_half_and_tie() {
        for high in 0..=u16::MAX {
            for low in [0u16, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(high) << 16 | u32::from(low));
                assert_eq!(<bf16 as Float>::from_f32(value).to_bits(), bf16::from_f32(value).to_bits(), "{value:e}");
            }
            let b = bf16::from_bits(high);
            let exact = <bf16 as Float>::to_f32(b);
            assert!(exact == bf16::to_f32(b) || (exact.is_nan() && b.is_nan()));
        }
    }

    #[test]
    fn slices_convert_as_scalars_do() {
        let src: Vec<f32> = (0..40_000).map(|i| (i as f32 - 20_000.0) * 3.7001e-3).collect();
        let mut b = vec![bf16::ZERO; src.len()];
        let mut h = vec![f16::ZERO; src.len()];
        convert(&src, &mut b).unwrap();
        convert(&src, &mut h).unwrap();
        for i in 0..src.len() {
            assert_eq!(b[i], <bf16 as Float>::from_f32(src[i]));
            assert_eq!(h[i], <f16 as Float>::from_f32(src[i]));
        }
        let mut back = vec![0f32; src.len()];
        convert(&h, &mut back).unwrap();
        assert!(back.iter().zip(&h).all(|(w, n)| *w == Float::to_f32(*n)));
        assert_eq!(
            convert(&src, &mut b[1..]),
            Err(KernelError::Length { what: "dst", expected: 40_000, actual: 39_999 })
        );
    }
}
