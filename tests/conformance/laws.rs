//! Laws of a layer, on layers and activations of random shapes and values: on the simulator in process, bit for bit.

use ascend_moe::Tensor;
use ascend_moe::layer::{LayerOptions, MoeLayer};
use ascend_moe::spec::{
    Choice, ExpertSpec, FloatType, GroupScore, GroupSpec, MoeSpec, Normalise, Precision, RouterSpec, Score, SharedSpec,
};
use libtest_mimic::Trial;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::checkpoints::{Bits, activations, bits, histogram};
use crate::fillings::Rig;
use crate::synthetic::{Synthetic, random};
use crate::trial;

const CASES: u32 = 32;

pub(crate) fn trials() -> Vec<Trial> {
    type Law = fn(&Rig, &Sample) -> Result<(), TestCaseError>;
    let laws: [(&str, Law); 4] = [
        ("counts_add_up", counts_add_up),
        ("tokens_do_not_know_their_place", tokens_do_not_know_their_place),
        ("chunks_give_the_whole", chunks_give_the_whole),
        ("weight_zero_removes_an_expert", weight_zero_removes_an_expert),
    ];
    laws.map(|(name, law)| {
        trial(format!("in_process::laws::{name}"), move || {
            let rig = Rig::simulated(|_| {});
            let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
            runner.run(&samples(), |sample| law(&rig, &sample)).unwrap_or_else(|error| panic!("{error}"));
            rig.close();
        })
    })
    .into()
}

/// A layer and activations for it.
#[derive(Clone, Debug)]
struct Sample {
    spec: MoeSpec,
    dtype: FloatType,
    tokens: usize,
    seed: u64,
    /// A random number for each token.
    order: Vec<u32>,
}

fn samples() -> impl Strategy<Value = Sample> {
    let sizes = (1..=96usize, 1..=12usize, 8..=72usize, 1..=40usize, prop::option::of(1..=40usize));
    let router = (any::<[bool; 3]>(), 1..=6usize, 0.5..3.0);
    let dtype = prop::sample::select(vec![FloatType::F32, FloatType::Bf16, FloatType::F16]);
    (sizes, router, dtype, any::<u64>(), prop::collection::vec(any::<u32>(), 96)).prop_map(
        |(
            (tokens, experts, hidden, inner, shared),
            ([sigmoid, normalised, model], top_k, scale),
            dtype,
            seed,
            order,
        )| {
            let groups = sigmoid && experts % 3 == 0 && experts >= 6;
            let most = if groups { experts / 3 * 2 } else { experts };
            let score = if sigmoid { Score::Sigmoid } else { Score::Softmax };
            let mut router = RouterSpec::new(score, top_k.min(most));
            router.choice_bias = sigmoid;
            if groups {
                router.choice = Choice::Groups(GroupSpec::new(3, 2, GroupScore::Top2Sum));
            }
            router.norm = match (sigmoid, normalised) {
                (true, _) => Normalise::Sum { eps: 1e-20 },
                (false, true) => Normalise::Sum { eps: 0.0 },
                (false, false) => Normalise::None,
            };
            router.scale = scale;
            if model {
                (router.logits, router.weights) = (Precision::Model, Precision::Model);
            }
            let experts = ExpertSpec::new(experts, hidden, inner);
            let spec = MoeSpec::new(router, experts, shared.map(SharedSpec::new)).unwrap();
            Sample { spec, dtype, tokens, seed, order: order[..tokens].to_vec() }
        },
    )
}

impl Sample {
    fn layer(&self, rig: &Rig) -> MoeLayer {
        let weights = Synthetic::new(self.spec, self.seed);
        MoeLayer::load(&rig.stream, &weights, LayerOptions::new(self.dtype), &mut |_, _| {}).unwrap()
    }

    /// `[tokens, hidden]`.
    fn input(&self) -> Vec<f32> {
        random(!self.seed, self.tokens * self.spec.experts().hidden, 1.5)
    }

    fn hidden(&self) -> usize {
        self.spec.experts().hidden
    }

    fn top_k(&self) -> usize {
        self.spec.router().top_k
    }
}

/// Rows of `width` values, put in the order given.
fn permuted<T: Copy>(values: &[T], width: usize, order: &[usize]) -> Vec<T> {
    order.iter().flat_map(|&row| values[row * width..][..width].iter().copied()).collect()
}

