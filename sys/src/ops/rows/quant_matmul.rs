//! Rows of the quantised dense products of ops-nn.

use super::check::{Checked, broadcast, require};
use crate::constants::{aclDataType, aclFormat};
use crate::info::OperatorId;
use crate::ops::desc::{Dims, TensorDesc};
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const INTEGERS: &[aclDataType] = &[aclDataType::INT8, aclDataType::INT4, aclDataType::INT32];
const SCALES: &[aclDataType] = &[aclDataType::UINT64, aclDataType::INT64, aclDataType::FLOAT, aclDataType::BF16];
const OFFSETS: &[aclDataType] = &[aclDataType::FLOAT, aclDataType::FLOAT16];
const BIASES: &[aclDataType] = &[aclDataType::INT32, aclDataType::BF16, aclDataType::FLOAT16, aclDataType::FLOAT];
const OUTPUTS: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT8, aclDataType::INT32];

/// The most dimensions of an operand.
const MAX_RANK: usize = 6;
/// The largest last dimension of an operand, but for int8 with a scale for each row.
const MAX_LAST_DIM: i64 = 65_535;
/// Numbers of 4 bits in an int32.
const CARRIED: i64 = 8;

/// Where the parameters that both signatures have are.
struct Places {
    x1: usize,
    x2: usize,
    scale: usize,
    per_token: usize,
    offset: usize,
    bias: usize,
    transpose_x1: usize,
    transpose_x2: usize,
    out: usize,
}

const FOURTH: Places =
    Places { x1: 0, x2: 1, scale: 2, offset: 3, per_token: 4, bias: 5, transpose_x1: 6, transpose_x2: 7, out: 8 };
const FIFTH: Places =
    Places { x1: 0, x2: 1, per_token: 2, scale: 3, offset: 6, bias: 8, transpose_x1: 9, transpose_x2: 10, out: 12 };
/// Parameters that only the later signature has.
const Y_SCALE: usize = 4;
const X1_OFFSET: usize = 5;
const Y_OFFSET: usize = 7;
const GROUP_SIZE: usize = 11;

fn places(call: &Call<'_>) -> &'static Places {
    if call.operator == OperatorId::QuantMatmulV4 { &FOURTH } else { &FIFTH }
}

/// The operands of a call that has them, and what they say together.
struct Product<'a> {
    x1: &'a TensorDesc,
    x2: &'a TensorDesc,
    scale: &'a TensorDesc,
    out: &'a TensorDesc,
    per_token: Option<&'a TensorDesc>,
    offset: Option<&'a TensorDesc>,
    bias: Option<&'a TensorDesc>,
    transpose_x1: bool,
    transpose_x2: bool,
}

impl<'a> Product<'a> {
    fn of(call: &Call<'a>) -> Option<Self> {
        let places = places(call);
        Some(Self {
            x1: call.tensor(places.x1)?,
            x2: call.tensor(places.x2)?,
            scale: call.tensor(places.scale)?,
            out: call.tensor(places.out)?,
            per_token: call.tensor(places.per_token),
            offset: call.tensor(places.offset),
            bias: call.tensor(places.bias),
            transpose_x1: call.bool(places.transpose_x1),
            transpose_x2: call.bool(places.transpose_x2),
        })
    }

    /// Whether the operands are of int4, by themselves or carried by int32.
    fn is_int4(&self) -> bool {
        self.x1.dtype != aclDataType::INT8 && self.x2.dtype != aclDataType::INT8
    }

    /// M and K of x1.
    fn left(&self) -> [i64; 2] {
        let [rows, cols] = matrix(self.x1);
        if self.transpose_x1 { [cols, rows] } else { [rows, cols] }
    }

    /// K and N of x2.
    fn right(&self) -> [i64; 2] {
        let [rows, cols] = matrix(self.x2);
        if self.transpose_x2 { [cols, rows] } else { [rows, cols] }
    }

