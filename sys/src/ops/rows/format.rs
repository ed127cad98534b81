//! Row of the operator that packs tensors into blocks and back, and the storage shape it packs into.

use super::check::{Checked, require, same_dtype};
use crate::constants::{aclDataType, aclFormat, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::desc::{Dims, TensorDesc};
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Phase, Refusal, Rule, Violation};

/// What Atlas A3 packs.
const PACKABLE: &[aclDataType] = &[
    aclDataType::FLOAT,
    aclDataType::FLOAT16,
    aclDataType::BF16,
    aclDataType::INT8,
    aclDataType::UINT8,
    aclDataType::INT32,
    aclDataType::UINT32,
];

/// Formats that go to FRACTAL_NZ and come back.
const UNPACKED: &[aclFormat] = &[aclFormat::ND, aclFormat::NCL, aclFormat::NCHW, aclFormat::NCDHW];

/// Every format of the document.
const FORMATS: &[aclFormat] = &[
    aclFormat::ND,
    aclFormat::FRACTAL_NZ,
    aclFormat::NCL,
    aclFormat::NCHW,
    aclFormat::NHWC,
    aclFormat::HWCN,
    aclFormat::NCDHW,
    aclFormat::NDHWC,
    aclFormat::NC1HWC0,
    aclFormat::FRACTAL_Z,
    aclFormat::NDC1HWC0,
    aclFormat::FRACTAL_Z_3D,
];

/// Pairs of formats, in either order, that CANN converts and this row does not.
const IMAGE_PAIRS: &[(aclFormat, aclFormat)] = &[
    (aclFormat::NCDHW, aclFormat::NDC1HWC0),
    (aclFormat::NDHWC, aclFormat::NDC1HWC0),
    (aclFormat::NCDHW, aclFormat::FRACTAL_Z_3D),
    (aclFormat::NCHW, aclFormat::NC1HWC0),
    (aclFormat::NHWC, aclFormat::NC1HWC0),
    (aclFormat::NCHW, aclFormat::FRACTAL_Z),
    (aclFormat::HWCN, aclFormat::FRACTAL_Z),
];

/// Ranks of the unpacked tensor.
const RANKS: core::ops::RangeInclusive<usize> = 2..=6;

const SRC: usize = 0;
const DST: usize = 1;

/// `aclnnNpuFormatCast`: moves the elements of a tensor between ND and FRACTAL_NZ.
///
/// * `srcTensor`: device, fp32, fp16, bf16, int8, uint8, int32 or uint32, `[.., R, C]` of 2 to 6 dimensions,
///   contiguous.
/// * `dstTensor`: device, dtype of srcTensor, contiguous. Packing: storage `[.., ceil(C / C0), ceil(R / 16), 16, C0]`
///   as [`format_cast_storage`] gives it. Unpacking: shape `[.., R, C]`, and the storage of srcTensor is that of
///   blocks.
pub(super) static NPU_FORMAT_CAST: OpRow = OpRow {
    operator: OperatorId::NpuFormatCast,
    codes: Codes {
        null: aclnnStatus::ERR_INNER_NULLPTR,
        dtype: aclnnStatus::ERR_PARAM_INVALID,
        other: aclnnStatus::ERR_PARAM_INVALID,
        phase: Phase::One,
    },
    params: &[
        Param::input("srcTensor", PACKABLE).formats(FORMATS).layout(Layout::Contiguous),
        Param::output("dstTensor", PACKABLE).formats(FORMATS).layout(Layout::Contiguous),
    ],
    rules: &[
        Rule::new("empty", "srcTensor has elements", |call| match call.tensor(SRC) {
            Some(source) => require(!source.is_empty(), || format!("srcTensor of shape {}", source.shape)),
            None => Ok(()),
        })
        .with_code(aclnnStatus::ERR_RUNTIME_ERROR),
        Rule::dtype("format-pair", "one of the formats is FRACTAL_NZ and the other ND, NCL, NCHW or NCDHW", |call| {
            let (Some(source), Some(target)) = (call.tensor(SRC), call.tensor(DST)) else { return Ok(()) };
            require(packs(source.format, target.format) || is_image_pair(source.format, target.format), || {
                format!("{:?} to {:?}", source.format, target.format)
            })
        }),
        Rule::not_carried("image-formats", "one of the formats is FRACTAL_NZ", |call| {
            let (Some(source), Some(target)) = (call.tensor(SRC), call.tensor(DST)) else { return Ok(()) };
            require(!is_image_pair(source.format, target.format), || {
                format!("{:?} to {:?}", source.format, target.format)
            })
        }),
        Rule::dtype("dst-dtype", "dstTensor has the dtype of srcTensor", |call| {
            same_dtype(call, ("dstTensor", DST), ("srcTensor", SRC))
        }),
        Rule::new("unpacked-rank", "the unpacked tensor has 2 to 6 dimensions", |call| {
            let Some((unpacked, _)) = sides(call) else { return Ok(()) };
            require(RANKS.contains(&unpacked.rank()), || format!("a tensor of shape {}", unpacked.shape))
        }),
        Rule::new("storage", "the packed tensor's storage is that of the unpacked shape in FRACTAL_NZ", |call| {
            storage(call)
        }),
    ],
    source: "ops-math, conversion/npu_format_cast (docs, op_api)",
    doubtful: "On A3 the first call does not look at the pair of formats, the rank or the storage: what the conversion \
               behind it answers was not seen, and a storage that is too small would be written past. Sources of \
               different age give 161002 and 561103 for null, and take or refuse an additionalDtype other than -1 on \
               A3.",
};

