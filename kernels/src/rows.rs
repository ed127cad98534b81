//! Copying rows to the places that a sorted order gives them.

use rayon::prelude::*;

/// Bytes that are worth a task of their own.
pub(crate) const TASK_BYTES: usize = 32 << 10;
/// A destination of so many bytes does not stay in a cache: it is written past them.
const STREAMED_BYTES: usize = 32 << 20;

/// Copies row `source(slots[i])` to row i, in parallel; all are there.
///
/// - `src` host bytes `[rows, row_bytes]`, `dst` host bytes `[slots, row_bytes]`, neither of rows of 0 bytes.
pub(crate) fn gather(
    src: &[u8],
    row_bytes: usize,
    slots: &[u32],
    source: impl Fn(usize) -> usize + Sync,
    dst: &mut [u8],
) {
    let copy = if dst.len() < STREAMED_BYTES { <[u8]>::copy_from_slice } else { stream };
    dst.par_chunks_mut(row_bytes)
        .zip(slots)
        .with_min_len(TASK_BYTES.div_ceil(row_bytes))
        .for_each(|(row, &slot)| copy(row, &src[source(slot as usize) * row_bytes..][..row_bytes]));
}

/// Copies without reading the destination into a cache first, where the CPU has such stores.
fn stream(dst: &mut [u8], src: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        // SAFETY: any bytes are a `__m128i`.
        let (head, body, tail) = unsafe { dst.align_to_mut::<__m128i>() };
        let (before, rest) = src.split_at(head.len());
        let (middle, after) = rest.split_at(size_of_val(body));
        head.copy_from_slice(before);
        tail.copy_from_slice(after);
        for (to, from) in body.iter_mut().zip(middle.as_chunks::<16>().0) {
            // SAFETY: SSE2, which every x86-64 has; `to` is aligned and `from` has 16 bytes. Other accesses come after the fence.
            unsafe { _mm_stream_si128(to, _mm_loadu_si128(from.as_ptr().cast())) };
        }
        // SAFETY: SSE, which every x86-64 has.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    dst.copy_from_slice(src);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_their_places_past_the_caches_and_into_them() {
        // Rows of an odd size start at every alignment.
        let row_bytes = 4093;
        let src: Vec<u8> = (0..16 * row_bytes).map(|at| (at % 251) as u8).collect();
        for len in [40, STREAMED_BYTES.div_ceil(row_bytes)] {
            let slots: Vec<u32> = (0..len as u32).map(|slot| slot.wrapping_mul(7) % 64).collect();
            let mut dst = vec![0; len * row_bytes];
            gather(&src, row_bytes, &slots, |slot| slot / 4, &mut dst);
            for (row, &slot) in dst.chunks(row_bytes).zip(&slots) {
                assert!(row == &src[slot as usize / 4 * row_bytes..][..row_bytes]);
            }
        }
    }
}
