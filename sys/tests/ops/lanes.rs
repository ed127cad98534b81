//! Calls of the operators along dimensions, and of those that move elements by index.

use ascend_sys::{OperatorId as Id, aclDataType};

use crate::base;
use crate::build::{BF16, BOOL, Built, COMPLEX, Case, F16, F32, I8, I32, I64, spread, tensor};

const NOT_CARRIED: i32 = 561003;

fn map(operator: Id) -> Built {
    Built::new(operator).set("self_", tensor(BF16, &[2, 3])).set("out", tensor(BF16, &[2, 3]))
}

pub(crate) fn legal(operator: Id) -> Vec<Built> {
    let of = || Built::new(operator).set("self_", tensor(BF16, &[2, 4]));
    match operator {
        Id::Softmax => vec![map(operator), map(operator).set("dim", -1).set("out", tensor(F32, &[2, 3]))],
        Id::Topk => {
            let call = of().set("k", 2).set("dim", 1).set("largest", true).set("sorted", true);
            let call = call.set("valuesOut", tensor(BF16, &[2, 2])).set("indicesOut", tensor(I64, &[2, 2]));
            vec![call.clone(), call.clone().set("dim", -1).set("largest", false)]
        }
        Id::Sort => {
            vec![of().set("valuesOut", tensor(BF16, &[2, 4])).set("indicesOut", tensor(I64, &[2, 4])).set("dim", -1)]
        }
        Id::Argsort => vec![of().set("out", tensor(I64, &[2, 4])).set("dim", 1)],
        Id::Cumsum => {
            vec![
                of().set("dtype", BF16).set("out", tensor(BF16, &[2, 4])),
                of().set("dtype", F32).set("out", tensor(F32, &[2, 4])),
            ]
        }
        Id::ReduceSum => {
            let call = of().set("dims", vec![1i64]).set("dtype", F32).set("out", tensor(F32, &[2]));
            vec![
                call.clone(),
                call.clone().set("keepDims", true).set("out", tensor(F32, &[2, 1])),
                call.clone().set("dims", Vec::<i64>::new()).set("out", tensor(F32, &[])),
                call.clone().set("dims", vec![-1i64, 0]).set("out", tensor(F32, &[1])),
                call.set("self_", tensor(I32, &[2, 0])),
            ]
        }
        Id::Amax => {
            let call = of().set("dim", vec![-1i64]).set("out", tensor(BF16, &[2]));
            vec![call.clone(), call.set("keepDim", true).set("out", tensor(BF16, &[2, 1]))]
        }
        Id::RmsNorm => {
            let call = Built::new(operator).set("x", tensor(F16, &[2, 4])).set("gamma", tensor(F16, &[4]));
            vec![call.set("yOut", tensor(F16, &[2, 4])).set("rstdOut", tensor(F32, &[2, 1]))]
        }
        Id::AddRmsNorm => {
            let call = Built::new(operator).set("x1", tensor(F16, &[2, 4])).set("x2", tensor(F16, &[2, 4]));
            let call = call.set("gamma", tensor(F16, &[4])).set("rstdOut", tensor(F32, &[2, 1]));
            vec![call.set("yOut", tensor(F16, &[2, 4])).set("xOut", tensor(F16, &[2, 4]))]
        }
        Id::Gather => {
            let call = of().set("dim", 1).set("index", tensor(I32, &[2, 3])).set("out", tensor(BF16, &[2, 3]));
            vec![call.clone(), call.set("index", spread(tensor(I64, &[2, 3])))]
        }
        Id::Scatter => {
            let call = of().set("dim", 1).set("index", tensor(I64, &[2, 3])).set("src", tensor(BF16, &[2, 3]));
            vec![
                call.clone().set("out", tensor(BF16, &[2, 4])),
                call.set("reduce", 1).set("out", tensor(BF16, &[2, 4])),
            ]
        }
        Id::IndexSelect => {
            vec![of().set("dim", -1).set("index", tensor(I32, &[7])).set("out", tensor(BF16, &[2, 7]))]
        }
        Id::GatherV2 => {
            vec![of().set("dim", 1).set("index", tensor(I64, &[5, 7])).set("out", tensor(BF16, &[2, 5, 7]))]
        }
        Id::Embedding => {
            let call = Built::new(operator).set("weight", tensor(I32, &[9, 4])).set("indices", tensor(I64, &[5]));
            vec![call.set("out", tensor(I32, &[5, 4]))]
        }
        Id::Cat => {
            let call = Built::new(operator).set("tensors", vec![tensor(BOOL, &[2, 3]), tensor(BOOL, &[2, 1])]);
            vec![call.set("dim", 1).set("out", tensor(BOOL, &[2, 4]))]
        }
        _ => vec![of().set("dims", vec![1i64, 0]).set("out", tensor(BF16, &[4, 2]))],
    }
}

