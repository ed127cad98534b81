//! The routers' operators: scores, choice and weights.

use ascend_moe::DType;
use ascend_moe::op::{self, GatingTopK, GroupScore, Normalisation, SoftmaxOver};

use crate::bench::{Bench, Host, Layout, cases, coordinates};
use crate::number::{Due, EPS, FLOATS, Int};
use crate::random::Values;

/// Distance of two scores that f32 tells apart.
const APART: f64 = 1e-6;

fn parameters(bench: &mut Bench) -> (usize, GatingTopK) {
    let groups = bench.random.pick(&[1, 1, 2, 4]);
    let experts = groups * (2 + bench.random.below(12));
    let kept_groups = 1 + bench.random.below(groups);
    let most = kept_groups * experts / groups;
    let params = GatingTopK {
        k: 1 + bench.random.below(most.min(8)),
        groups,
        kept_groups,
        group_score: bench.random.pick(&[GroupScore::Max, GroupScore::TopTwo]),
        renormalise: bench.random.once(2),
        normalisation: bench.random.pick(&[Normalisation::Softmax, Normalisation::Sigmoid]),
        scale: bench.random.pick(&[1.0, 2.5]),
        eps: bench.random.pick(&[0.0, 1e-20, 1e-3]),
    };
    (experts, params)
}

/// Scores of a token's logits.
fn scores(logits: &[f64], normalisation: Normalisation) -> Vec<f64> {
    match normalisation {
        Normalisation::SqrtSoftplus => logits.iter().map(|x| x.exp().ln_1p().sqrt()).collect(),
        Normalisation::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Normalisation::Softmax => {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.iter().map(|power| power / sum).collect()
        }
    }
}

/// Something that is ranked: its rank, and what it is made of. Two made of the same tie exactly; else a rank closer
/// than [`APART`] is not told apart.
struct Ranked {
    rank: f64,
    made_of: Vec<(f64, f64)>,
}

/// Whether a choice may be the `chosen.len()` best of `all`, in order, ties to the lower index; candidates are marked.
fn may_be_best(all: &[Ranked], candidates: &[bool], chosen: &[usize]) -> bool {
    let mut left = candidates.to_vec();
    chosen.iter().all(|&pick| {
        let best = (0..all.len()).filter(|&i| left[i]).map(|i| all[i].rank).fold(f64::NEG_INFINITY, f64::max);
        let first = (0..all.len()).find(|&i| left[i] && all[i].made_of == all[pick].made_of);
        let fits = left[pick] && first == Some(pick) && all[pick].rank >= best - APART;
        left[pick] = false;
        fits
    })
}

/// Which experts may be chosen; `None` where groups are too close to tell.
fn allowed(experts: &[Ranked], params: &GatingTopK) -> Option<Vec<bool>> {
    if params.groups == 1 || params.groups == experts.len() || params.kept_groups == params.groups {
        return Some(vec![true; experts.len()]);
    }
    let size = experts.len() / params.groups;
    let group = |members: &[Ranked]| {
        let mut made_of: Vec<(f64, (f64, f64))> = members.iter().map(|e| (e.rank, e.made_of[0])).collect();
        made_of.sort_by(|a, b| b.0.total_cmp(&a.0));
        made_of.truncate(if params.group_score == GroupScore::Max { 1 } else { 2 });
        let rank = made_of.iter().map(|(rank, _)| rank).sum();
        Ranked { rank, made_of: made_of.into_iter().map(|(_, made_of)| made_of).collect() }
    };
    let groups: Vec<Ranked> = experts.chunks(size).map(group).collect();
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by(|&a, &b| groups[b].rank.total_cmp(&groups[a].rank));
    let (last, next) = (&groups[order[params.kept_groups - 1]], &groups[order[params.kept_groups]]);
    if last.rank - next.rank < APART && last.made_of != next.made_of {
        return None;
    }
    let kept = &order[..params.kept_groups];
    Some((0..experts.len()).map(|expert| kept.contains(&(expert / size))).collect())
}

#[test]
fn gating() {
    cases("moe_gating_top_k", 300, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let (experts, params) = parameters(bench);
        let tokens = bench.random.below(6);
        let values = bench.random.pick(&[Values::Grid, Values::Smooth]);
        let (logits, laid) = bench.input(dtype, &[tokens, experts], values);
        let (bias, bias_laid) = bench.input(dtype, &[experts], values);
        let (biased, wants_scores) = (bench.random.once(2), bench.random.once(2));
        let mut weights = bench.output(dtype, &[tokens, params.k]);
        let mut chosen = bench.output(DType::I32, &[tokens, params.k]);
        let mut all = bench.output(DType::F32, &[tokens, experts]);
        bench.run(|sequence| {
            let bias = biased.then(|| bias_laid.view());
            let mut all = all.view_mut();
            let scores = wants_scores.then_some(&mut all);
            let (mut weights, mut chosen) = (weights.view_mut(), chosen.view_mut());
            op::moe_gating_top_k(sequence, &laid.view(), bias.as_ref(), &params, &mut weights, &mut chosen, scores)
        });
        let bias_of = |expert: usize| if biased { bias.values[expert].wide() } else { 0.0 };
        let picked: Vec<usize> = bench.result(&chosen).iter().map(|id| usize::try_from(id.int()).unwrap()).collect();
        let loose = (experts as f64 + 8.0) * EPS;
        let (mut weight_due, mut score_due) = (Vec::new(), Vec::new());
        for (token, picked) in picked.chunks(params.k).enumerate() {
            let row: Vec<f64> = (0..experts).map(|expert| logits.at(&[token, expert]).wide()).collect();
            let scores = scores(&row, params.normalisation);
            let ranked: Vec<Ranked> = (0..experts)
                .map(|e| Ranked { rank: scores[e] + bias_of(e), made_of: vec![(row[e], bias_of(e))] })
                .collect();
            if let Some(allowed) = allowed(&ranked, &params) {
                assert!(
                    may_be_best(&ranked, &allowed, picked),
                    "token {token} went to {picked:?}: {params:?} {logits:?} {bias:?}"
                );
            }
            let sum = picked.iter().map(|&expert| scores[expert]).sum::<f64>() + params.eps;
            let divisor = if params.renormalise || params.normalisation == Normalisation::Sigmoid { sum } else { 1.0 };
            weight_due.extend(picked.iter().map(|&expert| {
                let weight = scores[expert] / divisor * params.scale;
                Due::near(weight, weight * 2.0 * loose).to(dtype)
            }));
            score_due.extend(scores.iter().map(|&score| wants_scores.then(|| Due::near(score, score * loose))));
        }
        bench.check(&[&logits], &weights, &weight_due);
        bench.check_part(&[&logits], &all, score_due);
        let distinct: Vec<Due> = picked.iter().map(|&id| Due::Exactly(Int(id as i64))).collect();
        bench.check(&[&logits], &chosen, &distinct);
    });
}

