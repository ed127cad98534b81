//! Passes of layers of every kind as an engine runs them: memory announced, nothing allocated and nothing waited for in steady
//! state, several streams and threads, weights replaced, graphs.

use std::thread;

use ascend_moe::layer::{LayerOutput, MoeLayer, Pass};
use ascend_moe::spec::{FloatType, Part};
use ascend_moe::{CaptureMode, DType, Error, Release, Stream, Tensor};
use ascend_sys::{ALL_IDS, FunctionId};
use libtest_mimic::Trial;

use crate::checkpoints::Bits;
use crate::files::{DTYPES, assert_near};
use crate::fillings::Rig;
use crate::kinds::{Given, Kind, kinds};
use crate::{Case, case, trial};

const TOKENS: usize = 37;

type Body = fn(&Rig, &Kind);

const BODIES: [(&str, Body); 10] = [
    ("plan_is_the_peak", plan_is_the_peak),
    ("routed_plan_is_the_peak", routed_plan_is_the_peak),
    ("queues_and_nothing_else", queues_and_nothing_else),
    ("padding_reaches_nobody", padding_reaches_nobody),
    ("overlapped_gives_the_same", overlapped_gives_the_same),
    ("weights_are_replaced_between_passes", weights_are_replaced),
    ("chunks_within_a_limit", chunks_within_a_limit),
    ("captured", captured),
    ("overlapped_and_captured", overlapped_and_captured),
    ("a_graph_is_put_on_other_tensors", updated),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![case("passes::threads", threads), case("passes::layers_share_scratch", layers_share_scratch)];
    for kind in kinds() {
        for (name, body) in BODIES {
            cases.push(case(format!("passes::{}::{name}", kind.name), move |rig: &Rig| body(rig, &kind)));
        }
    }
    cases
}

/// The same in the older releases, where more routers are composed.
pub(crate) fn trials() -> Vec<Trial> {
    let releases = [Release::new(8, 5, 0), Release::new(9, 0, 0)];
    let trials = releases.into_iter().flat_map(|release| kinds().into_iter().map(move |kind| (release, kind)));
    trials
        .filter(|(release, kind)| kind.runs_in(*release))
        .map(|(release, kind)| {
            trial(format!("in_process::passes::{}::all_in_{release}", kind.name), move || {
                for (_, body) in BODIES {
                    let rig = Rig::simulated(|config| config.release = release);
                    body(&rig, &kind);
                    rig.close();
                }
            })
        })
        .collect()
}

fn forward(stream: &Stream, layer: &MoeLayer, given: &Given) -> Bits {
    Bits::of(stream, &layer.forward(stream, given.input()).unwrap())
}

/// Told before anything is allocated; reached by loading and one pass, whatever the pass, and not exceeded by further ones.
fn plan_is_the_peak(rig: &Rig, kind: &Kind) {
    let overlapped = Pass::from(TOKENS).overlapped();
    let passes = [Pass::from(0), TOKENS.into(), Pass::from(TOKENS).padded(), overlapped, overlapped.padded()];
    for pass in passes.map(|pass| kind.pass(pass)) {
        let [stream, side] = [0, 1].map(|_| Stream::new(&rig.device).unwrap());
        let plan = MoeLayer::memory_plan(&rig.device, &kind.spec, kind.options(), pass).unwrap();
        assert_eq!(rig.device.bytes_in_use(), 0, "a plan holds nothing");
        assert_eq!(plan.side_scratch.bytes() > 0, pass.overlapped && kind.spec.shared().is_some(), "{pass:?}");
        rig.device.reset_peak_bytes();
        let layer = kind.layer(&stream);
        assert_eq!(rig.device.peak_bytes(), plan.weights, "{pass:?}: weights");
        let mut given = kind.given(&rig.device, pass.tokens, 3);
        if !pass.padded {
            given = given.unpadded();
        }
        let mut output = layer.new_output(pass.tokens).unwrap();
        for _ in 0..3 {
            if pass.overlapped {
                layer.forward_overlapped(&stream, &side, given.input(), &mut output).unwrap();
            } else {
                layer.forward_into(&stream, given.input(), &mut output).unwrap();
            }
            assert_eq!(rig.device.peak_bytes(), plan.device_bytes(), "{pass:?}: {plan:?}");
            assert_eq!(rig.device.bytes_in_use(), plan.device_bytes(), "{pass:?}: what it takes it keeps");
        }
        stream.synchronize().unwrap();
        side.synchronize().unwrap();
    }
}

