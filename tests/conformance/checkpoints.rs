//! Layers of real checkpoints in every type, against what the models that wrote them computed, with token numbers and
//! routings at the edges.

use ascend_moe::checkpoint::Checkpoint;
use ascend_moe::layer::{LayerInput, LayerOptions, LayerOutput, MoeLayer};
use ascend_moe::spec::{Choice, FloatType};
use ascend_moe::{Stream, Tensor};

use crate::files::{self, CHECKPOINTS, DTYPES, Recorded, assert_near};
use crate::fillings::Rig;
use crate::reference::Layer;
use crate::{Case, case};

/// More tokens than any tile of an operator has rows; no multiple of one.
const MANY: usize = 1031;

pub(crate) fn cases() -> Vec<Case> {
    type Body = fn(&Rig, &str, FloatType, f64);
    let bodies: [(&str, Body); 4] = [
        ("recorded", recorded),
        ("one_token_and_none", one_token_and_none),
        ("many_tokens", many_tokens),
        ("one_expert_gets_all", one_expert_gets_all),
    ];
    let mut cases = Vec::new();
    for checkpoint in CHECKPOINTS {
        for (dtype, tolerance) in DTYPES {
            for (name, body) in bodies {
                let name = format!("checkpoints::{checkpoint}::{dtype}::{name}");
                cases.push(case(name, move |rig: &Rig| body(rig, checkpoint, dtype, tolerance)));
            }
        }
    }
    cases
}

pub(crate) fn load(rig: &Rig, checkpoint: &Checkpoint, layer: usize, dtype: FloatType) -> MoeLayer {
    let weights = checkpoint.layer_weights(layer).unwrap();
    MoeLayer::load(&rig.stream, &weights, LayerOptions::new(dtype), &mut |_, _| {}).unwrap()
}

/// Activations `[T, H]` on the device, in the layer's type.
pub(crate) fn activations(layer: &MoeLayer, values: &[f32]) -> Tensor {
    let hidden = layer.spec().experts().hidden;
    Tensor::from_f32(layer.device(), layer.dtype(), values, &[values.len() / hidden, hidden]).unwrap()
}

/// What was recorded, on the device: activations, and token ids where experts are chosen by them.
pub(crate) struct Given {
    pub(crate) x: Tensor,
    router_input: Option<Tensor>,
    ids: Option<Tensor>,
}

impl Given {
    pub(crate) fn new(layer: &MoeLayer, recorded: &Recorded) -> Self {
        let ids = || Tensor::from_slice(layer.device(), &recorded.token_ids, &[recorded.tokens]).unwrap();
        let by_id = matches!(layer.spec().router().choice, Choice::Table { .. });
        let router_input = recorded.router_input.as_deref().map(|seen| activations(layer, seen));
        Self { x: activations(layer, &recorded.input), router_input, ids: by_id.then(ids) }
    }

    pub(crate) fn input(&self) -> LayerInput<'_> {
        let mut input = LayerInput::from(self.x.view());
        if let Some(seen) = &self.router_input {
            input = input.with_router_input(seen.view());
        }
        match &self.ids {
            Some(ids) => input.with_token_ids(ids.view()),
            None => input,
        }
    }
}

/// A result on the host, bit for bit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    pub(crate) output: Vec<u32>,
    pub(crate) ids: Vec<i32>,
    pub(crate) weights: Vec<u32>,
    pub(crate) counts: Vec<i64>,
}

impl Bits {
    pub(crate) fn of(stream: &Stream, result: &LayerOutput) -> Self {
        Self {
            output: bits(stream, &result.output),
            ids: result.expert_ids.to_vec(stream).unwrap(),
            weights: bits(stream, &result.expert_weights),
            counts: result.expert_counts.to_vec(stream).unwrap(),
        }
    }

    /// Of a pass over what was recorded.
    pub(crate) fn recorded(stream: &Stream, layer: &MoeLayer, recorded: &Recorded) -> Self {
        Self::of(stream, &layer.forward(stream, Given::new(layer, recorded).input()).unwrap())
    }