fn packs(source: aclFormat, target: aclFormat) -> bool {
    let pair = |unpacked, packed| UNPACKED.contains(&unpacked) && packed == aclFormat::FRACTAL_NZ;
    pair(source, target) || pair(target, source)
}

fn is_image_pair(source: aclFormat, target: aclFormat) -> bool {
    IMAGE_PAIRS.contains(&(source, target)) || IMAGE_PAIRS.contains(&(target, source))
}

/// The unpacked and the packed tensor.
fn sides<'a>(call: &Call<'a>) -> Option<(&'a TensorDesc, &'a TensorDesc)> {
    let (source, target) = (call.tensor(SRC)?, call.tensor(DST)?);
    if !packs(source.format, target.format) {
        return None;
    }
    Some(if target.format == aclFormat::FRACTAL_NZ { (source, target) } else { (target, source) })
}

fn storage(call: &Call<'_>) -> Checked {
    let Some((unpacked, packed)) = sides(call) else { return Ok(()) };
    let Some(due) = unpacked.shape.fractal_nz(packed.dtype) else { return Ok(()) };
    require(packed.storage.elements() == due.elements(), || {
        format!("a storage of shape {} where {due} is due", packed.storage)
    })
}

/// What `aclnnNpuFormatCastCalculateSizeAndFormat` computes: the storage shape of `source` in `target`. A block of
/// FRACTAL_NZ is 16 rows of C0 elements that fill 32 bytes of `additional`, [`aclDataType::UNDEFINED`] (-1) for the
/// dtype of `source`; unpacking gives the shape of `source`. The format that CANN reports as the actual one is
/// `target`.
///
/// # Errors
/// A violation of aclnnNpuFormatCast: `dtype`, `additional-dtype`, `format-pair`, `image-formats`, `empty` or
/// `unpacked-rank`.
pub fn format_cast_storage(source: &TensorDesc, target: aclFormat, additional: aclDataType) -> Result<Dims, Violation> {
    let refuse = |rule, found, legal: &str, code, refusal| Violation {
        operator: OperatorId::NpuFormatCast,
        rule,
        parameter: None,
        found,
        legal: legal.to_owned(),
        code,
        phase: Phase::One,
        refusal,
    };
    let cann = |rule, found, legal: &str, code| Err(refuse(rule, found, legal, code, Refusal::Cann));
    let (invalid, runtime) = (aclnnStatus::ERR_PARAM_INVALID, aclnnStatus::ERR_RUNTIME_ERROR);
    if !PACKABLE.contains(&source.dtype) {
        return cann("dtype", format!("{:?}", source.dtype), &format!("one of {PACKABLE:?}"), invalid);
    }
    let block_dtype = if additional == aclDataType::UNDEFINED { source.dtype } else { additional };
    if !PACKABLE.contains(&block_dtype) {
        let legal = format!("-1 for the dtype of srcTensor, or one of {PACKABLE:?}");
        return cann("additional-dtype", format!("{additional:?}"), &legal, invalid);
    }
    if is_image_pair(source.format, target) {
        let found = format!("{:?} to {target:?}", source.format);
        let code = aclnnStatus::ERR_INNER_FIND_KERNEL_ERROR;
        return Err(refuse("image-formats", found, "one of the formats is FRACTAL_NZ", code, Refusal::NotCarried));
    }
    if !packs(source.format, target) {
        let legal = "one of the formats is FRACTAL_NZ and the other ND, NCL, NCHW or NCDHW";
        return cann("format-pair", format!("{:?} to {target:?}", source.format), legal, runtime);
    }
    if source.is_empty() {
        return cann("empty", format!("srcTensor of shape {}", source.shape), "srcTensor has elements", runtime);
    }
    let packed = source.shape.fractal_nz(block_dtype).filter(|_| RANKS.contains(&source.rank()));
    match packed {
        Some(packed) => Ok(if target == aclFormat::FRACTAL_NZ { packed } else { source.shape }),
        None => {
            let found = format!("a tensor of shape {}", source.shape);
            cann("unpacked-rank", found, "2 to 6 dimensions, none negative", invalid)
        }
    }
}
