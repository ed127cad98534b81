//! Device memory: what a layer says it will take is what it takes, and layers on one stream share its scratch.

use ascend_moe::layer::{LayerOptions, MemoryPlan, MoeLayer};
use ascend_moe::spec::FloatType;
use ascend_moe::{Footprint, Stream};
use ascend_sys::FunctionId;

use crate::checkpoints::{Given, load};
use crate::files::{self, CHECKPOINTS, DTYPES, Recorded};
use crate::fillings::Rig;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for checkpoint in CHECKPOINTS {
        for (dtype, _) in DTYPES {
            let name = |what: &str| format!("memory::{checkpoint}::{dtype}::{what}");
            cases.push(case(name("plan_is_the_peak"), move |rig: &Rig| plan_is_the_peak(rig, checkpoint, dtype)));
            cases.push(case(name("layers_share_scratch"), move |rig: &Rig| {
                layers_share_scratch(rig, checkpoint, dtype)
            }));
        }
    }
    cases
}

fn plan(rig: &Rig, name: &str, layer: usize, dtype: FloatType, tokens: usize) -> MemoryPlan {
    let checkpoint = files::checkpoint(name);
    let spec = checkpoint.model().moe(layer).unwrap();
    MoeLayer::memory_plan(&rig.device, spec, LayerOptions::new(dtype), tokens).unwrap()
}

/// Told before anything is allocated; reached by loading and one pass, and not exceeded by further ones.
fn plan_is_the_peak(rig: &Rig, name: &str, dtype: FloatType) {
    let checkpoint = files::checkpoint(name);
    let index = checkpoint.moe_layers()[0];
    for tokens in [0, 1, 23, 300] {
        // Scratch stays with its stream: each number of tokens gets one of its own.
        let stream = Stream::new(&rig.device).unwrap();
        let plan = plan(rig, name, index, dtype, tokens);
        assert_eq!(rig.device.bytes_in_use(), 0, "a plan holds nothing");
        rig.device.reset_peak_bytes();

        let recorded = Recorded::of(&checkpoint, index).repeated(tokens);
        let layer = load(rig, &checkpoint, index, dtype);
        assert_eq!(rig.device.peak_bytes(), plan.weights, "{tokens} tokens: weights");
        let given = Given::new(&layer, &recorded);
        let mut result = layer.forward(&stream, given.input()).unwrap();
        assert_eq!(rig.device.peak_bytes(), plan.device_bytes(), "{tokens} tokens: {plan:?}");
        assert_eq!(rig.device.bytes_in_use(), plan.device_bytes(), "what a pass takes it keeps for the next");

        let table = rig.cann.table();
        let allocations = || table.calls(FunctionId::aclrtMalloc) + table.calls(FunctionId::aclrtMallocAlign32);
        let before = allocations();
        for _ in 0..3 {
            layer.forward_into(&stream, given.input(), &mut result).unwrap();
        }
        assert_eq!((allocations(), rig.device.peak_bytes()), (before, plan.device_bytes()), "a steady state");

        stream.synchronize().unwrap();
        drop((layer, given, result));
        assert_eq!(rig.device.bytes_in_use(), plan.scratch.allocation(), "only the stream holds memory");
    }
}

/// Two layers on one stream need the larger scratch of the two, on two streams the sum.
fn layers_share_scratch(rig: &Rig, name: &str, dtype: FloatType) {
    const TOKENS: [usize; 2] = [23, 90];
    let checkpoint = files::checkpoint(name);
    let indices = [checkpoint.moe_layers()[0], checkpoint.moe_layers()[1]];
    let plans = [0, 1].map(|i| plan(rig, name, indices[i], dtype, TOKENS[i]));
    let held: u64 = plans.iter().map(|plan| plan.weights + plan.in_out).sum();
    let footprints: [Footprint; 2] = plans.map(|plan| plan.scratch);
    assert!(footprints[0].bytes() > 0 && footprints[0] != footprints[1]);

    let layers = indices.map(|index| load(rig, &checkpoint, index, dtype));
    let inputs = [0, 1].map(|i| Given::new(&layers[i], &Recorded::of(&checkpoint, indices[i]).repeated(TOKENS[i])));
    let run = |streams: [&Stream; 2]| {
        let results = [0, 1].map(|i| layers[i].forward(streams[i], inputs[i].input()).unwrap());
        streams.into_iter().for_each(|stream| stream.synchronize().unwrap());
        let in_use = rig.device.bytes_in_use();
        drop(results);
        in_use
    };
    let one = footprints[0].max(footprints[1]).allocation();
    let stream = Stream::new(&rig.device).unwrap();
    assert_eq!(run([&stream, &stream]), held + one);
    drop(stream);

    let streams = [0, 1].map(|_| Stream::new(&rig.device).unwrap());
    let both: u64 = footprints.iter().map(|footprint| footprint.allocation()).sum();
    assert_eq!(run([&streams[0], &streams[1]]), held + both);
}