#[test]
fn ties_go_to_the_lower_expert() {
    let flat = |experts: usize| -> Vec<Ranked> {
        (0..experts).map(|_| Ranked { rank: 1.0, made_of: vec![(0.0, 0.0)] }).collect()
    };
    assert!(may_be_best(&flat(3), &[true; 3], &[0, 1]) && !may_be_best(&flat(3), &[true; 3], &[1, 0]));
    cases("moe_gating_top_k of equal logits", 20, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let (experts, params) = parameters(bench);
        let (logits, laid): (Host, _) = bench.input(dtype, &[2, experts], Values::Index(1, 2));
        let mut weights = bench.output(dtype, &[2, params.k]);
        let mut chosen = bench.output(DType::I32, &[2, params.k]);
        bench.run(|sequence| {
            let (mut weights, mut chosen) = (weights.view_mut(), chosen.view_mut());
            op::moe_gating_top_k(sequence, &laid.view(), None, &params, &mut weights, &mut chosen, None)
        });
        let due: Vec<Due> = coordinates(&[2, params.k]).iter().map(|at| Due::Exactly(Int(at[1] as i64))).collect();
        bench.check(&[&logits], &chosen, &due);
    });
}

#[test]
fn softmax_gating() {
    cases("moe_gating_top_k_softmax", 200, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let (tokens, experts) = (bench.random.below(6), 1 + bench.random.below(24));
        let k = 1 + bench.random.below(experts.min(8));
        // Different logits are so far apart that f32 tells their softmax apart.
        let (logits, laid) = bench.input(dtype, &[tokens, experts], Values::Grid);
        let (finished, finished_laid) = bench.input(DType::Bool, &[tokens], Values::Wild);
        let (ends, second) = (bench.random.once(2), bench.random.once(2));
        let over = if second { bench.random.pick(&[SoftmaxOver::All, SoftmaxOver::Chosen]) } else { SoftmaxOver::All };
        let mut weights = bench.output_in(Layout::Packed, dtype, &[tokens, k]);
        let mut chosen = bench.output_in(Layout::Packed, DType::I32, &[tokens, k]);
        let mut rows = bench.output_in(Layout::Packed, DType::I32, &[tokens, k]);
        let mut all = bench.output_in(Layout::Packed, DType::F32, &[tokens, experts]);
        bench.run(|sequence| {
            let finished = ends.then(|| finished_laid.view());
            let (logits, finished) = (laid.view(), finished.as_ref());
            let (mut weights, mut chosen) = (weights.view_mut(), chosen.view_mut());
            if second {
                let mut all = all.view_mut();
                let all = (over == SoftmaxOver::All).then_some(&mut all);
                op::moe_gating_top_k_softmax_v2(sequence, &logits, finished, over, &mut weights, &mut chosen, all)
            } else {
                let mut rows = rows.view_mut();
                op::moe_gating_top_k_softmax(sequence, &logits, finished, &mut weights, &mut chosen, &mut rows)
            }
        });
        let loose = (experts as f64 + 8.0) * EPS;
        let near = |value: f64| Due::near(value, 2.0 * loose * value);
        let (mut weight_due, mut chosen_due, mut all_due) = (Vec::new(), Vec::new(), Vec::new());
        for token in 0..tokens {
            let row: Vec<f64> = (0..experts).map(|expert| logits.at(&[token, expert]).wide()).collect();
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            let softmax = scores(&row, Normalisation::Softmax);
            let picked: Vec<f64> = order[..k].iter().map(|&expert| row[expert]).collect();
            let of_picked = scores(&picked, Normalisation::Softmax);
            let ended = ends && finished.values[token].int() != 0;
            for (j, &expert) in order[..k].iter().enumerate() {
                let weight = if over == SoftmaxOver::All { softmax[expert] } else { of_picked[j] };
                weight_due.push(near(weight).to(dtype));
                chosen_due.push(Due::Exactly(Int(if ended { experts } else { expert } as i64)));
            }
            all_due.extend(softmax.iter().map(|&score| (second && over == SoftmaxOver::All).then(|| near(score))));
        }
        bench.check(&[&logits], &weights, &weight_due);
        bench.check(&[&logits, &finished], &chosen, &chosen_due);
        bench.check_part(&[&logits], &all, all_due);
        let by_column = |at: &Vec<usize>| (!second).then(|| Due::Exactly(Int((at[1] * tokens + at[0]) as i64)));
        bench.check_part(&[&logits], &rows, coordinates(&[tokens, k]).iter().map(by_column));
    });
}