    fn m(&self) -> i64 {
        self.left()[0]
    }

    fn n(&self) -> i64 {
        self.right()[1]
    }

    /// The dimensions before the last two of the product; `None` where those of the operands do not broadcast.
    fn batch(&self) -> Option<Dims> {
        broadcast(leading(self.x1), leading(self.x2))
    }

    fn scale_is_integer(&self) -> bool {
        matches!(self.scale.dtype, aclDataType::UINT64 | aclDataType::INT64)
    }
}

/// The last two dimensions in elements; eight to an int32.
fn matrix(tensor: &TensorDesc) -> [i64; 2] {
    let carried = if tensor.dtype == aclDataType::INT32 { CARRIED } else { 1 };
    [tensor.dim(-2), tensor.dim(-1).saturating_mul(carried)]
}

fn leading(tensor: &TensorDesc) -> &[i64] {
    tensor.shape.get(..tensor.rank().saturating_sub(2)).unwrap_or_default()
}

/// A rule's check of what the operands say together; calls without them are for the rules of the parameters.
fn product(call: &Call<'_>, check: impl FnOnce(&Product<'_>) -> Checked) -> Checked {
    Product::of(call).map_or(Ok(()), |product| check(&product))
}

/// Whether the operator takes x2 for FRACTAL_NZ.
fn is_packed(call: &Call<'_>, product: &Product<'_>) -> bool {
    call.operator == OperatorId::QuantMatmulWeightNz || product.x2.format == aclFormat::FRACTAL_NZ
}

