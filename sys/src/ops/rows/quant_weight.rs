//! Rows of what prepares quantised weights and scales: packing to int4, scales for the cube unit's output stage.

use super::check::{Checked, F32, I32, require};
use crate::constants::{aclDataType, aclFormat, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::desc::{Dims, TensorDesc};
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Rule};

const SCALE: usize = 0;
const OFFSET: usize = 1;
const PARAM: usize = 2;

/// `aclnnTransQuantParamV2`: scales of fp32, and offsets with them, as the uint64 that quantised products take.
///
/// * `scale`: device, fp32, `[N]` or `[G, N]`. * `offset`: device, fp32, or null: `[N]` or `[1]`, beside a scale of `[N]`,
///   `[1]` or `[1, N]`.
/// * `out`: device, uint64 or int64, shape of scale; `[N]` where a scale of `[1]` has an offset of `[N]`.
pub(super) static TRANS_QUANT_PARAM_V2: OpRow = OpRow {
    operator: OperatorId::TransQuantParamV2,
    codes: Codes::GENERATED,
    params: &[
        Param::input("scale", F32).rank(1, 2).layout(Layout::Contiguous),
        Param::input("offset", F32).optional().rank(1, 2).layout(Layout::Contiguous),
        Param::output("out", &[aclDataType::UINT64, aclDataType::INT64]).rank(1, 2),
    ],
    rules: &[
        Rule::new("empty", "no tensor is empty", |call| {
            let empty = |index: &usize| call.tensor(*index).is_some_and(TensorDesc::is_empty);
            require(![SCALE, OFFSET, PARAM].iter().any(empty), || "an empty tensor".to_owned())
        }),
        Rule::new(
            "offset-shape",
            "with an offset the scale is [1], [N] or [1, N], the offset [1], [N] or of the scale's shape; of [N] also beside a \
             scale of [1]",
            |call| {
                let (Some(scale), Some(offset)) = (call.tensor(SCALE), call.tensor(OFFSET)) else { return Ok(()) };
                let (one, row) = (offset.elements() == Some(1), scale.rank() == 1 || scale.dim(0) == 1);
                let widens = *scale.shape == [1] && offset.rank() == 1;
                let same = offset.elements() == scale.elements() && (offset.rank() == 1 || offset.shape == scale.shape);
                let shapes = || format!("a scale of shape {} and an offset of {}", scale.shape, offset.shape);
                require(row && (one || same || widens), shapes)
            },
        ),
        Rule::new("out-shape", "out has the shape of the scale; that of the offset beside a scale of [1]", |call| {
            let (Some(scale), Some(out)) = (call.tensor(SCALE), call.tensor(PARAM)) else { return Ok(()) };
            let due = match call.tensor(OFFSET) {
                Some(offset) if *scale.shape == [1] && offset.rank() == 1 => offset.shape,
                _ => scale.shape,
            };
            require(out.shape == due, || format!("out of shape {} where {due} is due", out.shape))
        }),
    ],
    source: "ops-nn 9.1.0, quant/trans_quant_param_v2 (docs, op_host, op_kernel)",
    doubtful: "Refusals were read in the documents only, which give 161002 for shapes; the op_api is generated, so that \
               tiling answers. The kernel writes as many values as the longer of scale and offset has.",
};

const WEIGHT: usize = 0;
const PACKED: usize = 1;
/// Numbers of 4 bits in an int32.
const CARRIED: i64 = 8;
/// Rows and columns of a FRACTAL_NZ block of int4.
const BLOCK: [i64; 2] = [16, 64];

/// `aclnnConvertWeightToINT4Pack`: whole numbers of an int32 each, packed two to a byte.
///
/// * `weight`: device, int32, `[K, N]` or `[E, K, N]`, values in -8 to 7, contiguous.
/// * `weightInt4Pack`: device, int4, shape of weight, or int32, `[.., K, N / 8]`; ND or FRACTAL_NZ, contiguous.
pub(super) static CONVERT_WEIGHT_TO_INT4_PACK: OpRow = OpRow {
    operator: OperatorId::ConvertWeightToINT4Pack,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("weight", I32).formats(&[aclFormat::ND]).rank(2, 3).layout(Layout::Contiguous),
        Param::output("weightInt4Pack", &[aclDataType::INT4, aclDataType::INT32])
            .formats(&[aclFormat::ND, aclFormat::FRACTAL_NZ])
            .rank(2, 3)
            .layout(Layout::Contiguous),
    ],
    rules: &[
        Rule::new("last-dim", "the last dimension of weight is even; for int32 a multiple of 8", |call| {
            pair(call, |weight, packed| {
                let of = if packed.dtype == aclDataType::INT32 { CARRIED } else { 2 };
                let last = weight.dim(-1);
                require(last % of == 0, || format!("{last}; the nearest multiple of {of} is {}", last / of * of))
            })
        }),
        Rule::new(
            "packed-shape",
            "weightInt4Pack has the shape of weight, for int32 an eighth of its last dimension",
            |call| {
                pair(call, |weight, packed| {
                    let (per, last) = (if packed.dtype == aclDataType::INT32 { CARRIED } else { 1 }, weight.dim(-1));
                    let lead = weight.rank().saturating_sub(1);
                    let due = Dims::collect(weight.shape.iter().copied().take(lead).chain([last / per]));
                    require(due == Some(packed.shape), || format!("shape {} for {}", packed.shape, weight.shape))
                })
            },
        ),
        Rule::new("nz-storage", "the storage of a FRACTAL_NZ weightInt4Pack has the shape of its blocks", |call| {
            pair(call, |_, packed| {
                let legal = packed.format != aclFormat::FRACTAL_NZ
                    || packed.shape.fractal_nz(packed.dtype) == Some(packed.storage);
                require(legal, || format!("a storage of shape {} for shape {}", packed.storage, packed.shape))
            })
        }),
        Rule::new("empty", "weight is not empty", |call| {
            pair(call, |weight, _| require(!weight.is_empty(), || format!("shape {}", weight.shape)))
        })
        .with_code(aclnnStatus::ERR_RUNTIME_ERROR),
        Rule::not_carried(
            "nz-groups",
            "for several matrices in FRACTAL_NZ K is a multiple of 16 and N of 64: CANN lays others over each other",
            |call| {
                pair(call, |weight, packed| {
                    let several = packed.format == aclFormat::FRACTAL_NZ && weight.rank() == 3 && weight.dim(0) > 1;
                    let aligned = weight.dim(-2) % BLOCK[0] == 0 && weight.dim(-1) % BLOCK[1] == 0;
                    require(!several || aligned, || format!("weight of shape {}", weight.shape))
                })
            },
        ),
    ],
    source: "ops-nn 9.1.0, matmul/convert_weight_to_int4_pack (docs, op_api)",
    doubtful: "CANN does all the work in phase 1, through the host and without asking any stream; the simulator does it in \
               phase 2, at once. CANN takes the low 4 bits of values outside -8 to 7. It does not compare the leading \
               dimensions. The code for an empty weight is that of a copy that failed.",
};

fn pair(call: &Call<'_>, check: impl FnOnce(&TensorDesc, &TensorDesc) -> Checked) -> Checked {
    match (call.tensor(WEIGHT), call.tensor(PACKED)) {
        (Some(weight), Some(packed)) => check(weight, packed),
        _ => Ok(()),
    }
}
