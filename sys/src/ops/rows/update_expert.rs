//! Row of the operator that maps experts to their instances.

use super::check::{Checked, F32, FLOATS, I32, dim, one_of, require, same_dtype, shape_is};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Rule};

const IDS_DTYPES: &[aclDataType] = &[aclDataType::INT32, aclDataType::INT64];
const BOOL: &[aclDataType] = &[aclDataType::BOOL];
const MAX_TOKENS: i64 = 512;
const MAX_TOP_K: i64 = 16;
const MAX_EXPERTS: i64 = 1024;
const MIN_RANKS: i64 = 2;
const MAX_RANKS: i64 = 768;

const IDS: usize = 0;
const TABLE: usize = 1;
const SCALES: usize = 2;
const THRESHOLD: usize = 3;
const ACTIVE: usize = 4;
const RANK: usize = 5;
const RANKS: usize = 6;
const MODE: usize = 7;
const INSTANCES: usize = 8;
const KEEP: usize = 9;

/// `aclnnMoeUpdateExpert`: the instance that serves each chosen expert, and which choices stay. Goes before
/// `aclnnMoeDistributeDispatchV2`.
///
/// With T <= 512 tokens of K <= 16 choices, E <= 1024 experts:
/// * `expertIds`: device, int32 or int64, `[T, K]`, any strides: values in 0..E.
/// * `eplbTable`: device, int32, `[E, F]`, any strides: the number of instances of an expert, 1 to F - 1, then these.
/// * `expertScalesOptional`: device, fp32, fp16 or bf16, `[T, K]`, any strides; given together with the threshold.
/// * `pruningThresholdOptional`: device, fp32, `[K]` or `[1, K]`, any strides: the share of the sum of a token's scales
///   that a scale must have to stay.
/// * `activeMaskOptional`: device, bool, `[T]`, any strides: of a token that is not active nothing stays. Only with
///   both.
/// * `localRankId`, `worldSize`: the rank in 0..worldSize and 2 to 768 ranks; read in balanceMode 0.
/// * `balanceMode`: 0, the rank chooses the instance; 1, the token's number does.
/// * `balancedExpertIds`: device, dtype of expertIds, `[T, K]`, contiguous.
/// * `balancedActiveMask`: device, bool, `[T, K]`, any strides; required, and written where scales are given.
pub(super) static MOE_UPDATE_EXPERT: OpRow = OpRow {
    operator: OperatorId::MoeUpdateExpert,
    codes: Codes::GENERATED,
    params: &[
        Param::input("expertIds", IDS_DTYPES).rank(2, 2),
        Param::input("eplbTable", I32).rank(2, 2),
        Param::input("expertScalesOptional", FLOATS).rank(2, 2).optional(),
        Param::input("pruningThresholdOptional", F32).rank(1, 2).optional(),
        Param::input("activeMaskOptional", BOOL).rank(1, 1).optional(),
        Param::value("localRankId"),
        Param::value("worldSize"),
        Param::value("balanceMode"),
        Param::output("balancedExpertIds", IDS_DTYPES).rank(2, 2).layout(Layout::Contiguous),
        Param::output("balancedActiveMask", BOOL).rank(2, 2),
    ],
    rules: &[
        Rule::dtype("ids-dtype", "balancedExpertIds has the dtype of expertIds", |call| {
            same_dtype(call, ("balancedExpertIds", INSTANCES), ("expertIds", IDS))
        }),
        Rule::new("balance-mode", "balanceMode is 0 (by rank) or 1 (by token)", |call| {
            one_of(call, "balanceMode", MODE, &[0, 1])
        }),
        Rule::new("world-size", "2 to 768 ranks in balanceMode 0", |call| {
            require(!by_rank(call) || (MIN_RANKS..=MAX_RANKS).contains(&call.int(RANKS)), || {
                let (ranks, nearest) = (call.int(RANKS), call.int(RANKS).clamp(MIN_RANKS, MAX_RANKS));
                format!("worldSize {ranks}; the nearest legal value is {nearest}")
            })
        }),
        Rule::new("local-rank", "0 <= localRankId < worldSize in balanceMode 0", |call| {
            let (rank, ranks) = (call.int(RANK), call.int(RANKS));
            require(!by_rank(call) || (0..ranks).contains(&rank), || format!("localRankId {rank} of {ranks}"))
        }),
        Rule::new("tokens", "1 to 512 tokens", |call| within("tokens", dim(call, IDS, 0), 1, MAX_TOKENS)),
        Rule::new("top-k", "1 to 16 choices per token", |call| within("choices", dim(call, IDS, 1), 1, MAX_TOP_K)),
        Rule::new("experts", "at most 1024 experts, at least as many as choices per token", |call| {
            within("experts", dim(call, TABLE, 0), dim(call, IDS, 1).clamp(1, MAX_EXPERTS), MAX_EXPERTS)
        }),
        Rule::new("table-width", "eplbTable has 2 to worldSize + 1 columns, in balanceMode 1 to 769", |call| {
            let ranks = if by_rank(call) { call.int(RANKS).clamp(MIN_RANKS, MAX_RANKS) } else { MAX_RANKS };
            within("columns", dim(call, TABLE, 1), 2, ranks + 1)
        }),
        Rule::new("scales-shape", "expertScales is [T, K]", |call| choices_shape(call, "expertScales", SCALES)),
        Rule::new("threshold-shape", "pruningThreshold is [K] or [1, K]", |call| {
            let (Some(threshold), k) = (call.tensor(THRESHOLD), dim(call, IDS, 1)) else { return Ok(()) };
            let legal = *threshold.shape == [k] || *threshold.shape == [1, k];
            require(legal, || format!("pruningThreshold of shape {} for {k} choices", threshold.shape))
        }),
        Rule::new("mask-shape", "activeMask is [T]", |call| shape_is(call, "activeMask", ACTIVE, &[dim(call, IDS, 0)])),
        Rule::new("pruning", "expertScales and pruningThreshold together, activeMask only with both", |call| {
            let given = [SCALES, THRESHOLD, ACTIVE].map(|index| call.tensor(index).is_some());
            require(matches!(given, [true, true, _] | [false, false, false]), || {
                let names = ["expertScales", "pruningThreshold", "activeMask"];
                let alone = names.into_iter().zip(given).filter_map(|(name, given)| given.then_some(name));
                alone.collect::<Vec<_>>().join(" and ")
            })
        }),
        Rule::new("ids-shape", "balancedExpertIds is [T, K]", |call| {
            choices_shape(call, "balancedExpertIds", INSTANCES)
        }),
        Rule::new("keep-shape", "balancedActiveMask is [T, K]", |call| choices_shape(call, "balancedActiveMask", KEEP)),
    ],
    source: "ops-transformer 9.1.0, mc2/moe_update_expert (docs, op_host tiling, kernel)",
    doubtful: "The document chooses an instance by the token without adding 1 and keeps scales below the threshold; \
               the kernel adds 1 and keeps those not below it. The order in which it sums a token's scales was not \
               seen. Whether balancedExpertIds may be strided is not said. That instances are no more than 1024 in all \
               and that active tokens come first is asked for and checked by nobody; an id or a count that the table \
               has no place for is a finding of the simulator.",
};

fn by_rank(call: &Call<'_>) -> bool {
    call.int(MODE) == 0
}

/// A size is in a range.
fn within(what: &str, size: i64, least: i64, most: i64) -> Checked {
    require((least..=most).contains(&size), || {
        format!("{size} {what}; the nearest legal value is {}", size.clamp(least, most))
    })
}

fn choices_shape(call: &Call<'_>, name: &str, index: usize) -> Checked {
    shape_is(call, name, index, &[dim(call, IDS, 0), dim(call, IDS, 1)])
}
