//! Chunked prefill: a million tokens within a limit of memory, run at a small width and planned at DeepSeek-V3's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected ends, and says so")]

#[path = "conformance/synthetic.rs"]
mod synthetic;

use ascend_moe::layer::{LayerOptions, LayerOutput, MoeLayer};
use ascend_moe::spec::{
    Choice, ExpertSpec, FloatType, GroupScore, GroupSpec, MoeSpec, Normalise, Precision, RouterSpec, Score, SharedSpec,
};
use ascend_moe::{Cann, DType, Device, Error, Stream, Tensor};
use bytemuck::Pod;
use cann_sim::{Config, Mode, Sim};
use half::bf16;
use synthetic::{Synthetic, random};

const TOKENS: usize = 1_000_000;

struct Rig {
    stream: Stream,
    device: Device,
    sim: Sim,
}

fn rig(hbm: u64) -> Rig {
    let sim = Sim::start(Config { mode: Mode::Strict, hbm: Some(hbm), ..Config::default() }).unwrap();
    let device = Cann::from_table(sim.table()).unwrap().device(0).unwrap();
    Rig { stream: Stream::new(&device).unwrap(), device, sim }
}

/// A million tokens of width 256, their rows made from a table of 4096 with a factor of their own.
fn activations(rig: &Rig, hidden: usize) -> Tensor {
    const BLOCK: usize = 4096;
    let table = random(3, BLOCK * hidden, 1.5);
    let mut x = Tensor::zeros(&rig.device, DType::Bf16, &[TOKENS, hidden]).unwrap();
    let mut block: Vec<bf16> = Vec::with_capacity(BLOCK * hidden);
    for first in (0..TOKENS).step_by(BLOCK) {
        let rows = first..TOKENS.min(first + BLOCK);
        let factor = 1.0 + first as f32 * 1e-6;
        block.clear();
        block.extend(table[..rows.len() * hidden].iter().map(|&value| bf16::from_f32(value * factor)));
        x.view_mut().rows(rows).unwrap().copy_from_host(&rig.stream, &block).unwrap();
    }
    x
}

/// Whether two tensors have the same bytes, some rows at a time.
fn same<T: Pod + ascend_moe::Element + PartialEq>(rig: &Rig, a: &Tensor, b: &Tensor) -> bool {
    const ROWS: usize = 1 << 16;
    assert_eq!(a.shape(), b.shape());
    let count = a.shape()[0] as usize;
    (0..count).step_by(ROWS).all(|first| {
        let [a, b] = [a, b].map(|tensor| {
            tensor.view().rows(first..count.min(first + ROWS)).unwrap().to_vec::<T>(&rig.stream).unwrap()
        });
        a == b
    })
}

#[test]
fn a_million_tokens_in_chunks_give_the_bits_of_one_pass() {
    let rig = rig(8 << 30);
    let mut router = RouterSpec::new(Score::Softmax, 1);
    (router.logits, router.weights) = (Precision::Model, Precision::Model);
    let hidden = 256;
    let spec = MoeSpec::new(router, ExpertSpec::new(4, hidden, 8), None).unwrap();
    let options = LayerOptions::new(FloatType::Bf16);
    let layer = MoeLayer::load(&rig.stream, &Synthetic::new(spec, 1), options, &mut |_, _| {}).unwrap();
    let x = activations(&rig, hidden);
    let mut whole = layer.new_output(TOKENS).unwrap();
    let side = Stream::new(&rig.device).unwrap();
    layer.forward_into(&side, x.view(), &mut whole).unwrap();
    side.synchronize().unwrap();
    // Its scratch goes with its stream.
    drop(side);

    let limit = 64 << 20;
    let plan = MoeLayer::chunk_plan(&rig.device, &spec, options, TOKENS, limit).unwrap();
    assert!(plan.memory.scratch.allocation() <= limit && plan.chunks() > 10, "{plan:?}");
    let mut chunked = layer.new_output(TOKENS).unwrap();
    let before = rig.device.bytes_in_use();
    rig.device.reset_peak_bytes();
    layer.forward_chunked(&rig.stream, x.view(), plan.chunk, &mut chunked).unwrap();
    rig.stream.synchronize().unwrap();
    assert_eq!(rig.device.peak_bytes() - before, plan.memory.scratch.allocation(), "the scratch that was announced");
    let LayerOutput { output, expert_ids, expert_weights, expert_counts, .. } = &whole;
    assert!(same::<bf16>(&rig, output, &chunked.output), "output");
    assert!(same::<i32>(&rig, expert_ids, &chunked.expert_ids), "ids");
    match expert_weights.dtype() {
        DType::F32 => assert!(same::<f32>(&rig, expert_weights, &chunked.expert_weights), "weights"),
        _ => assert!(same::<bf16>(&rig, expert_weights, &chunked.expert_weights), "weights"),
    }
    let [counts, sums] =
        [expert_counts, &chunked.expert_counts].map(|counts| counts.to_vec::<i64>(&rig.stream).unwrap());
    assert_eq!(counts, sums);
    assert_eq!(counts.iter().sum::<i64>() as usize, TOKENS);
    assert!(counts.iter().all(|&count| count > 1000), "every expert takes part: {counts:?}");
    drop((layer, x, whole, chunked));
    assert_eq!(rig.sim.report(), []);
}