const RULES: &[Rule] = &[
    Rule::not_carried("groups", "scales and offsets have one dimension: no groups", |call| {
        product(call, |p| {
            let tensors = [Some(p.scale), p.per_token, p.offset];
            require(tensors.into_iter().flatten().all(|tensor| tensor.rank() == 1), || "a scale for groups".to_owned())
        })
    }),
    Rule::not_carried("int8-by-int4", "x1 and x2 are both of int8 or both of int4", |call| {
        product(call, |p| {
            let mixed = p.x1.dtype == aclDataType::INT8 && p.x2.dtype != aclDataType::INT8;
            require(!mixed, || format!("{:?} by {:?}", p.x1.dtype, p.x2.dtype))
        })
    }),
    Rule::not_carried("int4-layout", "int4 operands begin with a byte; int32 that carry them are contiguous", |call| {
        product(call, |p| {
            [p.x1, p.x2].into_iter().try_for_each(|tensor| {
                let legal = match tensor.dtype {
                    aclDataType::INT4 => tensor.offset % 2 == 0,
                    aclDataType::INT32 => tensor.is_contiguous(),
                    _ => true,
                };
                require(legal, || format!("offset {} with strides {}", tensor.offset, tensor.strides))
            })
        })
    }),
    Rule::dtype("operands", "x1 and x2 are both of int8 or both of int4 (or int32 that carry eight each)", |call| {
        product(call, |p| {
            let legal = p.is_int4() || p.x1.dtype == aclDataType::INT8;
            require(legal, || format!("{:?} by {:?}", p.x1.dtype, p.x2.dtype))
        })
    }),
    Rule::dtype(
        "out-dtype",
        "bf16 from a scale of fp32 or bf16; fp16 from a uint64 or int64 scale, with a scale for each row from fp32; int8 \
         from a uint64 or int64 scale; int32 from a scale of fp32 or bf16; int4 operands with scales of fp32 or bf16 have \
         one for each row; int8 and int32 come without such and from int8",
        |call| {
            product(call, |p| {
                let (per_token, integer, int8) = (p.per_token.is_some(), p.scale_is_integer(), !p.is_int4());
                let legal = match p.out.dtype {
                    aclDataType::BF16 => !integer && (per_token || int8),
                    aclDataType::FLOAT16 if per_token => p.scale.dtype == aclDataType::FLOAT,
                    aclDataType::FLOAT16 => integer,
                    aclDataType::INT8 => int8 && integer && !per_token,
                    _ => int8 && !integer && !per_token,
                };
                let rows = if per_token { " and one for each row" } else { "" };
                require(legal, || format!("{:?} from a scale of {:?}{rows}", p.out.dtype, p.scale.dtype))
            })
        },
    ),
    Rule::dtype(
        "bias-dtype",
        "int32; for bf16 also bf16 and fp32; for fp16 with a scale for each row also fp16 and fp32",
        |call| {
            product(call, |p| {
                let Some(bias) = p.bias else { return Ok(()) };
                let legal = match p.out.dtype {
                    aclDataType::BF16 => bias.dtype != aclDataType::FLOAT16,
                    aclDataType::FLOAT16 if p.per_token.is_some() => bias.dtype != aclDataType::BF16,
                    _ => bias.dtype == aclDataType::INT32,
                };
                require(legal, || format!("a bias of {:?} for {:?}", bias.dtype, p.out.dtype))
            })
        },
    ),
    Rule::dtype("offset", "an offset is fp32, and given for an int8 output only", |call| {
        product(call, |p| {
            let Some(offset) = p.offset else { return Ok(()) };
            let legal = offset.dtype == aclDataType::FLOAT && p.out.dtype == aclDataType::INT8;
            require(legal, || format!("an offset of {:?} for {:?}", offset.dtype, p.out.dtype))
        })
    }),
    Rule::new("empty", "M, K, N and the leading dimensions are at least 1", |call| {
        product(call, |p| {
            require(!p.x1.is_empty() && !p.x2.is_empty(), || format!("shapes {} and {}", p.x1.shape, p.x2.shape))
        })
    }),
    Rule::new("operand-layout", "x1 and x2 are contiguous or have their last two dimensions swapped", |call| {
        product(call, |p| {
            [p.x1, p.x2].into_iter().try_for_each(|tensor| {
                let legal = tensor.is_contiguous() || tensor.is_transposed();
                require(legal, || format!("shape {} with strides {}", tensor.shape, tensor.strides))
            })
        })
    }),
    Rule::new("inner-dim", "K of x1 is K of x2", |call| {
        product(call, |p| {
            let (left, right) = (p.left()[1], p.right()[0]);
            require(left == right, || format!("K {left} and {right}"))
        })
    }),
    Rule::new("int4-form", "int4 operands: x1 is not transposed, x2 has two dimensions, the bias has one", |call| {
        product(call, |p| {
            let legal = !p.transpose_x1 && p.x2.rank() == 2 && p.bias.is_none_or(|bias| bias.rank() == 1);
            require(!p.is_int4() || legal, || format!("transposeX1 {}, x2 of shape {}", p.transpose_x1, p.x2.shape))
        })
    }),
    Rule::new("int4-even", "int4 operands: K and the last dimension of x2 are even", |call| {
        product(call, |p| {
            let (k, last) = (p.left()[1], matrix(p.x2)[1]);
            require(!p.is_int4() || (k % 2 == 0 && last % 2 == 0), || format!("K {k}, last dimension {last}"))
        })
    }),
    Rule::new(
        "last-dim",
        "the last dimensions of x1 and x2 are at most 65535, but for int8 with a scale of fp32 or bf16 and one for each row",
        |call| {
            product(call, |p| {
                let [left, right] = [p.x1, p.x2].map(|tensor| matrix(tensor)[1]);
                let free = !p.is_int4() && !p.scale_is_integer() && p.per_token.is_some();
                require(free || left.max(right) <= MAX_LAST_DIM, || format!("last dimensions {left} and {right}"))
            })
        },
    ),
    Rule::new("nz-storage", "the storage of a FRACTAL_NZ x2 holds its blocks", |call| {
        product(call, |p| {
            let needed = p.x2.stored_shape().fractal_nz(p.x2.dtype).and_then(|blocks| blocks.elements());
            let legal = needed.is_some() && p.x2.storage.elements() >= needed;
            require(!is_packed(call, p) || legal, || {
                format!("a storage of shape {} for x2 of shape {}", p.x2.storage, p.x2.shape)
            })
        })
    }),
    Rule::not_carried("nz-int4", "a FRACTAL_NZ x2 is of int8", |call| {
        product(call, |p| require(!(is_packed(call, p) && p.is_int4()), || format!("x2 of {:?}", p.x2.dtype)))
    }),
    Rule::new("scale-shape", "the scale is [1] or [N]", |call| product(call, |p| one_or_n(p, "scale", Some(p.scale)))),
    Rule::new("offset-shape", "the offset is [1] or [N]", |call| product(call, |p| one_or_n(p, "offset", p.offset))),
    Rule::new("per-token-shape", "the scale for each row is [M]", |call| {
        product(call, |p| {
            let Some(scale) = p.per_token else { return Ok(()) };
            require(scale.dim(0) == p.m(), || format!("shape {} for M {}", scale.shape, p.m()))
        })
    }),
    Rule::new("batch", "the dimensions before the last two broadcast", |call| {
        product(call, |p| {
            require(p.batch().is_some(), || format!("leading dimensions {:?} and {:?}", leading(p.x1), leading(p.x2)))
        })
    }),
    Rule::new("bias-shape", "the bias is [N], or [B, 1, N] for a product of three dimensions", |call| {
        product(call, |p| {
            let Some(bias) = p.bias else { return Ok(()) };
            let legal = match (&*bias.shape, p.batch()) {
                ([n], _) => *n == p.n(),
                ([b, 1, n], Some(batch)) => *batch == [*b] && *n == p.n(),
                _ => false,
            };
            require(legal, || format!("a bias of shape {} for N {}", bias.shape, p.n()))
        })
    }),
    Rule::new("out-shape", "out is [.., M, N] with the leading dimensions broadcast; [M, 1, N] without such", |call| {
        product(call, |p| {
            let Some(batch) = p.batch() else { return Ok(()) };
            let due = Dims::collect(batch.iter().copied().chain([p.m(), p.n()]));
            let spread = batch.is_empty() && *p.out.shape == [p.m(), 1, p.n()];
            require(due == Some(p.out.shape) || spread, || format!("out of shape {}", p.out.shape))
        })
    }),
    Rule::new("reserved-inputs", "yScale, x1Offset and, without groups, yOffset are null or empty", |call| {
        let given = |index: &usize| call.tensor(*index).is_some_and(|tensor| !tensor.is_empty());
        require(![Y_SCALE, X1_OFFSET, Y_OFFSET].iter().any(given), || "one of them".to_owned())
    }),
    Rule::new("group-size", "groupSize is 0 without groups", |call| {
        let size = call.int(GROUP_SIZE);
        require(size == 0, || format!("groupSize {size}"))
    }),
];

