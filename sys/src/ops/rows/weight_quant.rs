//! Rows of the dense products of floats with quantised weights.

use super::check::{Checked, WEIGHT_FORMATS, one_of, require};

use crate::constants::{aclDataType, aclFormat};
use crate::info::OperatorId;
use crate::ops::desc::TensorDesc;
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Rule};

const HALVES: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::BF16];
const WEIGHTS: &[aclDataType] = &[aclDataType::INT8, aclDataType::INT4, aclDataType::INT32];
const SCALES: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::BF16, aclDataType::UINT64, aclDataType::INT64];
const OFFSETS: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT32];
const BIASES: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::FLOAT];
const OUTPUTS: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT8];

/// The largest K and N; also M where x is transposed.
const MAX_SIZE: i64 = 65_535;
/// Rows of the smallest group, of which all are multiples.
const GROUP_STEP: i64 = 32;
/// Group sizes of int4 weights in FRACTAL_NZ, and what N is a multiple of there.
const NZ_GROUPS: [i64; 2] = [64, 128];
const NZ_GROUPED_N: i64 = 64;
/// Numbers of 4 bits in an int32.
const CARRIED: i64 = 8;

const X: usize = 0;
const WEIGHT: usize = 1;
const SCALE: usize = 2;
const OFFSET: usize = 3;
const QUANT_SCALE: usize = 4;
const QUANT_OFFSET: usize = 5;
const BIAS: usize = 6;
const GROUP_SIZE: usize = 7;
/// Only the third version has it; its output comes one later.
const INNER_PRECISE: usize = 8;

/// The operands of a call that has them.
struct Product<'a> {
    x: &'a TensorDesc,
    weight: &'a TensorDesc,
    scale: &'a TensorDesc,
    y: &'a TensorDesc,
    group: i64,
    call: &'a Call<'a>,
}

impl Product<'_> {
    fn m(&self) -> i64 {
        self.x.dim(-2)
    }

    /// K and N of the weight, in elements: eight to an int32 along the dimension that lies together in memory.
    fn weight_shape(&self) -> [i64; 2] {
        let [k, n] = [self.weight.dim(-2), self.weight.dim(-1)];
        match (self.weight.dtype == aclDataType::INT32, self.weight.is_transposed()) {
            (false, _) => [k, n],
            (true, false) => [k, n.saturating_mul(CARRIED)],
            (true, true) => [k.saturating_mul(CARRIED), n],
        }
    }

    fn is_int4(&self) -> bool {
        self.weight.dtype != aclDataType::INT8
    }

    fn is_packed(&self) -> bool {
        self.weight.format == aclFormat::FRACTAL_NZ
    }

    fn quantises(&self) -> bool {
        self.call.tensor(QUANT_SCALE).is_some()
    }
}

/// A rule's check of what the operands say together; calls without them are for the rules of the parameters.
fn product(call: &Call<'_>, check: impl FnOnce(&Product<'_>) -> Checked) -> Checked {
    let y = if call.operator == OperatorId::WeightQuantBatchMatmulV3 { INNER_PRECISE + 1 } else { INNER_PRECISE };
    let tensors = (call.tensor(X), call.tensor(WEIGHT), call.tensor(SCALE), call.tensor(y));
    let (Some(x), Some(weight), Some(scale), Some(y)) = tensors else { return Ok(()) };
    check(&Product { x, weight, scale, y, group: call.int(GROUP_SIZE), call })
}

fn is_upright_or_turned(name: &str, tensor: &TensorDesc) -> Checked {
    let legal = tensor.is_contiguous() || tensor.is_transposed();
    require(legal, || format!("{name} of shape {} with strides {}", tensor.shape, tensor.strides))
}

/// A tensor of one value for each column: `[N]` or `[1, N]`.
fn is_row(tensor: &TensorDesc, n: i64) -> bool {
    *tensor.shape == [n] || *tensor.shape == [1, n]
}

