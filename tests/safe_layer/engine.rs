//! What an engine relies on in a layer: the shared expert beside the others, and bad input that is refused or found.

use std::ops::Range;
use std::time::{Duration, Instant};

use ascend_moe::layer::{LayerInput, MoeLayer, WeightSource};
use ascend_moe::spec::{FloatType, MoeSpec, Part};
use ascend_moe::{DType, Error, Result, Stream, Tensor, TensorView};
use cann_sim::FindingKind;

use crate::kinds::{Kind, kinds};
use crate::rig::{Gate, Rig};

pub(crate) fn kind(name: &str) -> Kind {
    kinds().into_iter().find(|kind| kind.name == name).unwrap()
}

/// Functions that finished so far.
fn finished(rig: &Rig) -> Vec<&'static str> {
    rig.sim().trace().into_iter().map(|record| record.function).collect()
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !there() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_shared_expert_runs_beside_the_others() {
    let rig = Rig::new();
    let kind = kind("grouped_sigmoid_with_shared");
    let (layer, side) = (kind.layer(&rig.stream), Stream::new(&rig.device).unwrap());
    let given = kind.given(&rig.device, 20, 1).unpadded();
    let due: Vec<f32> = layer.forward(&rig.stream, given.input()).unwrap().output.to_f32(&rig.stream).unwrap();
    let count = |function: &str| finished(&rig).iter().filter(|&&name| name == function).count();
    let [products, expands, combines] = ["aclnnMm", "aclnnMoeInitRoutingV3", "aclnnMoeFinalizeRoutingV2"].map(count);

    // The side stream is held back: routing and the routed experts run, what needs the shared expert waits.
    let mut output = layer.new_output(20).unwrap();
    let gate = Gate::close(&side);
    layer.forward_overlapped(&rig.stream, &side, given.input(), &mut output).unwrap();
    wait_for("the routed experts' down projection", || count("aclnnMoeInitRoutingV3") == expands + 1);
    assert!(!side.is_idle().unwrap() && !rig.stream.is_idle().unwrap());
    assert_eq!(count("aclnnMm"), products + 1, "the router's alone");
    assert_eq!(count("aclnnMoeFinalizeRoutingV2"), combines);
    gate.open();
    assert_eq!(output.output.to_f32(&rig.stream).unwrap(), due);

    // The main stream is held back while it makes the input: the shared expert waits for it.
    let mut x = Tensor::zeros(&rig.device, given.x.dtype(), &[20, 48]).unwrap();
    let gate = Gate::close(&rig.stream);
    ascend_moe::op::copy(&rig.stream.sequence().unwrap(), &given.x.view(), &mut x.view_mut()).unwrap();
    let products = count("aclnnMm");
    layer.forward_overlapped(&rig.stream, &side, x.view(), &mut output).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(count("aclnnMm"), products);
    gate.open();
    assert_eq!(output.output.to_f32(&rig.stream).unwrap(), due);

    // A second pass on the same output waits for those who still read what the side stream writes.
    let gate = Gate::close(&rig.stream);
    layer.forward_overlapped(&rig.stream, &side, given.input(), &mut output).unwrap();
    layer.forward_overlapped(&rig.stream, &side, given.input(), &mut output).unwrap();
    gate.open();
    assert_eq!(output.output.to_f32(&rig.stream).unwrap(), due);
}