/// Every token goes to `k` different experts, the counts say to which, and normalised weights add up to the scale.
fn counts_add_up(rig: &Rig, sample: &Sample) -> Result<(), TestCaseError> {
    let result = Bits::forward(&rig.stream, &sample.layer(rig), &sample.input());
    prop_assert_eq!(&result.counts, &histogram(&result.ids, sample.spec.experts().num));
    prop_assert_eq!(result.counts.iter().sum::<i64>() as usize, sample.tokens * sample.top_k());
    for row in result.ids.chunks(sample.top_k()) {
        let mut distinct = row.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), sample.top_k(), "experts {:?}", row);
    }
    let scale = sample.spec.router().scale;
    // Half of the last place of a weight in the coarsest type, for each weight.
    let tolerance = scale * if sample.dtype == FloatType::F32 { 1e-6 } else { 2f64.powi(-8) };
    for row in result.weights.chunks(sample.top_k()) {
        let sum: f64 = row.iter().map(|&bits| f64::from(f32::from_bits(bits))).sum();
        match sample.spec.router().norm {
            Normalise::Sum { .. } => {
                prop_assert!((sum - scale).abs() <= tolerance, "weights add up to {sum}, not {scale}")
            }
            _ => prop_assert!(sum > 0.0 && sum <= scale + tolerance, "weights add up to {sum}"),
        }
    }
    prop_assert!(result.output.iter().all(|&bits| f32::from_bits(bits).is_finite()));
    Ok(())
}

/// Tokens in another order give the same rows in that order.
fn tokens_do_not_know_their_place(rig: &Rig, sample: &Sample) -> Result<(), TestCaseError> {
    let mut order: Vec<usize> = (0..sample.tokens).collect();
    order.sort_by_key(|&token| sample.order[token]);
    let (layer, input) = (sample.layer(rig), sample.input());
    let result = Bits::forward(&rig.stream, &layer, &input);
    let other = Bits::forward(&rig.stream, &layer, &permuted(&input, sample.hidden(), &order));
    let due = Bits {
        output: permuted(&result.output, sample.hidden(), &order),
        ids: permuted(&result.ids, sample.top_k(), &order),
        weights: permuted(&result.weights, sample.top_k(), &order),
        counts: result.counts,
    };
    prop_assert_eq!(other, due);
    Ok(())
}

/// Tokens in chunks, one pass after the other, give what they give in one pass.
fn chunks_give_the_whole(rig: &Rig, sample: &Sample) -> Result<(), TestCaseError> {
    let (layer, input) = (sample.layer(rig), sample.input());
    let whole = Bits::forward(&rig.stream, &layer, &input);
    let mut sum = Bits { output: vec![], ids: vec![], weights: vec![], counts: vec![0; sample.spec.experts().num] };
    let mut from = 0;
    while from < sample.tokens {
        let to = sample.tokens.min(from + 1 + sample.order[from] as usize % 40);
        let chunk = Bits::forward(&rig.stream, &layer, &input[from * sample.hidden()..to * sample.hidden()]);
        sum.output.extend(chunk.output);
        sum.ids.extend(chunk.ids);
        sum.weights.extend(chunk.weights);
        sum.counts.iter_mut().zip(chunk.counts).for_each(|(sum, count)| *sum += count);
        from = to;
    }
    prop_assert_eq!(sum, whole);
    Ok(())
}

/// An expert of weight 0 adds nothing: the same as if it had not been chosen.
fn weight_zero_removes_an_expert(rig: &Rig, sample: &Sample) -> Result<(), TestCaseError> {
    let k = sample.top_k();
    prop_assume!(k >= 2);
    let layer = sample.layer(rig);
    let x = activations(&layer, &sample.input());
    let (ids, weights) = layer.router().route(&rig.stream, x.view()).unwrap();
    let ids: Vec<i32> = ids.to_vec(&rig.stream).unwrap();
    let weights = weights.to_f32(&rig.stream).unwrap();
    let removed = |token: usize| sample.order[token] as usize % k;
    let forward = |ids: &[i32], weights: &[f32]| {
        let shape = [sample.tokens, ids.len() / sample.tokens];
        let ids = Tensor::from_slice(&rig.device, ids, &shape).unwrap();
        let weights = Tensor::from_f32(&rig.device, sample.dtype, weights, &shape).unwrap();
        let routed = layer.forward_routed(&rig.stream, x.view(), ids.view(), weights.view()).unwrap();
        bits(&rig.stream, &routed.output)
    };
    let is_kept = |slot: usize| slot % k != removed(slot / k);
    let zeroed: Vec<f32> = weights.iter().enumerate().map(|(s, &w)| if is_kept(s) { w } else { 0.0 }).collect();
    let kept: Vec<usize> = (0..ids.len()).filter(|&slot| is_kept(slot)).collect();
    let fewer_ids: Vec<i32> = kept.iter().map(|&slot| ids[slot]).collect();
    let fewer_weights: Vec<f32> = kept.iter().map(|&slot| weights[slot]).collect();
    let without = forward(&fewer_ids, &fewer_weights);
    prop_assert_eq!(&forward(&ids, &zeroed), &without);
    prop_assert!(forward(&ids, &weights) != without, "the expert that was removed made no difference");
    Ok(())
}