/// Rules at the end that only the later signature has.
const OF_LATER: usize = 2;

fn one_or_n(product: &Product<'_>, name: &str, tensor: Option<&TensorDesc>) -> Checked {
    let Some(tensor) = tensor else { return Ok(()) };
    let legal = tensor.dim(0) == 1 || tensor.dim(0) == product.n();
    require(legal, || format!("{name} of shape {} for N {}", tensor.shape, product.n()))
}

/// Formats of the right operand.
const X2_FORMATS: &[aclFormat] = super::check::WEIGHT_FORMATS;

const fn x1() -> Param {
    Param::input("x1", INTEGERS).rank(2, MAX_RANK)
}

const fn x2() -> Param {
    Param::input("x2", INTEGERS).rank(2, MAX_RANK).formats(X2_FORMATS)
}

const fn scale(name: &'static str) -> Param {
    Param::input(name, SCALES).rank(1, 2)
}

const fn per_token(name: &'static str) -> Param {
    Param::input(name, super::check::F32).optional().rank(1, 2)
}

const fn offset(name: &'static str) -> Param {
    Param::input(name, OFFSETS).optional().rank(1, 2)
}

const BIAS: Param = Param::input("bias", BIASES).optional().rank(1, 3);
const OUT: Param = Param::output("out", OUTPUTS).rank(2, MAX_RANK);