pub(crate) fn violations(operator: Id) -> Vec<Case> {
    let call = || base(operator);
    let dim = || Case::new(call().set("dim", 2), "dim", 161002);
    let carried = |built: Built| Case::new(built, "carried-dtypes", NOT_CARRIED);
    let out = |dims: &[i64]| Case::new(call().set("out", tensor(BF16, dims)), "out-shape", 161002);
    match operator {
        Id::Softmax => vec![out(&[3, 2]), dim(), carried(call().set("self_", tensor(I32, &[2, 3])))],
        Id::Topk => vec![
            dim(),
            Case::new(call().set("k", 5), "k", 161002).also(&["out-shapes"]),
            Case::new(call().set("valuesOut", tensor(F32, &[2, 2])), "values-dtype", 161002),
            Case::new(call().set("indicesOut", tensor(I64, &[2, 3])), "out-shapes", 161002),
            Case::new(call().set("sorted", false), "sorted", NOT_CARRIED),
            carried(call().set("self_", tensor(I8, &[2, 4])).set("valuesOut", tensor(I8, &[2, 2]))),
        ],
        Id::Sort => vec![
            dim(),
            Case::new(call().set("valuesOut", tensor(F32, &[2, 4])), "values-dtype", 161002),
            Case::new(call().set("indicesOut", tensor(I64, &[2, 3])), "out-shapes", 161002),
            carried(call().set("self_", tensor(I8, &[2, 4])).set("valuesOut", tensor(I8, &[2, 4]))),
        ],
        Id::Argsort => vec![
            dim(),
            Case::new(call().set("out", tensor(I64, &[2, 3])), "out-shape", 161002),
            carried(call().set("self_", tensor(I8, &[2, 4]))),
        ],
        Id::Cumsum => vec![
            dim(),
            out(&[4, 2]),
            Case::new(call().set("dtype", F32), "out-dtype", 161002),
            carried(call().set("self_", tensor(I8, &[2, 4]))),
        ],
        Id::ReduceSum => vec![
            Case::new(call().set("dtype", F16), "out-dtype", 161002),
            Case::new(call().set("dims", vec![1i64, -1]), "dims", 161002),
            Case::new(call().set("out", tensor(F32, &[4])), "out-shape", 161002),
            carried(call().set("self_", tensor(I8, &[2, 4]))),
        ],
        Id::Amax => vec![
            Case::new(call().set("dim", vec![2i64]), "dims", 161002).also(&["out-shape"]),
            out(&[4]),
            Case::new(call().set("self_", tensor(BF16, &[2, 0])), "some", 161002),
            Case::new(call().set("out", tensor(F32, &[2])), "out-dtype", 161002),
            carried(call().set("self_", tensor(I8, &[2, 4])).set("out", tensor(I8, &[2]))),
        ],
        Id::RmsNorm => vec![
            Case::new(call().set("gamma", tensor(F16, &[3])), "gamma-shape", 561002),
            Case::new(call().set("yOut", tensor(F16, &[4, 2])), "y-shape", 561002),
            Case::new(call().set("yOut", tensor(F32, &[2, 4])), "y-dtype", 161002),
            Case::new(call().set("rstdOut", tensor(F32, &[2, 4])), "rstd-shape", 561002),
        ],
        Id::AddRmsNorm => vec![
            Case::new(call().set("x2", tensor(F16, &[4])), "x-shapes", 161002),
            Case::new(call().set("x2", tensor(F32, &[2, 4])), "x-dtypes", 161002),
            Case::new(call().set("gamma", tensor(F16, &[3])), "gamma-shape", 161002),
            Case::new(call().set("rstdOut", tensor(F32, &[2])), "rstd-shape", 161002),
        ],
        Id::Gather => vec![
            Case::new(call().set("out", tensor(F32, &[2, 3])), "out-dtype", 161002),
            Case::new(call().set("index", tensor(I32, &[3])).set("out", tensor(BF16, &[3])), "index-rank", 161002)
                .also(&["index-shape"]),
            out(&[2, 4]),
            dim(),
            Case::new(
                call().set("index", tensor(I32, &[3, 3])).set("out", tensor(BF16, &[3, 3])),
                "index-shape",
                161002,
            ),
            Case::new(call().set("self_", tensor(BF16, &[2, 0])), "empty", 161002),
            carried(call().set("self_", tensor(I8, &[2, 4])).set("out", tensor(I8, &[2, 3]))),
        ],
        Id::Scatter => vec![
            Case::new(call().set("src", tensor(F32, &[2, 3])), "dtypes", 161002),
            Case::new(call().set("index", tensor(BOOL, &[2, 3])), "index-dtype", 161002),
            Case::new(call().set("src", tensor(BF16, &[2])), "ranks", 161002),
            out(&[2, 3]),
            Case::new(call().set("src", tensor(BF16, &[2, 2])), "src-shape", 161002),
            Case::new(
                call().set("index", tensor(I64, &[3, 3])).set("src", tensor(BF16, &[3, 3])),
                "index-shape",
                161002,
            ),
            dim(),
            Case::new(call().set("reduce", 3), "reduce", NOT_CARRIED),
            carried(
                call()
                    .set("self_", tensor(I8, &[2, 4]))
                    .set("src", tensor(I8, &[2, 3]))
                    .set("out", tensor(I8, &[2, 4])),
            ),
        ],
        Id::IndexSelect => vec![
            Case::new(call().set("out", tensor(F32, &[2, 7])), "out-dtype", 161002),
            dim(),
            out(&[2, 4]),
            carried(call().set("self_", tensor(I8, &[2, 4])).set("out", tensor(I8, &[2, 7]))),
        ],
        Id::GatherV2 => vec![
            Case::new(call().set("out", tensor(F32, &[2, 5, 7])), "out-dtype", 161002),
            dim(),
            out(&[2, 7, 5]),
            carried(call().set("self_", tensor(I8, &[2, 4])).set("out", tensor(I8, &[2, 5, 7]))),
        ],
        Id::Embedding => vec![
            Case::new(call().set("out", tensor(F32, &[5, 4])), "out-dtype", 161002),
            Case::new(call().set("out", tensor(I32, &[4, 5])), "out-shape", 161002),
            carried(call().set("weight", tensor(I8, &[9, 4])).set("out", tensor(I8, &[5, 4]))),
        ],
        Id::Cat => {
            let list = |second: aclDataType, dims: &[i64]| vec![tensor(BOOL, &[2, 3]), tensor(second, dims)];
            vec![
                dim(),
                Case::new(call().set("tensors", list(BOOL, &[3, 1])), "shapes", 161002),
                Case::new(call().set("out", tensor(BOOL, &[2, 3])), "out-shape", 161002),
                Case::new(call().set("tensors", list(F32, &[2, 1])), "one-dtype", NOT_CARRIED),
                carried(
                    call()
                        .set("tensors", vec![tensor(COMPLEX, &[2, 3]), tensor(COMPLEX, &[2, 1])])
                        .set("out", tensor(COMPLEX, &[2, 4])),
                ),
            ]
        }
        _ => vec![
            Case::new(call().set("dims", vec![1i64, 1]), "dims", 161002),
            out(&[2, 4]),
            Case::new(call().set("out", tensor(F32, &[4, 2])), "out-dtype", 161002),
            carried(call().set("self_", tensor(I8, &[2, 4])).set("out", tensor(I8, &[4, 2]))),
        ],
    }
}