const HIDDEN: usize = 7168;
const INNER: usize = 2048;
const EXPERTS: usize = 256;
const TOP_K: usize = 8;

/// DeepSeek-V3's layer.
fn deepseek() -> MoeSpec {
    let mut router = RouterSpec::new(Score::Sigmoid, TOP_K);
    router.choice_bias = true;
    router.choice = Choice::Groups(GroupSpec::new(8, 4, GroupScore::Top2Sum));
    router.norm = Normalise::Sum { eps: 1e-20 };
    router.scale = 2.5;
    MoeSpec::new(router, ExpertSpec::new(EXPERTS, HIDDEN, INNER), Some(SharedSpec::new(INNER))).unwrap()
}

/// Device bytes of the stream's allocation for a chunk, from the steps of a pass in bf16: each temporary tensor is rounded to
/// 32 bytes, gets 32 more and begins at a multiple of 512; behind them is the workspace of 16 MiB that the simulator's
/// operators ask for.
fn scratch_of(tokens: usize) -> u64 {
    let rows = tokens * TOP_K;
    let tensors = [
        4 * tokens * HIDDEN,    // x in fp32
        4 * tokens * EXPERTS,   // logits
        4 * tokens * EXPERTS,   // scores, which the gating operator gives in any case
        2 * tokens * HIDDEN,    // what the shared expert gives
        2 * tokens * 2 * INNER, // its gate and up
        2 * tokens * INNER,     // its activation
        2 * rows * HIDDEN,      // expanded rows
        4 * rows,               // their places
        4 * rows,               // their scales, which the operator gives in any case
        2 * rows * 2 * INNER,   // gate and up
        2 * rows * INNER,       // activation
        8 * EXPERTS,            // counts of the chunk
        8 * EXPERTS,            // and their sum with those before
        16 << 20,               // workspace
    ];
    let slot = |bytes: usize| (bytes.next_multiple_of(32) + 32).next_multiple_of(512) as u64;
    tensors.map(slot).iter().sum()
}

fn held(bytes: usize) -> u64 {
    ((bytes + 63) / 32 * 32) as u64
}

#[test]
fn a_million_tokens_of_deepseek_v3_are_announced() {
    // A plan takes no memory: the device is far too small for what it tells.
    let rig = rig(1 << 30);
    let (spec, options) = (deepseek(), LayerOptions::new(FloatType::Bf16));
    let plan = |limit| MoeLayer::chunk_plan(&rig.device, &spec, options, TOKENS, limit);
    let weights = [
        4 * EXPERTS * HIDDEN,
        4 * EXPERTS,
        2 * EXPERTS * 2 * INNER * HIDDEN,
        2 * EXPERTS * HIDDEN * INNER,
        2 * 2 * INNER * HIDDEN,
        2 * HIDDEN * INNER,
    ];
    let weights: u64 = weights.map(held).iter().sum();
    let in_out = [2 * TOKENS * HIDDEN, 2 * TOKENS * HIDDEN, 4 * TOKENS * TOP_K, 4 * TOKENS * TOP_K, 8 * EXPERTS];
    let in_out: u64 = in_out.map(held).iter().sum();
    for limit in [256u64 << 20, 1 << 30, 4 << 30, 16 << 30] {
        let plan = plan(limit).unwrap();
        assert_eq!((plan.memory.weights, plan.memory.in_out), (weights, in_out));
        let chunk = plan.chunk;
        assert!(scratch_of(chunk) <= limit && limit < scratch_of(chunk + 1), "{limit}: {plan:?}");
        assert_eq!(plan.memory.scratch.bytes(), scratch_of(chunk), "{limit}: {chunk}");
        assert_eq!(plan.memory.device_bytes(), weights + in_out + scratch_of(chunk), "{limit}");
        assert_eq!(plan.chunks(), TOKENS.div_ceil(chunk));
    }
    for limit in [0, 1, scratch_of(1) - 1] {
        match plan(limit) {
            Err(Error::Shape { what: "scratch limit", found, legal }) => {
                assert_eq!((found, legal), (format!("{limit} bytes"), format!("at least {}", scratch_of(1))));
            }
            other => panic!("{limit}: {other:?}"),
        }
    }
    assert_eq!(plan(scratch_of(1)).unwrap().chunk, 1);
    assert_eq!(rig.device.bytes_in_use(), 0);
    assert_eq!(rig.sim.report(), []);
}