/// The same for tokens that were routed elsewhere, to any number of experts, with weights of either type.
fn routed_plan_is_the_peak(rig: &Rig, kind: &Kind) {
    for (tokens, top_k, dtype) in [(0, 2, FloatType::F32), (TOKENS, 1, kind.dtype), (TOKENS, 3, FloatType::F32)] {
        let stream = Stream::new(&rig.device).unwrap();
        let pass = Pass::routed(tokens, top_k, dtype);
        let plan = MoeLayer::memory_plan(&rig.device, &kind.spec, kind.options(), pass).unwrap();
        rig.device.reset_peak_bytes();
        let layer = kind.layer(&stream);
        let given = Given { router_input: None, ids: None, ..kind.given(&rig.device, tokens, 3).unpadded() };
        let ids: Vec<i32> = (0..tokens * top_k).map(|slot| (slot * 5 % kind.spec.experts().num) as i32).collect();
        let ids = Tensor::from_slice(&rig.device, &ids, &[tokens, top_k]).unwrap();
        let weights = vec![0.5; tokens * top_k];
        let weights = Tensor::from_f32(&rig.device, dtype, &weights, &[tokens, top_k]).unwrap();
        let forward = || layer.forward_routed(&stream, given.x.view(), ids.view(), weights.view());
        let mut output = forward().unwrap();
        assert_eq!(rig.device.peak_bytes(), plan.device_bytes(), "{pass:?}: {plan:?}");
        for _ in 0..2 {
            layer.forward_routed_into(&stream, given.x.view(), ids.view(), weights.view(), &mut output).unwrap();
        }
        assert_eq!(rig.device.peak_bytes(), plan.device_bytes(), "{pass:?}");
        assert_eq!(rig.device.bytes_in_use(), plan.device_bytes(), "{pass:?}: what it takes it keeps");
        assert_eq!(output.expert_counts.to_vec::<i64>(&stream).unwrap().iter().sum::<i64>() as usize, tokens * top_k);
        stream.synchronize().unwrap();
    }
    let layer = kind.layer(&rig.stream);
    let given = kind.given(&rig.device, 2, 3);
    let ids = Tensor::zeros(&rig.device, DType::I32, &[2, 1]).unwrap();
    let refused = layer.forward_routed(&rig.stream, given.x.view(), ids.view(), ids.view());
    assert!(matches!(refused, Err(Error::DType { what: "expert weights", .. })), "{refused:?}");
}

/// Functions called so far, with their counts.
fn calls(rig: &Rig) -> Vec<(FunctionId, u64)> {
    ALL_IDS.iter().map(|&id| (id, rig.cann.table().calls(id))).collect()
}

/// What a pass may call of the runtime: nothing that allocates, copies, waits or asks.
fn assert_only_queues(rig: &Rig, before: &[(FunctionId, u64)], events: bool, what: &str) {
    for (now, before) in calls(rig).iter().zip(before) {
        let name = now.0.name();
        let queues = name.starts_with("aclnn") || name == "aclrtSetCurrentContext" || name == "aclrtMemsetAsync";
        let describes = name.starts_with("aclCreate") || name.starts_with("aclDestroy");
        let orders = events && (name == "aclrtRecordEvent" || name == "aclrtStreamWaitEvent");
        assert!(now.1 == before.1 || queues || describes || orders, "{what}: {name} was called");
    }
}