pub(crate) fn legal_batch_mat_mul() -> Vec<Built> {
    let call = Built::new(Id::BatchMatMul).set("self_", tensor(BF16, &[2, 3, 4])).set("mat2", tensor(BF16, &[2, 4, 5]));
    let call = call.set("out", tensor(BF16, &[2, 3, 5]));
    vec![call.clone(), call.set("mat2", tensor(BF16, &[1, 4, 5]))]
}

pub(crate) fn violations_batch_mat_mul() -> Vec<Case> {
    let call = || base(Id::BatchMatMul);
    vec![
        Case::new(call().set("mat2", tensor(BF16, &[2, 5, 5])), "inner-dim", 161002),
        Case::new(call().set("mat2", tensor(BF16, &[3, 4, 5])), "batch", 161002),
        Case::new(call().set("out", tensor(BF16, &[2, 5, 3])), "out-shape", 161002),
        Case::new(call().set("cubeMathType", 5), "cube-math-type", 161002),
        Case::new(call().set("mat2", tensor(F32, &[2, 4, 5])), "mixed-dtypes", NOT_CARRIED),
        Case::new(call().set("mat2", crate::build::packed(tensor(BF16, &[2, 4, 5]))), "nz-mat2", NOT_CARRIED),
    ]
}

pub(crate) fn legal_addmm() -> Vec<Built> {
    let one = crate::build::scalar(F32, 1.0);
    let call = Built::new(Id::Addmm).set("self_", tensor(BF16, &[5])).set("mat1", tensor(BF16, &[3, 4]));
    let call = call.set("mat2", tensor(BF16, &[4, 5])).set("beta", one).set("alpha", one);
    let call = call.set("out", tensor(BF16, &[3, 5]));
    vec![call.clone(), call.set("self_", tensor(BF16, &[3, 1]))]
}

