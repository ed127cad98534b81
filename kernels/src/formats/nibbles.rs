//! Numbers of 4 bits, two to a byte, the even one in the low half: E2M1, the element of MXFP4, and int4.
//!
//! Source: OCP Microscaling Formats 1.0, sections 5.3.3 and 6.3; ops-nn 9.1.0, matmul/convert_weight_to_int4_pack.

use crate::vectors::{Vectors, vectorised};

/// Values that share a scale in MXFP4.
pub const MXFP4_BLOCK: usize = 32;

/// Value of every E2M1 code.
pub const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Twice the value of every E2M1 code, which is a whole number.
pub const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The two values of every byte of E2M1.
static E2M1_PAIRS: [[f32; 2]; 256] = {
    let mut table = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [E2M1[byte & 15], E2M1[byte >> 4]];
        byte += 1;
    }
    table
};

/// The values of packed E2M1 codes times `scale`, two of `out` for a byte, over the shorter of the two.
pub fn expand_e2m1(packed: &[u8], scale: f32, out: &mut [f32]) {
    for (pair, byte) in out.as_chunks_mut().0.iter_mut().zip(packed) {
        let [low, high] = E2M1_PAIRS[usize::from(*byte)];
        *pair = [low * scale, high * scale];
    }
}

/// The two int4 of a byte.
#[inline(always)]
pub const fn int4_pair(byte: u8) -> [i8; 2] {
    // By arithmetic, since vectors have no shift of bytes that keeps the sign.
    [((byte & 15) ^ 8) as i8 - 8, ((byte >> 4) ^ 8) as i8 - 8]
}

/// The byte of two int4, of whose low 4 bits it is made.
pub const fn int4_byte(low: i8, high: i8) -> u8 {
    (low as u8 & 15) | ((high as u8) << 4)
}

/// Unpacks int4, two of `out` for a byte, over the shorter of the two.
pub fn unpack_int4(packed: &[u8], out: &mut [i8]) {
    unpack_vectors(Vectors::widest(), packed, out);
}

vectorised! {
    fn unpack_vectors(packed: &[u8], out: &mut [i8]) = unpack_plain;
}

#[inline(always)]
fn unpack_plain(packed: &[u8], out: &mut [i8]) {
    out.as_chunks_mut().0.iter_mut().zip(packed).for_each(|(pair, byte)| *pair = int4_pair(*byte));
}

/// Packs int4, the low 4 bits of two of `codes` to a byte, over the shorter of the two.
pub fn pack_int4(codes: &[i8], packed: &mut [u8]) {
    pack_vectors(Vectors::widest(), codes, packed);
}

vectorised! {
    fn pack_vectors(codes: &[i8], packed: &mut [u8]) = pack_plain;
}

#[inline(always)]
fn pack_plain(codes: &[i8], packed: &mut [u8]) {
    for (byte, [low, high]) in packed.iter_mut().zip(codes.as_chunks().0) {
        // As a word, which vectors can shift.
        let pair = u16::from_le_bytes([*low as u8, *high as u8]);
        *byte = (pair & 0x0F | pair >> 4 & 0xF0) as u8;
    }
}
