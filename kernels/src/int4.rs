//! Numbers of 4 bits: two's complement, two to a byte, the even one in the low half. int32 that carry eight of them each are the
//! same bytes.
//!
//! Source: ops-nn 9.1.0, matmul/convert_weight_to_int4_pack.

use rayon::prelude::*;

use crate::error::{self, KernelError};
use crate::formats::nibbles::{int4_byte, unpack_int4};

/// Bytes of a task.
const TASK: usize = 32 * 1024;

/// Packs numbers two to a byte, in parallel.
///
/// - `values` host `T [n]`, n even, each in -8..=7; `bytes` host `u8 [n / 2]`.
///
/// # Errors
/// [`KernelError::NotMultiple`] for an odd count, [`KernelError::Length`] when `bytes` has another size,
/// [`KernelError::Int4`] for a number that 4 bits do not hold.
pub fn pack<T: Copy + Into<i32> + Sync>(values: &[T], bytes: &mut [u8]) -> Result<(), KernelError> {
    error::length("int4 bytes", error::divide("count of int4", values.len(), 2)?, bytes.len())?;
    let outside = |value: &T| !(-8..=7).contains(&(*value).into());
    if let Some(position) = values.par_iter().position_first(outside) {
        return Err(KernelError::Int4 { position, value: values[position].into() });
    }
    bytes.par_chunks_mut(TASK).zip(values.par_chunks(2 * TASK)).for_each(|(bytes, values)| {
        for (byte, [low, high]) in bytes.iter_mut().zip(values.as_chunks::<2>().0) {
            let (low, high): (i32, i32) = ((*low).into(), (*high).into());
            *byte = int4_byte(low as i8, high as i8);
        }
    });
    Ok(())
}

/// The numbers of packed bytes, in parallel.
///
/// - `bytes` host `u8 [n / 2]`; `values` host `i8 [n]`.
///
/// # Errors
/// [`KernelError::Length`] unless there are two numbers to a byte.
pub fn unpack(bytes: &[u8], values: &mut [i8]) -> Result<(), KernelError> {
    error::length("int4 values", 2 * bytes.len(), values.len())?;
    values.par_chunks_mut(2 * TASK).zip(bytes.par_chunks(TASK)).for_each(|(values, bytes)| unpack_int4(bytes, values));
    Ok(())
}