pub(crate) fn violations_addmm() -> Vec<Case> {
    let call = || base(Id::Addmm);
    vec![
        Case::new(call().set("mat2", tensor(BF16, &[3, 5])), "inner-dim", 161002),
        Case::new(call().set("out", tensor(BF16, &[5, 3])), "out-shape", 161002),
        Case::new(call().set("self_", tensor(BF16, &[4])), "self-shape", 161002),
        Case::new(call().set("cubeMathType", 5), "cube-math-type", 161002),
        Case::new(call().set("self_", tensor(F32, &[5])), "mixed-dtypes", NOT_CARRIED),
    ]
}

pub(crate) fn legal_clipped() -> Vec<Built> {
    let call = Built::new(Id::ClippedSwiglu).set("x", tensor(BF16, &[6, 4])).set("out", tensor(BF16, &[6, 2]));
    let call = call.set("groupIndexOptional", tensor(I64, &[3])).set("dim", -1).set("limit", 7.0);
    vec![call.clone(), call.null("groupIndexOptional").set("interleaved", true)]
}

pub(crate) fn violations_clipped() -> Vec<Case> {
    let call = || base(Id::ClippedSwiglu);
    vec![
        Case::new(call().set("out", tensor(F32, &[6, 2])), "out-dtype", 161002),
        Case::new(call().set("dim", 2), "dim", 561002),
        Case::new(call().set("x", tensor(BF16, &[0, 4])).set("out", tensor(BF16, &[0, 2])), "empty", 561002),
        Case::new(call().set("x", tensor(BF16, &[6, 5])), "even", 561002),
        Case::new(call().set("out", tensor(BF16, &[6, 4])), "out-shape", 561002),
        Case::new(call().set("limit", 0.0), "limit", 561002),
        Case::new(call().set("groupIndexOptional", tensor(I64, &[1025])), "groups", 561002),
    ]
}

pub(crate) fn legal_trans() -> Vec<Built> {
    vec![Built::new(Id::TransMatmulWeight).set("mmWeightRef", tensor(BF16, &[4, 5]))]
}

pub(crate) fn violations_trans() -> Vec<Case> {
    vec![Case::new(base(Id::TransMatmulWeight).set("mmWeightRef", spread(tensor(BF16, &[4, 5]))), "contiguous", 161002)]
}