/// Once it is warm a pass queues, and does nothing else: its counts are on the device without anybody waiting.
fn queues_and_nothing_else(rig: &Rig, kind: &Kind) {
    let layer = kind.layer(&rig.stream);
    let side = Stream::new(&rig.device).unwrap();
    let given = kind.given(&rig.device, TOKENS, 2);
    let all = kind.given(&rig.device, TOKENS, 2).unpadded();
    let mut output = layer.new_output(TOKENS).unwrap();
    let mut overlapped = layer.new_output(TOKENS).unwrap();
    let (ids, weights) = layer.router().route(&rig.stream, all.input()).unwrap();
    let (ids, weights) = (ids.view(), weights.view());
    let mut routed = layer.forward_routed(&rig.stream, all.x.view(), ids, weights).unwrap();
    let mut run = |check: bool| {
        let before = calls(rig);
        layer.forward_into(&rig.stream, given.input(), &mut output).unwrap();
        layer.forward_into(&rig.stream, all.input(), &mut output).unwrap();
        layer.forward_chunked(&rig.stream, all.input(), 16, &mut output).unwrap();
        layer.forward_routed_into(&rig.stream, all.x.view(), ids, weights, &mut routed).unwrap();
        if check {
            assert_only_queues(rig, &before, false, "one stream");
        }
        layer.forward_overlapped(&rig.stream, &side, all.input(), &mut overlapped).unwrap();
        if check {
            assert_only_queues(rig, &before, true, "two streams");
        }
    };
    run(false);
    run(false);
    let peak = rig.device.bytes_in_use();
    (0..4).for_each(|_| run(true));
    assert_eq!(rig.device.bytes_in_use(), peak);
    let whole = Bits::of(&rig.stream, &output);
    assert_eq!(Bits::of(&rig.stream, &overlapped), whole);
    if !kind.spec.experts().weight_on_input && kind.spec.experts().zero == 0 {
        assert_eq!(crate::checkpoints::bits(&rig.stream, &routed.output), whole.output);
    }
    assert_eq!(routed.expert_counts.to_vec::<i64>(&rig.stream).unwrap(), whole.counts);
    // Its own experts' rows, and of others none.
    let due = whole.ids.iter().filter(|&&id| (id as usize) < kind.spec.experts().num).count();
    assert_eq!(whole.counts.iter().sum::<i64>() as usize, due);
}

/// Tokens behind the real ones change nothing of these, and count nowhere.
fn padding_reaches_nobody(rig: &Rig, kind: &Kind) {
    let layer = kind.layer(&rig.stream);
    let (hidden, k) = (kind.spec.experts().hidden, kind.spec.router().choices());
    for seed in 0..6 {
        let given = kind.given(&rig.device, TOKENS, seed);
        let valid = given.valid.as_ref().unwrap().to_vec::<i32>(&rig.stream).unwrap()[0] as usize;
        let padded = forward(&rig.stream, &layer, &given);
        let whole = forward(&rig.stream, &layer, &given.unpadded());
        // Other operators add up rows where some of them may be missing.
        let values = |bits: &[u32]| bits[..valid * hidden].iter().map(|&bits| f32::from_bits(bits)).collect::<Vec<_>>();
        let due = values(&whole.output).into_iter().map(f64::from);
        let tolerance = DTYPES.iter().find(|(dtype, _)| *dtype == kind.dtype).unwrap().1;
        assert_near(&values(&padded.output), due, tolerance, &format!("{valid} tokens"));
        assert_eq!(padded.ids[..valid * k], whole.ids[..valid * k]);
        assert_eq!(padded.weights[..valid * k], whole.weights[..valid * k]);
        let none = kind.spec.experts().routed() as i32;
        assert!(padded.ids[valid * k..].iter().all(|&id| id == none));
        assert!(padded.weights[valid * k..].iter().all(|&bits| bits == 0));
        let mut counts = vec![0i64; kind.spec.experts().num];
        let real = padded.ids[..valid * k].iter().filter_map(|&id| counts.get_mut(id as usize).map(|_| id as usize));
        real.collect::<Vec<_>>().into_iter().for_each(|id| counts[id] += 1);
        assert_eq!(padded.counts, counts);
    }
}

/// The shared expert beside the others gives the same bits, whichever stream is ahead; one stream captured alone is refused.
fn overlapped_gives_the_same(rig: &Rig, kind: &Kind) {
    let layer = kind.layer(&rig.stream);
    let side = Stream::new(&rig.device).unwrap();
    let mut given = kind.given(&rig.device, TOKENS, 1);
    let mut output = layer.new_output(TOKENS).unwrap();
    for seed in 1..6 {
        given.set(&rig.stream, &kind.given(&rig.device, TOKENS, seed));
        let due = forward(&rig.stream, &layer, &given);
        layer.forward_overlapped(&rig.stream, &side, given.input(), &mut output).unwrap();
        assert_eq!(Bits::of(&rig.stream, &output), due, "seed {seed}");
    }
    if kind.spec.shared().is_none() {
        return;
    }
    for (captured, other) in [(&rig.stream, &side), (&side, &rig.stream)] {
        let (main, beside) = (&rig.stream, &side);
        let graph = captured.capture(CaptureMode::Relaxed, || {
            let apart = layer.forward_overlapped(main, beside, given.input(), &mut output);
            assert!(matches!(apart, Err(Error::CapturedApart { .. })), "{apart:?}");
            Ok(())
        });
        graph.unwrap().launch(other).unwrap();
    }
}