fn shape_error(result: Result<impl std::fmt::Debug>, what: &str, found: &str, legal: &str) {
    match result {
        Err(Error::Shape { what: w, found: f, legal: l }) if w == what => {
            assert!(f.contains(found) && l.contains(legal), "{what}: {f}; legal is {l}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn inputs_that_do_not_fit() {
    let rig = Rig::new();
    let (hash, plain) = (kind("hash"), kind("softmax"));
    let (by_id, by_score) = (hash.layer(&rig.stream), plain.layer(&rig.stream));
    let given = hash.given(&rig.device, 6, 1);
    let other = plain.given(&rig.device, 6, 1);
    let forward = |layer: &MoeLayer, input: LayerInput<'_>| layer.forward(&rig.stream, input);
    let ids = |count: usize| Tensor::from_slice(&rig.device, &vec![1i64; count], &[count]).unwrap();
    let x = || LayerInput::from(given.x.view());

    shape_error(forward(&by_id, x()), "token ids", "none", "one per token");
    for wrong in [0, 5, 7, 12] {
        let tensor = ids(wrong);
        shape_error(forward(&by_id, x().with_token_ids(tensor.view())), "token ids", &format!("[{wrong}]"), "[6]");
    }
    let (two, one) = (ids(12), ids(6));
    let two = two.view().reshape(&[6, 2]).unwrap();
    shape_error(forward(&by_id, x().with_token_ids(two)), "token ids", "[6, 2]", "[6]");
    let floats = Tensor::from_slice(&rig.device, &[1f32; 6], &[6]).unwrap();
    match forward(&by_id, x().with_token_ids(floats.view())) {
        Err(Error::DType { what: "token ids", found, legal }) => {
            assert!(found.contains("f32") && legal == "i32 or i64", "{found}; {legal}");
        }
        other => panic!("{other:?}"),
    }
    // Where nobody chooses by them they do no harm, whatever they are.
    forward(&by_score, LayerInput::from(other.x.view()).with_token_ids(two)).unwrap();
    forward(&by_id, x().with_token_ids(one.view())).unwrap();

    let counts = Tensor::from_slice(&rig.device, &[3i32, 3], &[2]).unwrap();
    let wide = Tensor::from_slice(&rig.device, &[3i64], &[1]).unwrap();
    for wrong in [&counts, &wide] {
        let input = LayerInput::from(other.x.view()).with_valid_tokens(wrong.view());
        shape_error(forward(&by_score, input), "valid tokens", "", "i32 of shape [1]");
    }

    // Activations of another type or width, an output of another pass.
    let narrow = Tensor::zeros(&rig.device, DType::Bf16, &[6, 47]).unwrap();
    shape_error(forward(&by_score, narrow.view().into()), "x", "[6, 47]", "[tokens, 48]");
    let single = Tensor::zeros(&rig.device, DType::F32, &[6, 48]).unwrap();
    assert!(matches!(forward(&by_score, single.view().into()), Err(Error::DType { what: "x", .. })));
    let mut output = by_score.new_output(5).unwrap();
    let plain_input = || LayerInput::from(other.x.view());
    shape_error(by_score.forward_into(&rig.stream, plain_input(), &mut output), "output", "[5, 48]", "[6, 48]");
    shape_error(by_score.forward_chunked(&rig.stream, plain_input(), 0, &mut output), "output", "[5, 48]", "[6, 48]");
    let mut output = by_score.new_output(6).unwrap();
    shape_error(by_score.forward_chunked(&rig.stream, plain_input(), 0, &mut output), "chunk", "0", "at least 1");
    let padded = by_score.forward_chunked(&rig.stream, other.input(), 4, &mut output);
    shape_error(padded, "valid tokens", "given", "none in a pass of chunks");

    // What the router sees is of the activations' type and shape, whatever the router.
    for wrong in [[5, 48], [6, 47]] {
        let wrong = Tensor::zeros(&rig.device, DType::Bf16, &wrong).unwrap();
        let found = format!("{:?}", wrong.shape());
        shape_error(
            forward(&by_score, plain_input().with_router_input(wrong.view())),
            "router input",
            &found,
            "[6, 48]",
        );
        let routed = by_score.router().route(&rig.stream, plain_input().with_router_input(wrong.view()));
        shape_error(routed, "router input", &found, "[6, 48]");
    }
    let refused = forward(&by_score, plain_input().with_router_input(single.view()));
    assert!(matches!(refused, Err(Error::DType { what: "router input", .. })), "{refused:?}");
    let beside = Rig::new();
    let elsewhere = Tensor::zeros(&beside.device, DType::Bf16, &[6, 48]).unwrap();
    let refused = forward(&by_score, plain_input().with_router_input(elsewhere.view()));
    assert!(matches!(refused, Err(Error::WrongDevice { .. })), "{refused:?}");

    // Routed elsewhere.
    let weights = Tensor::zeros(&rig.device, DType::F32, &[6, 2]).unwrap();
    let experts = |shape: &[usize]| Tensor::zeros(&rig.device, DType::I32, shape).unwrap();
    let routed = |ids: &Tensor, weights: TensorView<'_>| {
        by_score.forward_routed(&rig.stream, other.x.view(), ids.view(), weights)
    };
    shape_error(routed(&experts(&[5, 2]), weights.view()), "expert ids", "[5, 2]", "[6, k]");
    shape_error(routed(&experts(&[6, 0]), weights.view()), "expert ids", "[6, 0]", "k of at least 1");
    shape_error(routed(&experts(&[12]), weights.view()), "expert ids", "[12]", "[6, k]");
    shape_error(routed(&experts(&[6, 3]), weights.view()), "expert weights", "[6, 2]", "[6, 3]");
    let mut into = routed(&experts(&[6, 2]), weights.view()).unwrap();
    let fewer = other.x.view().rows(0..4).unwrap();
    let (ids, chosen) = (experts(&[4, 2]), weights.view().rows(0..4).unwrap());
    let result = by_score.forward_routed_into(&rig.stream, fewer, ids.view(), chosen, &mut into);
    shape_error(result, "output", "[6, 48]", "[4, 48]");
    rig.stream.synchronize().unwrap();
}

/// Token ids are read by the device: one that is out of range is what the simulator finds.
#[test]
fn token_ids_out_of_range_are_found() {
    for (id, wide) in [(50, true), (-1, true), (i32::MAX, false), (50, false)] {
        let mut rig = Rig::new();
        rig.expect_findings();
        let kind = kind("hash");
        let layer = kind.layer(&rig.stream);
        let given = kind.given(&rig.device, 3, 1);
        let ids = if wide {
            Tensor::from_slice(&rig.device, &[1, i64::from(id), 2], &[3]).unwrap()
        } else {
            Tensor::from_slice(&rig.device, &[1, id, 2], &[3]).unwrap()
        };
        let input = LayerInput::from(given.x.view()).with_token_ids(ids.view());
        layer.forward(&rig.stream, input).unwrap();
        let fault = rig.stream.synchronize().unwrap_err();
        assert_eq!(fault.code(), Some(507_015), "{id}: {fault}");
        let findings = rig.findings();
        assert!(!findings.is_empty(), "{id}");
        assert!(findings.iter().all(|finding| finding.kind != FindingKind::Leak), "{id}: {findings:?}");
        assert!(findings.iter().any(|finding| finding.to_string().contains(&id.to_string())), "{id}: {findings:?}");
    }
}

/// Experts that do not exist, of a pass that was routed elsewhere.
#[test]
fn routed_ids_out_of_range_are_found() {
    for id in [-1, 12, i32::MAX] {
        let mut rig = Rig::new();
        rig.expect_findings();
        let kind = kind("softmax");
        let layer = kind.layer(&rig.stream);
        let given = kind.given(&rig.device, 3, 1);
        let ids = Tensor::from_slice(&rig.device, &[0, id, 11], &[3, 1]).unwrap();
        let weights = Tensor::from_slice(&rig.device, &[1f32; 3], &[3, 1]).unwrap();
        let routed = layer.forward_routed(&rig.stream, given.x.view(), ids.view(), weights.view());
        drop(routed.unwrap());
        assert_eq!(rig.stream.synchronize().unwrap_err().code(), Some(507_015), "{id}");
        // They get no row, which the operator that adds rows up misses.
        let findings = rig.findings();
        let named = |finding: &cann_sim::Finding| finding.to_string().contains("aclnnMoeFinalizeRoutingV2");
        assert!(findings.iter().any(named), "{id}: {findings:?}");
    }
}

/// A number of real tokens that is less than none is none, and one above all is all.
#[test]
fn numbers_of_real_tokens_beyond_the_tokens() {
    let rig = Rig::new();
    let kind = kind("grouped_sigmoid_with_shared");
    let layer = kind.layer(&rig.stream);
    let given = kind.given(&rig.device, 5, 1);
    for (valid, rows) in [(-1, 0), (-1_000_000, 0), (0, 0), (5, 20), (6, 20), (1_000_000, 20)] {
        let valid = Tensor::from_slice(&rig.device, &[valid], &[1]).unwrap();
        let input = LayerInput::from(given.x.view()).with_valid_tokens(valid.view());
        let counts: Vec<i64> = layer.forward(&rig.stream, input).unwrap().expert_counts.to_vec(&rig.stream).unwrap();
        assert_eq!(counts.iter().sum::<i64>(), rows);
    }
}

/// A source whose table names an expert that is not there.
struct WrongTable<'a> {
    of: &'a dyn WeightSource,
    row: usize,
    id: i32,
}

impl WeightSource for WrongTable<'_> {
    fn spec(&self) -> &MoeSpec {
        self.of.spec()
    }

    fn fill(&self, part: Part, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        self.of.fill(part, experts, dtype, target)?;
        if part == Part::ExpertTable {
            let place = self.row * self.spec().router().top_k * 4;
            target[place..place + 4].copy_from_slice(&self.id.to_le_bytes());
        }
        Ok(())
    }
}

