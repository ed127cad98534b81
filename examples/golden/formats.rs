//! Weights of golden files that are stored in a number format, expanded.

use anyhow::{Context, Result, bail, ensure};
use ascend_moe::checkpoint::{HostTensor, TensorFile};
use moe_kernels::formats::float8::{e8m0, expand_e4m3};
use moe_kernels::formats::nibbles::{MXFP4_BLOCK, expand_e2m1};

/// Rows and columns of a block of FP8 that share a scale.
pub(crate) const FP8_BLOCK: usize = 128;

/// The weight that a tensor of codes or scales belongs to, by its name.
pub(crate) fn weight_of(tensor: &str) -> String {
    if let Some(weight) = [".fp8_u8", ".scale_inv"].iter().find_map(|end| tensor.strip_suffix(end)) {
        return weight.to_owned();
    }
    let stem = ["_blocks", "_scales"].iter().find_map(|end| tensor.strip_suffix(end));
    stem.map_or_else(String::new, |stem| format!("experts.{stem}_proj"))
}

/// A weight of this name that is stored in codes, where there is one: FP8 in blocks, or MXFP4 whose matrices are then turned to
/// `[in, out]`, as its family keeps them.
pub(crate) fn expanded(file: &TensorFile, name: &str) -> Result<Option<HostTensor>> {
    let has = |name: &str| file.tensors().any(|tensor| tensor.name == name);
    let codes = format!("{name}.fp8_u8");
    if has(&codes) {
        return fp8(file, &codes, &format!("{name}.scale_inv")).map(Some);
    }
    let Some(stem) = name.strip_prefix("experts.").and_then(|name| name.strip_suffix("_proj")) else { return Ok(None) };
    if !has(&format!("{stem}_blocks")) {
        return Ok(None);
    }
    let plain = mxfp4(file, &format!("{stem}_blocks"), &format!("{stem}_scales"))?;
    turned(plain).map(Some)
}

/// E4M3 codes `[.., rows, cols]` times the scales of their blocks, of which those at the edges may be cut off.
pub(crate) fn fp8(file: &TensorFile, codes: &str, scales: &str) -> Result<HostTensor> {
    let (codes, scales) = (file.tensor(codes)?, file.values(scales)?);
    let [.., rows, cols] = *codes.shape else { bail!("{} is no matrix", codes.name) };
    let grid = [rows.div_ceil(FP8_BLOCK), cols.div_ceil(FP8_BLOCK)];
    let outer: usize = codes.shape.iter().rev().skip(2).product();
    ensure!(scales.data.len() == outer * grid[0] * grid[1], "{} has scales {:?}", codes.name, scales.shape);
    let mut data = vec![0.0; codes.bytes.len()];
    for (line, (out, codes)) in data.chunks_mut(cols).zip(codes.bytes.chunks(cols)).enumerate() {
        let first = (line / rows * grid[0] + line % rows / FP8_BLOCK) * grid[1];
        let blocks = out.chunks_mut(FP8_BLOCK).zip(codes.chunks(FP8_BLOCK)).zip(&scales.data[first..]);
        for ((out, codes), scale) in blocks {
            expand_e4m3(codes, *scale, out);
        }
    }
    Ok(HostTensor { shape: codes.shape.to_vec(), data })
}

/// E2M1 codes `[.., rows, groups, 16]` times E8M0 scales `[.., rows, groups]`, as `[.., rows, 32 * groups]`.
pub(crate) fn mxfp4(file: &TensorFile, blocks: &str, scales: &str) -> Result<HostTensor> {
    let (blocks, scales) = (file.tensor(blocks)?, file.tensor(scales)?);
    let Some((&[.., groups], bytes)) = blocks.shape.split_last().map(|(last, outer)| (outer, *last)) else {
        bail!("{} has shape {:?}", blocks.name, blocks.shape)
    };
    ensure!(
        bytes == MXFP4_BLOCK / 2 && blocks.shape.strip_suffix(&[bytes]) == Some(scales.shape),
        "{} {:?} with scales {:?}",
        blocks.name,
        blocks.shape,
        scales.shape
    );
    let mut data = vec![0.0; blocks.bytes.len() * 2];
    for ((out, packed), scale) in data.chunks_mut(MXFP4_BLOCK).zip(blocks.bytes.chunks(bytes)).zip(scales.bytes) {
        expand_e2m1(packed, e8m0(*scale), out);
    }
    let outer = scales.shape.split_last().map(|(_, outer)| outer).unwrap_or_default();
    Ok(HostTensor { shape: [outer, &[groups * MXFP4_BLOCK]].concat(), data })
}

/// Matrices `[rows, cols]` as `[cols, rows]`.
pub(crate) fn turned(mut tensor: HostTensor) -> Result<HostTensor> {
    let [.., rows, cols] = tensor.shape[..] else {
        bail!("a tensor of shape {:?} where a matrix is due", tensor.shape)
    };
    let last = tensor.shape.len() - 2;
    tensor.shape.get_mut(last..).context("a matrix is due")?.swap(0, 1);
    let each = |matrix: &[f32]| -> Vec<f32> {
        (0..cols)
            .flat_map(|col| (0..rows).map(move |row| (row, col)))
            .map(|(row, col)| matrix[row * cols + col])
            .collect()
    };
    tensor.data = tensor.data.chunks((rows * cols).max(1)).flat_map(each).collect();
    Ok(tensor)
}