/// Every part, and single experts of those that come expert by expert, while passes with the old ones are queued; a graph
/// captured before has the new ones.
fn weights_are_replaced(rig: &Rig, kind: &Kind) {
    let mut layer = kind.layer(&rig.stream);
    let given = kind.given(&rig.device, TOKENS, 4);
    let before = forward(&rig.stream, &layer, &given);
    let new = kind.weights(2);
    let expected = MoeLayer::load(&rig.stream, &new, kind.options(), &mut |_, _| {}).unwrap();
    let after = forward(&rig.stream, &expected, &given);
    assert!(before != after);

    let mut captured = layer.new_output(TOKENS).unwrap();
    let mut queued = layer.new_output(TOKENS).unwrap();
    layer.forward_into(&rig.stream, given.input(), &mut captured).unwrap();
    let capture = || layer.forward_into(&rig.stream, given.input(), &mut captured);
    let graph = rig.stream.capture(CaptureMode::ThreadLocal, capture).unwrap();

    let other = Stream::new(&rig.device).unwrap();
    layer.forward_into(&rig.stream, given.input(), &mut queued).unwrap();
    let num = kind.spec.experts().num;
    let ranges = [0..2, 2..2, 2..num];
    for part in Part::ALL {
        for range in ranges.iter().take(if part.per_expert() { 3 } else { 1 }).cloned() {
            let replaced = layer.replace_weights(&other, &new, part, range);
            match kind.spec.shape(part) {
                Some(_) => replaced.unwrap(),
                None => assert!(
                    matches!(replaced, Err(Error::Shape { what: "part of the weights", .. })),
                    "{part:?}: {replaced:?}"
                ),
            }
        }
    }
    assert_eq!(Bits::of(&rig.stream, &queued), before, "what was queued had the old ones");
    assert_eq!(forward(&rig.stream, &layer, &given), after);
    graph.launch(&rig.stream).unwrap();
    assert_eq!(Bits::of(&rig.stream, &captured), after, "a graph captured before");

    // Ranges that are none, and weights of another layer.
    #[allow(clippy::reversed_empty_ranges, reason = "what is refused")]
    for range in [0..num + 1, 3..2] {
        let refused = layer.replace_weights(&rig.stream, &new, Part::W2, range);
        assert!(matches!(refused, Err(Error::Shape { what: "experts", .. })), "{refused:?}");
    }
    let another = kinds().into_iter().find(|other| other.name != kind.name).unwrap();
    let refused = layer.replace_weights(&rig.stream, &another.weights(1), Part::W2, 0..1);
    assert!(matches!(refused, Err(Error::Shape { what: "weight source", .. })), "{refused:?}");
    // Not while the stream is captured; the weights stay as they are.
    let old = kind.weights(1);
    let refused = rig.stream.capture(CaptureMode::Relaxed, || layer.replace_weights(&rig.stream, &old, Part::W2, 0..1));
    assert!(matches!(refused, Err(Error::Capturing { .. })), "{refused:?}");
    assert_eq!(forward(&rig.stream, &layer, &given), after);
}

/// The greatest chunk that keeps to a limit gives the bits of the whole, within what was announced.
fn chunks_within_a_limit(rig: &Rig, kind: &Kind) {
    const TOKENS: usize = 200;
    let pass = kind.pass(TOKENS);
    let plan = |limit| MoeLayer::chunk_plan(&rig.device, &kind.spec, kind.options(), pass, limit);
    let whole = plan(u64::MAX).unwrap();
    assert_eq!((whole.chunk, whole.chunks()), (TOKENS, 1));
    assert_eq!(whole.memory, MoeLayer::memory_plan(&rig.device, &kind.spec, kind.options(), pass).unwrap());
    let full = whole.memory.scratch.allocation();
    let least: u64 = match plan(1000) {
        Err(Error::Shape { what: "scratch limit", legal, .. }) => {
            legal.strip_prefix("at least ").unwrap().parse().unwrap()
        }
        other => panic!("{other:?}"),
    };
    // Tensors of one token more may fit into what these are rounded to.
    let smallest = plan(least).unwrap();
    assert!(smallest.chunk <= 2 && smallest.memory.scratch.allocation() == least, "{smallest:?}");
    for limit in [0, least - 1] {
        assert!(matches!(plan(limit), Err(Error::Shape { what: "scratch limit", .. })), "{limit}");
    }
    let due = {
        let layer = kind.layer(&rig.stream);
        forward(&rig.stream, &layer, &kind.given(&rig.device, TOKENS, 5).unpadded())
    };
    rig.stream.synchronize().unwrap();
    let held = rig.device.bytes_in_use();
    for limit in [full - 1, least + (full - least) / 3, least + (full - least) / 20] {
        let chunked = plan(limit).unwrap();
        assert!(chunked.chunk < TOKENS && chunked.memory.scratch.allocation() <= limit, "{chunked:?}");
        assert_eq!(chunked.memory.in_out, whole.memory.in_out);
        let more = chunked.chunk + 1;
        let stream = Stream::new(&rig.device).unwrap();
        rig.device.reset_peak_bytes();
        let layer = kind.layer(&stream);
        let given = kind.given(&rig.device, TOKENS, 5).unpadded();
        let mut output = layer.new_output(TOKENS).unwrap();
        layer.forward_chunked(&stream, given.input(), chunked.chunk, &mut output).unwrap();
        assert_eq!(rig.device.peak_bytes() - held, chunked.memory.device_bytes(), "limit {limit}");
        assert_eq!(Bits::of(&stream, &output), due, "limit {limit}");
        // One token more would not have kept to it.
        if more < TOKENS {
            layer.forward_chunked(&stream, given.input(), more, &mut output).unwrap();
            let scratch = rig.device.peak_bytes() - held - chunked.memory.weights - chunked.memory.in_out;
            assert!(scratch > limit, "chunks of {more} take {scratch} of {limit}");
        }
        stream.synchronize().unwrap();
    }
}

