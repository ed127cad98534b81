//! The second version of the router, which no release has yet.

use std::sync::{Arc, Mutex, OnceLock};

use ascend_moe::op::{self, ExpertChoice, GatingTopK, GroupScore, Normalisation};
use ascend_moe::{Cann, DType, Device, Error, Stream, Tensor};
use ascend_sys::{OperatorId, Release, Table, aclDataType, aclOpExecutor, aclTensor, aclnnStatus, aclrtStream};
use core::ffi::c_void;

use crate::rig::Rig;

const SIGMOID: GatingTopK = GatingTopK {
    k: 2,
    groups: 1,
    kept_groups: 1,
    group_score: GroupScore::Max,
    renormalise: false,
    normalisation: Normalisation::Sigmoid,
    scale: 2.5,
    eps: 1e-20,
};

/// Routes two tokens, by a bias or by a table.
fn route(
    device: &Device,
    stream: &Stream,
    by_table: bool,
    params: &GatingTopK,
) -> ascend_moe::Result<(Vec<i32>, Vec<f32>)> {
    let logits = Tensor::from_slice(device, &[0f32, 0., 0., 0., 1., -1., 1., 2.], &[2, 4]).unwrap();
    let bias = Tensor::from_slice(device, &[0f32, 0., 0.5, 0.], &[4]).unwrap();
    let (ids, table) = (
        Tensor::from_slice(device, &[1i64, 0], &[2]).unwrap(),
        Tensor::from_slice(device, &[0i32, 1, 2, 3], &[2, 2]).unwrap(),
    );
    let (mut weights, mut experts) = (
        Tensor::zeros(device, DType::F32, &[2, params.k]).unwrap(),
        Tensor::zeros(device, DType::I32, &[2, params.k]).unwrap(),
    );
    let (bias, ids, table) = (bias.view(), ids.view(), table.view());
    let choice = if by_table {
        ExpertChoice::Table { token_ids: &ids, experts: &table }
    } else {
        ExpertChoice::Best { bias: Some(&bias) }
    };
    let sequence = stream.sequence().unwrap();
    let (mut wv, mut ev) = (weights.view_mut(), experts.view_mut());
    op::moe_gating_top_k_v2(&sequence, &logits.view(), choice, params, &mut wv, &mut ev, None)?;
    drop(sequence);
    Ok((experts.to_vec(stream)?, weights.to_vec(stream)?))
}

#[test]
fn no_release_has_it() {
    for release in [Release::new(8, 5, 0), Release::new(9, 0, 0), Release::new(9, 1, 0)] {
        let rig = Rig::with(|config| config.release = release);
        for by_table in [false, true] {
            match route(&rig.device, &rig.stream, by_table, &SIGMOID) {
                Err(error @ Error::MissingOperator { tried: &[OperatorId::MoeGatingTopKV2], .. }) => {
                    assert!(error.to_string().contains("aclnnMoeGatingTopKV2"), "{error}");
                }
                other => panic!("{release}: {other:?}"),
            }
        }
    }
}

/// The table behind the one below, and the dtypes of token ids and table that came through it.
static INNER: OnceLock<Arc<Table>> = OnceLock::new();
static SEEN: Mutex<Vec<[Option<aclDataType>; 2]>> = Mutex::new(Vec::new());

/// Phase 1 of a router that notes the table and does what the first version does.
#[allow(clippy::too_many_arguments, non_snake_case, reason = "the C interface as it is")]
unsafe extern "C" fn phase1(
    x: *const aclTensor,
    bias: *const aclTensor,
    ids: *const aclTensor,
    table: *const aclTensor,
    k: i64,
    kGroup: i64,
    groupCount: i64,
    groupSelectMode: i64,
    renorm: i64,
    normType: i64,
    outFlag: bool,
    scale: f64,
    eps: f64,
    y: *const aclTensor,
    experts: *const aclTensor,
    out: *const aclTensor,
    size: *mut u64,
    executor: *mut *mut aclOpExecutor,
) -> aclnnStatus {
    let inner = INNER.get().unwrap();
    let dtype = |tensor: *const aclTensor| {
        let mut dtype = aclDataType::UNDEFINED;
        // SAFETY: the tensor is alive during phase 1.
        let status = unsafe { inner.aclGetDataType(tensor, &mut dtype) }.unwrap();
        (status == aclnnStatus::SUCCESS).then_some(dtype)
    };
    SEEN.lock().unwrap().push([ids, table].map(|tensor| if tensor.is_null() { None } else { dtype(tensor) }));
    // SAFETY: the caller's arguments, in the order of the first version.
    let status = unsafe {
        inner.aclnnMoeGatingTopKGetWorkspaceSize(
            x,
            bias,
            k,
            kGroup,
            groupCount,
            groupSelectMode,
            renorm,
            normType,
            outFlag,
            scale,
            eps,
            y,
            experts,
            out,
            size,
            executor,
        )
    };
    status.unwrap()
}

unsafe extern "C" fn phase2(
    workspace: *mut c_void,
    size: u64,
    executor: *mut aclOpExecutor,
    stream: aclrtStream,
) -> aclnnStatus {
    // SAFETY: the caller's arguments; the executor is of the first version.
    unsafe { INNER.get().unwrap().aclnnMoeGatingTopK(workspace, size, executor, stream) }.unwrap()
}

/// Worked example 2a through a table that has the operator: every argument goes where it belongs.
#[test]
fn a_table_that_has_it_is_called() {
    let rig = Rig::new();
    let inner = INNER.get_or_init(|| rig.sim().table());
    let mut functions = *inner.functions();
    functions.aclnnMoeGatingTopKV2GetWorkspaceSize = Some(phase1);
    functions.aclnnMoeGatingTopKV2 = Some(phase2);
    // SAFETY: the simulator's functions, which it outlives, and two of their signatures.
    let table = Arc::new(unsafe { Table::new(functions, inner.origin().clone()) });
    let cann = Cann::from_table(table).unwrap();
    let device = cann.device(0).unwrap();
    let stream = Stream::new(&device).unwrap();
    let (experts, weights) = route(&device, &stream, false, &SIGMOID).unwrap();
    assert_eq!(experts, [2, 0, 2, 3]);
    crate::operators::near(&weights, &[1.25, 1.25, 1.133_877_3, 1.366_122_7]);
    route(&device, &stream, true, &SIGMOID).unwrap();
    assert_eq!(*SEEN.lock().unwrap(), [[None; 2], [Some(aclDataType::INT64), Some(aclDataType::INT32)]]);

    let refused = |params: &GatingTopK, rule| match route(&device, &stream, true, params) {
        Err(Error::Rule(violation)) => {
            assert_eq!((violation.operator, violation.rule), (OperatorId::MoeGatingTopKV2, rule));
        }
        other => panic!("{rule}: {other:?}"),
    };
    refused(&GatingTopK { k: 3, ..SIGMOID }, "table-shape");
    refused(&GatingTopK { groups: 2, kept_groups: 1, ..SIGMOID }, "table-groups");
    let softplus = GatingTopK { normalisation: Normalisation::SqrtSoftplus, ..SIGMOID };
    refused(&GatingTopK { groups: 2, kept_groups: 2, ..softplus }, "softplus-groups");
}