    /// Of a forward pass.
    pub(crate) fn forward(stream: &Stream, layer: &MoeLayer, values: &[f32]) -> Self {
        Self::of(stream, &layer.forward(stream, activations(layer, values).view()).unwrap())
    }
}

/// Bits of the values of a tensor, each as an f32.
pub(crate) fn bits(stream: &Stream, tensor: &Tensor) -> Vec<u32> {
    tensor.to_f32(stream).unwrap().into_iter().map(f32::to_bits).collect()
}

/// How often each expert is chosen.
pub(crate) fn histogram(ids: &[i32], experts: usize) -> Vec<i64> {
    let mut counts = vec![0; experts];
    ids.iter().for_each(|&id| counts[usize::try_from(id).unwrap()] += 1);
    counts
}

/// The output is the recorded one; the router alone chooses the same; experts entered after the router give the same.
fn recorded(rig: &Rig, name: &str, dtype: FloatType, tolerance: f64) {
    let checkpoint = files::checkpoint(name);
    assert!(!checkpoint.moe_layers().is_empty());
    for &index in checkpoint.moe_layers() {
        let recorded = Recorded::of(&checkpoint, index);
        let layer = load(rig, &checkpoint, index, dtype);
        let given = Given::new(&layer, &recorded);
        let result = layer.forward(&rig.stream, given.input()).unwrap();
        let output = result.output.to_f32(&rig.stream).unwrap();
        assert_near(&output, recorded.output.iter().map(|&v| v.into()), tolerance, &format!("layer {index}"));

        let all = Bits::of(&rig.stream, &result);
        assert_eq!(all.counts, histogram(&all.ids, layer.spec().experts().num));
        assert_eq!(all.counts.iter().sum::<i64>() as usize, recorded.tokens * layer.spec().router().top_k);

        let (ids, weights) = layer.router().route(&rig.stream, given.input()).unwrap();
        assert_eq!(ids.to_vec::<i32>(&rig.stream).unwrap(), all.ids);
        assert_eq!(bits(&rig.stream, &weights), all.weights);

        let routed = layer.forward_routed(&rig.stream, given.x.view(), ids.view(), weights.view()).unwrap();
        assert_eq!(bits(&rig.stream, &routed.output), all.output);
        assert_eq!(routed.expert_counts.to_vec::<i64>(&rig.stream).unwrap(), all.counts);
    }
}

fn one_token_and_none(rig: &Rig, name: &str, dtype: FloatType, tolerance: f64) {
    let checkpoint = files::checkpoint(name);
    let index = checkpoint.moe_layers()[0];
    let layer = load(rig, &checkpoint, index, dtype);
    let (experts, top_k) = (layer.spec().experts().num, layer.spec().router().top_k);

    let before = rig.operator_calls();
    let nothing = Given::new(&layer, &Recorded::of(&checkpoint, index).repeated(0));
    let x = &nothing.x;
    let none = layer.forward(&rig.stream, nothing.input()).unwrap();
    let hidden = layer.spec().experts().hidden as i64;
    assert_eq!(none.output.shape(), [0, hidden]);
    assert_eq!(none.expert_ids.shape(), [0, top_k as i64]);
    assert_eq!(none.expert_weights.shape(), [0, top_k as i64]);
    let empty = Bits { output: vec![], ids: vec![], weights: vec![], counts: vec![0; experts] };
    assert_eq!(Bits::of(&rig.stream, &none), empty);
    let (ids, weights) = (none.expert_ids.view(), none.expert_weights.view());
    let routed = layer.forward_routed(&rig.stream, x.view(), ids, weights).unwrap();
    assert_eq!(routed.output.shape(), [0, hidden]);
    assert_eq!(routed.expert_counts.to_vec::<i64>(&rig.stream).unwrap(), empty.counts);
    let (ids, weights) = layer.router().route(&rig.stream, nothing.input()).unwrap();
    assert_eq!((ids.shape(), weights.shape()), (none.expert_ids.shape(), none.expert_weights.shape()));
    assert_eq!(rig.operator_calls(), before, "no operator takes an empty tensor");

    let one = Recorded::of(&checkpoint, index).repeated(1);
    let result = layer.forward(&rig.stream, Given::new(&layer, &one).input()).unwrap();
    let output = result.output.to_f32(&rig.stream).unwrap();
    assert_near(&output, one.output.iter().map(|&v| v.into()), tolerance, "one token");
    let mut counts: Vec<i64> = result.expert_counts.to_vec(&rig.stream).unwrap();
    counts.retain(|&count| count != 0);
    assert_eq!(counts, vec![1; top_k], "one token goes to as many experts as it chooses, once each");

    // Counts of an earlier pass do not stay behind.
    let mut result = layer.new_output(0).unwrap();
    result.expert_counts.view_mut().copy_from_host(&rig.stream, &vec![7i64; experts]).unwrap();
    layer.forward_into(&rig.stream, nothing.input(), &mut result).unwrap();
    assert_eq!(result.expert_counts.to_vec::<i64>(&rig.stream).unwrap(), empty.counts);
}