/// Captured once, launched with other activations, token ids and numbers of real tokens.
fn captured(rig: &Rig, kind: &Kind) {
    let layer = kind.layer(&rig.stream);
    let mut given = kind.given(&rig.device, TOKENS, 0);
    let mut eager = layer.new_output(TOKENS).unwrap();
    let mut captured = layer.new_output(TOKENS).unwrap();
    layer.forward_into(&rig.stream, given.input(), &mut eager).unwrap();
    let graph =
        rig.stream.capture(CaptureMode::ThreadLocal, || layer.forward_into(&rig.stream, given.input(), &mut captured));
    let graph = graph.unwrap();
    let other = Stream::new(&rig.device).unwrap();
    for seed in 1..6 {
        given.set(&rig.stream, &kind.given(&rig.device, TOKENS, seed));
        layer.forward_into(&rig.stream, given.input(), &mut eager).unwrap();
        let before = calls(rig);
        graph.launch(if seed % 2 == 0 { &rig.stream } else { &other }).unwrap();
        for (now, before) in calls(rig).iter().zip(before) {
            assert!(now.1 == before.1 || !now.0.name().starts_with("aclnn"), "a launch calls {}", now.0.name());
        }
        assert_eq!(Bits::of(&rig.stream, &captured), Bits::of(&rig.stream, &eager), "seed {seed}");
    }
}

/// Both streams of an overlapped pass captured into one graph, two layers after one another.
fn overlapped_and_captured(rig: &Rig, kind: &Kind) {
    let layers = [kind.layer(&rig.stream), kind.layer(&rig.stream)];
    let side = Stream::new(&rig.device).unwrap();
    let mut given = kind.given(&rig.device, TOKENS, 0);
    let mut outputs = layers.each_ref().map(|layer| layer.new_output(TOKENS).unwrap());
    let mut run = |given: &Given| {
        let [first, second] = &mut outputs;
        layers[0].forward_overlapped(&rig.stream, &side, given.input(), first)?;
        let mut next = given.input();
        next.x = first.output.view();
        layers[1].forward_overlapped(&rig.stream, &side, next, second)
    };
    run(&given).unwrap();
    let graph = rig.stream.capture_with(&[&side], CaptureMode::ThreadLocal, || run(&given)).unwrap();
    for seed in 1..5 {
        given.set(&rig.stream, &kind.given(&rig.device, TOKENS, seed));
        let first = layers[0].forward(&rig.stream, given.input()).unwrap();
        let mut next = given.input();
        next.x = first.output.view();
        let due = Bits::of(&rig.stream, &layers[1].forward(&rig.stream, next).unwrap());
        graph.launch([&rig.stream, &side][seed as usize % 2]).unwrap();
        assert_eq!(Bits::of(&rig.stream, &outputs[0]), Bits::of(&rig.stream, &first), "seed {seed}");
        assert_eq!(Bits::of(&rig.stream, &outputs[1]), due, "seed {seed}");
    }
}