/// A table of experts by token id is checked when it is loaded, wherever it comes from.
#[test]
fn tables_that_name_no_expert_are_refused() {
    let rig = Rig::new();
    let kind = kind("hash");
    let right = kind.weights(1);
    let mut layer = kind.layer(&rig.stream);
    let given = kind.given(&rig.device, 9, 1);
    let ids = |layer: &MoeLayer| {
        let output = layer.forward(&rig.stream, given.input()).unwrap();
        output.expert_ids.to_vec::<i32>(&rig.stream).unwrap()
    };
    let before = ids(&layer);
    for (row, id) in [(0, -1), (49, 12), (7, i32::MAX), (7, i32::MIN)] {
        let wrong = WrongTable { of: &right, row, id };
        let (what, found) = ("table of experts by token id", format!("expert {id} for token id {row}"));
        let loaded = MoeLayer::load(&rig.stream, &wrong, kind.options(), &mut |_, _| {});
        shape_error(loaded, what, &found, "experts 0 to 11");
        let replaced = layer.replace_weights(&rig.stream, &wrong, Part::ExpertTable, 0..0);
        shape_error(replaced, what, &found, "experts 0 to 11");
        assert_eq!(ids(&layer), before, "the table that was there stays");
    }
    let last = WrongTable { of: &right, row: 49, id: 11 };
    layer.replace_weights(&rig.stream, &last, Part::ExpertTable, 0..0).unwrap();
}