fn many_tokens(rig: &Rig, name: &str, dtype: FloatType, tolerance: f64) {
    let checkpoint = files::checkpoint(name);
    let index = *checkpoint.moe_layers().last().unwrap();
    let recorded = Recorded::of(&checkpoint, index).repeated(MANY);
    let layer = load(rig, &checkpoint, index, dtype);
    let result = layer.forward(&rig.stream, Given::new(&layer, &recorded).input()).unwrap();
    let output = result.output.to_f32(&rig.stream).unwrap();
    assert_near(&output, recorded.output.iter().map(|&v| v.into()), tolerance, "many tokens");
    let counts: Vec<i64> = result.expert_counts.to_vec(&rig.stream).unwrap();
    assert_eq!(counts.iter().sum::<i64>() as usize, MANY * layer.spec().router().top_k);
}

/// Each expert in turn gets every token, and the others none; then the first and the last share them.
fn one_expert_gets_all(rig: &Rig, name: &str, dtype: FloatType, tolerance: f64) {
    const WEIGHT: f32 = 0.75;
    let checkpoint = files::checkpoint(name);
    let index = checkpoint.moe_layers()[0];
    let recorded = Recorded::of(&checkpoint, index);
    let layer = load(rig, &checkpoint, index, dtype);
    let reference = Layer::of(&checkpoint.layer_weights(index).unwrap());
    let (tokens, num) = (recorded.tokens, layer.spec().experts().num);
    let x = activations(&layer, &recorded.input);

    let check = |choice: &[usize]| {
        let width = choice.len();
        let ids: Vec<i32> = choice.iter().map(|&expert| expert as i32).cycle().take(tokens * width).collect();
        let weights = vec![WEIGHT; tokens * width];
        let ids_there = Tensor::from_slice(&rig.device, &ids, &[tokens, width]).unwrap();
        let weights_there = Tensor::from_f32(&rig.device, dtype, &weights, &[tokens, width]).unwrap();
        let routed = layer.forward_routed(&rig.stream, x.view(), ids_there.view(), weights_there.view()).unwrap();
        let chosen: Vec<(usize, f64)> = choice.iter().map(|&expert| (expert, WEIGHT.into())).collect();
        let due = recorded.input.chunks(recorded.hidden).flat_map(|x| {
            let x: Vec<f64> = x.iter().map(|&value| value.into()).collect();
            reference.token(&x, &chosen)
        });
        let output = routed.output.to_f32(&rig.stream).unwrap();
        assert_near(&output, due, tolerance, &format!("experts {choice:?}"));
        assert_eq!(routed.expert_counts.to_vec::<i64>(&rig.stream).unwrap(), histogram(&ids, num));
    };
    (0..num).for_each(|expert| check(&[expert]));
    check(&[num - 1, 0]);
}