/// A graph whose calls are put on other tensors, and back: the same graph, no new one.
fn updated(rig: &Rig, kind: &Kind) {
    let layer = kind.layer(&rig.stream);
    let updater = Stream::new(&rig.device).unwrap();
    let givens = [1, 2].map(|seed| kind.given(&rig.device, TOKENS, seed));
    let due = [0, 1].map(|i| forward(&rig.stream, &layer, &givens[i]));
    let mut outputs = [0, 1].map(|_| layer.new_output(TOKENS).unwrap());
    let mut graph = rig
        .stream
        .capture_updatable(CaptureMode::ThreadLocal, || {
            layer.forward_into(&rig.stream, givens[0].input(), &mut outputs[0])
        })
        .unwrap();
    graph.launch(&rig.stream).unwrap();
    assert_eq!(Bits::of(&rig.stream, &outputs[0]), due[0]);
    let made = rig.cann.table().calls(FunctionId::aclmdlRICaptureBegin);
    for (round, (which, stream)) in [(1, &updater), (0, &rig.stream), (1, &rig.stream)].into_iter().enumerate() {
        outputs = [0, 1].map(|_| layer.new_output(TOKENS).unwrap());
        graph.update(stream, || layer.forward_into(stream, givens[which].input(), &mut outputs[which])).unwrap();
        let nothing = layer.new_output(TOKENS).unwrap();
        assert_eq!(read(rig, &outputs[which]), read(rig, &nothing), "round {round}: an update runs nothing");
        graph.launch(&rig.stream).unwrap();
        assert_eq!(Bits::of(&rig.stream, &outputs[which]), due[which], "round {round}");
        assert_eq!(read(rig, &outputs[1 - which]), read(rig, &nothing), "round {round}");
    }
    assert_eq!(rig.cann.table().calls(FunctionId::aclmdlRICaptureBegin), made, "no new graph");
}

fn read(rig: &Rig, output: &LayerOutput) -> Bits {
    Bits::of(&rig.stream, output)
}

/// Layers of all kinds from several threads, each with a stream of its own, plain and overlapped.
fn threads(rig: &Rig) {
    const THREADS: u64 = 3;
    let layers: Vec<(Kind, MoeLayer)> = kinds().into_iter().map(|kind| (kind, kind.layer(&rig.stream))).collect();
    let pass = |stream: &Stream, side: Option<&Stream>, thread: u64| -> Vec<Bits> {
        let tokens = 9 + 14 * thread as usize;
        let run = |(kind, layer): &(Kind, MoeLayer)| {
            let given = kind.given(&rig.device, tokens, thread);
            let mut output = layer.new_output(tokens).unwrap();
            match side {
                Some(side) => layer.forward_overlapped(stream, side, given.input(), &mut output).unwrap(),
                None => layer.forward_into(stream, given.input(), &mut output).unwrap(),
            }
            Bits::of(stream, &output)
        };
        layers.iter().map(run).collect()
    };
    let alone: Vec<Vec<Bits>> = (0..THREADS).map(|thread| pass(&rig.stream, None, thread)).collect();
    let side = Stream::new(&rig.device).unwrap();
    let (pass, side) = (&pass, &side);
    thread::scope(|scope| {
        for (thread, alone) in (0..).zip(&alone) {
            scope.spawn(move || {
                let stream = Stream::new(&rig.device).unwrap();
                for round in 0..3 {
                    let side = (round > 0).then_some(side);
                    assert!(pass(&stream, side, thread) == *alone, "thread {thread}, round {round}");
                }
            });
        }
    });
}

/// Layers of all kinds one after another on one stream: it keeps what the greediest of them needs.
fn layers_share_scratch(rig: &Rig) {
    let kinds = kinds();
    let layers: Vec<MoeLayer> = kinds.iter().map(|kind| kind.layer(&rig.stream)).collect();
    let weights = rig.device.bytes_in_use();
    let stream = Stream::new(&rig.device).unwrap();
    let plans = kinds.iter().map(|kind| {
        MoeLayer::memory_plan(&rig.device, &kind.spec, kind.options(), Pass::from(TOKENS).padded()).unwrap()
    });
    let most = plans.map(|plan| plan.scratch.allocation()).max().unwrap();
    for _ in 0..2 {
        for (kind, layer) in kinds.iter().zip(&layers) {
            let given = kind.given(&rig.device, TOKENS, 1);
            layer.forward(&stream, given.input()).unwrap();
            stream.synchronize().unwrap();
        }
    }
    assert_eq!(rig.device.bytes_in_use(), weights + most);
}