const LATER: &[Param] = &[
    x1(),
    x2(),
    per_token("x1Scale"),
    scale("x2Scale"),
    Param::input("yScale", &[]).optional(),
    Param::input("x1Offset", &[]).optional(),
    offset("x2Offset"),
    Param::input("yOffset", &[]).optional(),
    BIAS,
    Param::value("transposeX1"),
    Param::value("transposeX2"),
    Param::value("groupSize"),
    OUT,
];

const SOURCE: &str = "ops-nn 9.1.0, matmul/quant_batch_matmul_v3 and v4 (docs, op_api, op_kernel)";
const DOUBTFUL: &str = "The kernel for uint64 and int64 scales reads the offset of an int8 output from the scale, where \
                        aclnnTransQuantParamV2 puts it, and not from the offset given beside it, which the documents add: \
                        here the one given counts, else the one in the scale. Their fp32 is generally described as cut to \
                        its top 19 bits by the output stage; here all bits count. The rounding of an int8 output was not \
                        seen: it is to nearest even of scale and offset together. The exception from the limit of the \
                        last dimension was seen in the newest source only, which refuses other layouts of x1 and x2 by \
                        document, not by code. Sources also take int4 in FRACTAL_NZ. A sum with an int32 bias beyond \
                        int32 wraps here. Whether a groupSize without groups is refused was not seen.";

/// `aclnnQuantMatmulV5`: `out = (x1 @ x2 + bias) * x2Scale * x1Scale + x2Offset`, with a bias of floats added last.
///
/// * `x1`: device, int8 or int4 (or int32 that carry eight), `[.., M, K]`, transposed `[.., K, M]`.
/// * `x2`: device, as x1, `[.., K, N]`, transposed `[.., N, K]`; int8 also FRACTAL_NZ, packed as it is given.
/// * `x1Scale`: device, fp32, `[M]`, or null. * `x2Scale`: device, uint64, int64, fp32 or bf16, `[N]` or `[1]`.
/// * `x2Offset`: device, fp32, `[N]` or `[1]`, or null. * `bias`: device, `[N]` or `[B, 1, N]`, or null.
/// * `out`: device, bf16, fp16, int8 or int32, `[.., M, N]`; int32 are the sums, whatever the scale.
pub(super) static QUANT_MATMUL_V5: OpRow = row(OperatorId::QuantMatmulV5, LATER, RULES);

/// `aclnnQuantMatmulWeightNz`: [`QUANT_MATMUL_V5`] for an x2 that is FRACTAL_NZ, whatever its format says.
pub(super) static QUANT_MATMUL_WEIGHT_NZ: OpRow = row(OperatorId::QuantMatmulWeightNz, LATER, RULES);

/// `aclnnQuantMatmulV4`: [`QUANT_MATMUL_V5`] by other names: `scale` and `offset` are those of x2, `pertokenScaleOptional`
/// is that of x1.
pub(super) static QUANT_MATMUL_V4: OpRow = row(
    OperatorId::QuantMatmulV4,
    &[
        x1(),
        x2(),
        scale("scale"),
        offset("offset"),
        per_token("pertokenScaleOptional"),
        BIAS,
        Param::value("transposeX1"),
        Param::value("transposeX2"),
        OUT,
    ],
    RULES.split_at(RULES.len() - OF_LATER).0,
);

const fn row(operator: OperatorId, params: &'static [Param], rules: &'static [Rule]) -> OpRow {
    OpRow { operator, codes: Codes::HAND_WRITTEN, params, rules, source: SOURCE, doubtful: DOUBTFUL }
}