const RULES: &[Rule] = &[
    Rule::not_carried("encoded-scale", "antiquantScale is fp16 or bf16, antiquantOffset as it", |call| {
        product(call, |p| {
            let integer = [aclDataType::UINT64, aclDataType::INT64].contains(&p.scale.dtype)
                || call.tensor(OFFSET).is_some_and(|offset| offset.dtype == aclDataType::INT32);
            require(!integer, || format!("antiquantScale of {:?}", p.scale.dtype))
        })
    }),
    Rule::dtype("scale-dtype", "antiquantScale and antiquantOffset have the dtype of x", |call| {
        product(call, |p| {
            let offset = call.tensor(OFFSET).map_or(p.x.dtype, |offset| offset.dtype);
            let legal = p.scale.dtype == p.x.dtype && offset == p.x.dtype;
            require(legal, || format!("{:?} and {offset:?} for {:?}", p.scale.dtype, p.x.dtype))
        })
    }),
    Rule::dtype("out-dtype", "y is int8 with a quantScale, else of the dtype of x", |call| {
        product(call, |p| {
            let due = if p.quantises() { aclDataType::INT8 } else { p.x.dtype };
            require(p.y.dtype == due, || format!("y of {:?} where {due:?} is due", p.y.dtype))
        })
    }),
    Rule::dtype("bias-dtype", "bias is fp16 for an x of fp16, fp32 for bf16", |call| {
        product(call, |p| {
            let Some(bias) = call.tensor(BIAS) else { return Ok(()) };
            let due = if p.x.dtype == aclDataType::BF16 { aclDataType::FLOAT } else { aclDataType::FLOAT16 };
            require(bias.dtype == due, || format!("a bias of {:?} for {:?}", bias.dtype, p.x.dtype))
        })
    }),
    Rule::new("quant-offset", "a quantOffset comes with a quantScale, of its shape", |call| {
        let Some(offset) = call.tensor(QUANT_OFFSET) else { return Ok(()) };
        let legal = call.tensor(QUANT_SCALE).is_some_and(|scale| scale.shape == offset.shape);
        require(legal, || format!("a quantOffset of shape {}", offset.shape))
    }),
    Rule::new("x-layout", "x is contiguous or has its dimensions swapped", |call| {
        product(call, |p| is_upright_or_turned("x", p.x))
    }),
    Rule::new("weight-layout", "weight is contiguous or has its dimensions swapped", |call| {
        product(call, |p| is_upright_or_turned("weight", p.weight))
    }),
    Rule::new(
        "scale-layout",
        "antiquantScale and antiquantOffset are contiguous, but for a weight with its dimensions swapped",
        |call| {
            product(call, |p| {
                let tensors = [Some(p.scale), call.tensor(OFFSET)];
                let upright = tensors.into_iter().flatten().all(TensorDesc::is_contiguous);
                require(upright || p.weight.is_transposed(), || format!("strides {}", p.scale.strides))
            })
        },
    ),
    Rule::new("inner-dim", "x has as many columns as weight has rows", |call| {
        product(call, |p| {
            let (k, rows) = (p.x.dim(-1), p.weight_shape()[0]);
            require(k == rows, || format!("{k} columns and {rows} rows"))
        })
    }),
    Rule::new("sizes", "M, K and N are at least 1, K and N, and M of a transposed x, at most 65535", |call| {
        product(call, |p| {
            let [k, n] = p.weight_shape();
            let legal = p.m().min(k).min(n) >= 1 && k.max(n) <= MAX_SIZE;
            let turned = p.x.is_transposed() && p.m() > MAX_SIZE;
            require(legal && !turned, || format!("M {}, K {k}, N {n}", p.m()))
        })
    }),
    Rule::new("int4-even", "of an int4 weight N is even, transposed K", |call| {
        product(call, |p| {
            let [k, n] = p.weight_shape();
            let last = if p.weight.is_transposed() { k } else { n };
            require(!p.is_int4() || last % 2 == 0, || format!("{last} in a row of the weight"))
        })
    }),
    Rule::new("group-size", "antiquantGroupSize is 0, or a multiple of 32 in 32 to K - 1", |call| {
        product(call, |p| {
            let legal = p.group == 0 || (p.group > 0 && p.group % GROUP_STEP == 0 && p.group < p.x.dim(-1));
            require(legal, || format!("antiquantGroupSize {} for K {}", p.group, p.x.dim(-1)))
        })
    }),
    Rule::new(
        "scale-shape",
        "antiquantScale is [1], [N], [1, 1] or [1, N]; with groups [ceil(K / group), N]",
        |call| {
            product(call, |p| {
                let [k, n] = p.weight_shape();
                let legal = match (&*p.scale.shape, p.group) {
                    ([one], 0) => *one == 1 || *one == n,
                    ([1, one], 0) => *one == 1 || *one == n,
                    ([groups, cols], group) if group > 0 => {
                        *groups == k / group + i64::from(k % group != 0) && *cols == n
                    }
                    _ => false,
                };
                require(legal, || format!("antiquantScale of shape {} for K {k}, N {n}", p.scale.shape))
            })
        },
    ),
    Rule::new("offset-shape", "antiquantOffset has the shape of antiquantScale", |call| {
        product(call, |p| {
            let Some(offset) = call.tensor(OFFSET) else { return Ok(()) };
            require(offset.shape == p.scale.shape, || format!("shapes {} and {}", offset.shape, p.scale.shape))
        })
    }),
    Rule::new("quant-scale-shape", "quantScale is [1], [N] or [1, N]", |call| {
        product(call, |p| {
            let Some(scale) = call.tensor(QUANT_SCALE) else { return Ok(()) };
            let legal = *scale.shape == [1] || is_row(scale, p.weight_shape()[1]);
            require(legal, || format!("quantScale of shape {}", scale.shape))
        })
    }),
    Rule::new("bias-shape", "bias is [N] or [1, N]", |call| {
        product(call, |p| {
            let Some(bias) = call.tensor(BIAS) else { return Ok(()) };
            require(is_row(bias, p.weight_shape()[1]), || format!("bias of shape {}", bias.shape))
        })
    }),
    Rule::new("out-shape", "y is [M, N]", |call| {
        product(call, |p| {
            let due = [p.m(), p.weight_shape()[1]];
            require(*p.y.shape == due, || format!("y of shape {} where {due:?} is due", p.y.shape))
        })
    }),
    Rule::new("nz-out", "with a FRACTAL_NZ weight there is no quantScale", |call| {
        product(call, |p| require(!(p.is_packed() && p.quantises()), || "a quantScale".to_owned()))
    }),
    Rule::new(
        "nz-int4",
        "an int4 weight in FRACTAL_NZ is transposed, with a scale for each column; or in groups of 64 or 128 that divide K, \
         neither it nor x transposed, N a multiple of 64",
        |call| {
            product(call, |p| {
                if !p.is_packed() || !p.is_int4() {
                    return Ok(());
                }
                let [k, n] = p.weight_shape();
                let turned = p.weight.is_transposed();
                let legal = if p.group == 0 {
                    turned && p.scale.elements() != Some(1)
                } else {
                    let divides = NZ_GROUPS.contains(&p.group) && k % p.group == 0 && n % NZ_GROUPED_N == 0;
                    divides && !turned && !p.x.is_transposed()
                };
                require(legal, || format!("K {k}, N {n}, groups of {}", p.group))
            })
        },
    ),
    Rule::new("nz-int8", "an int8 weight in FRACTAL_NZ has no groups", |call| {
        product(call, |p| require(!p.is_packed() || p.is_int4() || p.group == 0, || format!("groups of {}", p.group)))
    }),
    Rule::new("nz-storage", "the storage of a FRACTAL_NZ weight holds its blocks", |call| {
        product(call, |p| {
            let needed = p.weight.stored_shape().fractal_nz(p.weight.dtype).and_then(|blocks| blocks.elements());
            let legal = needed.is_some() && p.weight.storage.elements() >= needed;
            require(!p.is_packed() || legal, || {
                format!("a storage of shape {} for weight of shape {}", p.weight.storage, p.weight.shape)
            })
        })
    }),
];

const INNER_PRECISION: Rule = Rule::new("inner-precise", "innerPrecise is 0 (precise) or 1 (fast)", |call| {
    one_of(call, "innerPrecise", INNER_PRECISE, &[0, 1])
});

const INPUTS: [Param; 8] = [
    Param::input("x", HALVES).rank(2, 2),
    Param::input("weight", WEIGHTS).formats(WEIGHT_FORMATS).rank(2, 2),
    Param::input("antiquantScale", SCALES).rank(1, 2),
    Param::input("antiquantOffsetOptional", OFFSETS).optional().rank(1, 2),
    Param::input("quantScaleOptional", &[aclDataType::UINT64]).optional().rank(1, 2).layout(Layout::Contiguous),
    Param::input("quantOffsetOptional", &[aclDataType::FLOAT]).optional().rank(1, 2).layout(Layout::Contiguous),
    Param::input("biasOptional", BIASES).optional().rank(1, 2).layout(Layout::Contiguous),
    Param::value("antiquantGroupSize"),
];
const Y: Param = Param::output("y", OUTPUTS).rank(2, 2).layout(Layout::Contiguous);

const fn second(weight_formats: &'static [aclFormat]) -> [Param; 9] {
    let [x, weight, scale, offset, quant_scale, quant_offset, bias, group] = INPUTS;
    [x, weight.formats(weight_formats), scale, offset, quant_scale, quant_offset, bias, group, Y]
}

const fn third() -> [Param; 10] {
    let [x, weight, scale, offset, quant_scale, quant_offset, bias, group] = INPUTS;
    [x, weight, scale, offset, quant_scale, quant_offset, bias, group, Param::value("innerPrecise"), Y]
}

const SOURCE: &str = "ops-nn 9.1.0, matmul/weight_quant_batch_matmul_v2 (docs, op_api)";
const DOUBTFUL: &str = "Each weight is taken to x's dtype with one rounding here, as the grouped product does it; the \
                        kernels add the offset and multiply in steps of their own, and have other paths for small M \
                        (within about 1e-2 of the largest result). Of a quantised output the rounding was not seen: it \
                        is to nearest even; the quantOffset given counts, else the one encoded in the quantScale. \
                        Scales of uint64 are not carried. Empty scales and biases, which the source lets pass, are \
                        refused here. That int8 in FRACTAL_NZ takes neither groups nor a quantScale is from the \
                        documents.";

/// `aclnnWeightQuantBatchMatmulV2`: `y = x @ ((weight + antiquantOffset) * antiquantScale) + bias`, quantised where there is
/// a quantScale: `y * quantScale + quantOffset`.
///
/// * `x`: device, fp16 or bf16, `[M, K]`, contiguous or transposed.
/// * `weight`: device, int8, int4 or int32 that carry eight, `[K, N]`, contiguous or transposed, ND or FRACTAL_NZ.
/// * `antiquantScale`, `antiquantOffsetOptional`: device, dtype of x, `[1]`, `[N]`, `[1, N]` or, in groups of
///   antiquantGroupSize rows, `[ceil(K / group), N]`; the offset may be null.
/// * `quantScaleOptional`: device, uint64, `[1]`, `[N]` or `[1, N]`, or null; `quantOffsetOptional`: device, fp32, of its
///   shape, or null. * `biasOptional`: device, fp16 for fp16, fp32 for bf16, `[N]` or `[1, N]`, or null.
/// * `y`: device, dtype of x, int8 with a quantScale, `[M, N]`, contiguous.
pub(super) static WEIGHT_QUANT_BATCH_MATMUL_V2: OpRow = OpRow {
    operator: OperatorId::WeightQuantBatchMatmulV2,
    codes: Codes::HAND_WRITTEN,
    params: &second(WEIGHT_FORMATS),
    rules: RULES,
    source: SOURCE,
    doubtful: DOUBTFUL,
};

/// `aclnnWeightQuantBatchMatmulV3`: [`WEIGHT_QUANT_BATCH_MATMUL_V2`] with a choice of precision.
pub(super) static WEIGHT_QUANT_BATCH_MATMUL_V3: OpRow = OpRow {
    operator: OperatorId::WeightQuantBatchMatmulV3,
    codes: Codes::HAND_WRITTEN,
    params: &third(),
    rules: &{
        let mut rules = [INNER_PRECISION; RULES.len() + 1];
        let (_, rest) = rules.split_at_mut(1);
        rest.copy_from_slice(RULES);
        rules
    },
    source: SOURCE,
    doubtful: DOUBTFUL,
};

/// `aclnnWeightQuantBatchMatmulNz`: [`WEIGHT_QUANT_BATCH_MATMUL_V2`] for a weight that is FRACTAL_NZ.
pub(super) static WEIGHT_QUANT_BATCH_MATMUL_NZ: OpRow = OpRow {
    operator: OperatorId::WeightQuantBatchMatmulNz,
    codes: Codes::HAND_WRITTEN,
    params: &second(&[aclFormat::FRACTAL_NZ]),
    rules: RULES,
    source: "ops-nn 9.1.0, matmul/weight_quant_batch_matmul_v2 (docs, op_api), aclnnWeightQuantBatchMatmulNz",
    doubtful: "The symbol is there from 9.0.0 on, but the document and the newest source have it for Ascend 950 only, and \
               answer 361001 on Atlas A3; here it takes what aclnnWeightQuantBatchMatmulV2 takes. Else as for that.",
};
