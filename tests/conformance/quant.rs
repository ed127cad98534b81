//! Layers with quantised experts against the same quantisation in plain arithmetic: each path that a layer can take, on the
//! weights' codes as the source gives them. Experts and their weights are those that the router chose.

use ascend_moe::layer::{Codes, ExpertFormat, LayerOptions, MoeLayer, WeightSource};
use ascend_moe::spec::{
    Activation, ActivationFn, ClampAt, ExpertSpec, FloatType, MoeSpec, Normalise, Part, RouterSpec, Score, SharedSpec,
};
use ascend_moe::{Error, Tensor};
use half::{bf16, f16};

use crate::fillings::Rig;
use crate::synthetic::{Synthetic, random};
use crate::{Case, case};

const TOKENS: usize = 9;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (width, hidden, inner) in [("blocks", 64, 64), ("no_blocks", 72, 24), ("wide", 512, 256)] {
        // Groups have to divide what is multiplied; wide layers are for wide groups.
        let fits = |format: ExpertFormat| match format.codes().and_then(Codes::group) {
            Some(group) => hidden % group == 0 && (group > 64) == (width == "wide"),
            None => width != "wide",
        };
        for (name, format) in FORMATS.into_iter().filter(|(_, format)| fits(*format)) {
            for (what, change) in CHANGES {
                let full = format!("quant::{name}_{what}_{width}");
                let mut experts = ExpertSpec::new(6, hidden, inner);
                let mut shared = SharedSpec::new(inner);
                change(&mut experts, &mut shared);
                let mut router = RouterSpec::new(Score::Softmax, 2);
                router.norm = Normalise::Sum { eps: 0.0 };
                let spec = MoeSpec::new(router, experts, Some(shared)).unwrap();
                cases.push(case(full, move |rig| agrees(rig, spec, format)));
            }
        }
    }
    cases.push(case("quant::combinations_that_cannot_run_are_named", refusals));
    cases
}

const FORMATS: [(&str, ExpertFormat); 6] = [
    ("w8a8", ExpertFormat::W8A8),
    ("w4a8", ExpertFormat::W4A8 { group: None }),
    ("w4a8_groups", ExpertFormat::W4A8 { group: Some(256) }),
    ("w8a16", ExpertFormat::W8A16),
    ("w4a16", ExpertFormat::W4A16 { group: None }),
    ("w4a16_groups", ExpertFormat::W4A16 { group: Some(32) }),
];

type Change = fn(&mut ExpertSpec, &mut SharedSpec);
const CHANGES: [(&str, Change); 3] = [
    ("swiglu", |_, _| {}),
    ("clamped", |experts, shared| {
        experts.activation = Activation::SWIGLU.clamped(0.7, ClampAt::Before);
        shared.activation = experts.activation;
    }),
    ("biased", |experts, _| {
        experts.activation = Activation::new(ActivationFn::GptOss { alpha: 1.702 }).clamped(1.5, ClampAt::Before);
        experts.bias = true;
    }),
];

fn load(rig: &Rig, weights: &Synthetic, dtype: FloatType, format: ExpertFormat) -> Result<MoeLayer, Error> {
    let options = LayerOptions::new(dtype).with_experts(format);
    MoeLayer::load(&rig.stream, weights, options, &mut |_, _| {})
}

/// With sums of weights that are far from 0, and inputs whose weights grow from the first to the last.
fn uneven(mut weights: Synthetic) -> Synthetic {
    let spec = *weights.spec();
    for (part, values) in weights.parts.iter_mut().filter(|(part, _)| matches!(part, Part::W13 | Part::W2)) {
        let k = spec.shape(*part).and_then(|shape| shape.last().copied()).unwrap_or(1);
        let lift = 0.5 / (k as f32).sqrt();
        for (at, value) in values.iter_mut().enumerate() {
            *value = (*value + lift) * (at % k + k / 8) as f32 / k as f32;
        }
    }
    weights
}

fn agrees(rig: &Rig, spec: MoeSpec, format: ExpertFormat) {
    let weights = match format.codes().and_then(Codes::group) {
        // Scales of groups that are far from each other.
        Some(_) => uneven(Synthetic::new(spec, 11)),
        None => Synthetic::new(spec, 11),
    };
    for dtype in [FloatType::Bf16, FloatType::F16] {
        let layer = match load(rig, &weights, dtype, format) {
            Err(Error::Format { .. }) if spec.experts().bias => continue,
            layer => layer.unwrap(),
        };
        let hidden = spec.experts().hidden;
        // One token of zeros, and one of values that are far larger than the others.
        let mut x = random(5, TOKENS * hidden, 1.5);
        x[hidden..2 * hidden].fill(0.0);
        x[2 * hidden..3 * hidden].iter_mut().for_each(|value| *value *= 16.0);
        let x: Vec<f32> = x.into_iter().map(|value| rounded(dtype, value)).collect();
        let on_device = Tensor::from_f32(&rig.device, dtype, &x, &[TOKENS, hidden]).unwrap();
        let result = layer.forward(&rig.stream, on_device.view()).unwrap();
        let output = result.output.to_f32(&rig.stream).unwrap();
        let ids = result.expert_ids.to_vec::<i32>(&rig.stream).unwrap();
        let shares = result.expert_weights.to_f32(&rig.stream).unwrap();

        let plain = Plain::new(&weights, dtype, format, layer.experts().fused.is_some());
        for (token, x) in x.chunks(hidden).enumerate() {
            let mut due: Vec<f64> = plain.shared(x).into_iter().map(f64::from).collect();
            for slot in token * 2..token * 2 + 2 {
                let row = plain.expert(ids[slot] as usize, x);
                due.iter_mut().zip(row).for_each(|(due, value)| *due += f64::from(shares[slot]) * f64::from(value));
            }
            let largest = due.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            // The last rounding, that of the shared expert's sum, and what an exponential of another library may turn over.
            let last = if dtype == FloatType::F16 { 2f64.powi(-10) } else { 2f64.powi(-7) };
            for (found, due) in output[token * hidden..].iter().zip(&due) {
                let difference = (f64::from(*found) - due).abs();
                let tolerance = last * due.abs() + 2f64.powi(-8) * largest;
                assert!(
                    difference <= tolerance,
                    "{format} {dtype} token {token}: {found}, due {due}, largest {largest}"
                );
            }
        }
    }
}

/// A layer's projections as codes, and what they compute.
struct Plain<'a> {
    weights: &'a Synthetic,
    dtype: FloatType,
    format: ExpertFormat,
    fused: bool,
}

/// A projection `[N, K]`.
struct Projection {
    codes: Vec<i8>,
    scales: Vec<f32>,
    k: usize,
}

fn rounded(dtype: FloatType, value: f32) -> f32 {
    match dtype {
        FloatType::Bf16 => bf16::from_f32(value).to_f32(),
        FloatType::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// The nearest whole number, ties to even, within int8.
fn nearest(value: f32) -> i8 {
    value.round_ties_even() as i8
}

impl<'a> Plain<'a> {
    fn new(weights: &'a Synthetic, dtype: FloatType, format: ExpertFormat, fused: bool) -> Self {
        Self { weights, dtype, format, fused }
    }

    fn spec(&self) -> &MoeSpec {
        self.weights.spec()
    }

    fn projection(&self, part: Part, expert: usize, codes: Codes) -> Projection {
        let shape = self.spec().shape(part).unwrap();
        let (n, k) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let (mut target, mut scales) = (vec![0; n * k], vec![0.0; n * codes.groups(k)]);
        self.weights.fill_codes(part, expert..expert + 1, codes, &mut target, &mut scales).unwrap();
        Projection { codes: target, scales, k }
    }

    fn bias(&self, part: Part, expert: usize, n: usize) -> Vec<f32> {
        if !self.spec().experts().bias {
            return vec![0.0; n];
        }
        let mut bias = vec![0f32; n];
        let bytes = bytemuck::cast_slice_mut(&mut bias);
        self.weights.fill(part, expert..expert + 1, FloatType::F32, bytes).unwrap();
        // Products of int8 take a bias of the output's type, those of bf16 one of fp32.
        let narrow = self.dtype == FloatType::F16 || self.format == ExpertFormat::W8A8;
        bias.into_iter().map(|value| if narrow { rounded(self.dtype, value) } else { value }).collect()
    }

    fn expert(&self, expert: usize, x: &[f32]) -> Vec<f32> {
        let (experts, codes) = (self.spec().experts(), self.format.codes().unwrap());
        let (first, second) = (self.projection(Part::W13, expert, codes), self.projection(Part::W2, expert, codes));
        let inner = experts.intermediate;
        let biases = [self.bias(Part::W13Bias, expert, 2 * inner), self.bias(Part::W2Bias, expert, experts.width())];
        let activation = &experts.activation;
        if !self.format.quantises_activations() {
            let active = self.activate(activation, &self.expanded(&first, x, &biases[0]), true);
            return self.expanded(&second, &active, &biases[1]);
        }
        let int4 = codes != Codes::Int8;
        let (rows, scale) = by_division(x);
        let product = |projection: &Projection, rows: &[i8], scale: f32, order: Order| -> Vec<f32> {
            if int4 { halves(projection, rows, scale) } else { sums(projection, rows, scale, order, self.dtype) }
        };
        let narrow = |values: Vec<f32>, bias: &[f32]| -> Vec<f32> {
            values.iter().zip(bias).map(|(value, bias)| rounded(self.dtype, value + bias)).collect()
        };
        let (rows, scale) = if self.fused {
            let first = product(&first, &rows, scale, Order::Row);
            fused_quantised(&self.activate(activation, &first, false))
        } else {
            let first = narrow(product(&first, &rows, scale, Order::Column), &biases[0]);
            by_factor(&self.activate(activation, &first, true))
        };
        narrow(product(&second, &rows, scale, Order::Column), &biases[1])
    }

    fn shared(&self, x: &[f32]) -> Vec<f32> {
        let activation = self.spec().shared().unwrap().activation;
        // There is no dense product of int8 with int4.
        let codes =
            if matches!(self.format, ExpertFormat::W4A8 { .. }) { Codes::Int8 } else { self.format.codes().unwrap() };
        let [first, second] = [Part::SharedW13, Part::SharedW2].map(|part| self.projection(part, 0, codes));
        let product = |projection: &Projection, x: &[f32]| -> Vec<f32> {
            if !self.format.quantises_activations() {
                return self.expanded(projection, x, &vec![0.0; projection.codes.len() / projection.k]);
            }
            let (rows, scale) = by_factor(x);
            let sums = sums(projection, &rows, scale, Order::Row, FloatType::F32);
            sums.into_iter().map(|value| rounded(self.dtype, value)).collect()
        };
        product(&second, &self.activate(&activation, &product(&first, x), true))
    }

    /// `x` times weights that were taken to the layer's type.
    fn expanded(&self, projection: &Projection, x: &[f32], bias: &[f32]) -> Vec<f32> {
        let Projection { codes, scales, k } = projection;
        let groups = scales.len() * k / codes.len();
        let rows = codes.chunks(*k).zip(scales.chunks(groups)).zip(bias);
        rows.map(|((codes, scales), bias)| {
            let weight = |at: usize| {
                let scale = rounded(self.dtype, scales[at / k.div_ceil(groups)]);
                rounded(self.dtype, f32::from(codes[at]) * scale)
            };
            let sum: f64 = x.iter().enumerate().map(|(at, x)| f64::from(*x) * f64::from(weight(at))).sum();
            rounded(self.dtype, (sum + f64::from(*bias)) as f32)
        })
        .collect()
    }

    /// The activation of gate and up, in turn halves; rounded to the layer's type where it is an operator of its own.
    fn activate(&self, activation: &Activation, first: &[f32], narrow: bool) -> Vec<f32> {
        let (gates, ups) = first.split_at(first.len() / 2);
        let limit = activation.clamp.map_or(f32::INFINITY, |clamp| clamp.limit as f32);
        let one = |(gate, up): (&f32, &f32)| {
            let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
            let value = match activation.function {
                ActivationFn::GptOss { alpha } => gate / (1.0 + (-alpha as f32 * gate).exp()) * (up + 1.0),
                _ => gate / (1.0 + (-gate).exp()) * up,
            };
            if narrow { rounded(self.dtype, value) } else { value }
        };
        gates.iter().zip(ups).map(one).collect()
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// As rows are quantised on their way to experts: `x / (max / 127)`.
fn by_division(values: &[f32]) -> (Vec<i8>, f32) {
    let scale = largest(values) / 127.0;
    (values.iter().map(|value| if scale > 0.0 { nearest(value / scale) } else { 0 }).collect(), scale)
}

/// As DynamicQuant has it: `x * (127 / max)`.
fn by_factor(values: &[f32]) -> (Vec<i8>, f32) {
    let most = largest(values);
    let factor = if most > 0.0 { 127.0 / most } else { 0.0 };
    (values.iter().map(|value| nearest(value * factor)).collect(), most * (1.0 / 127.0))
}

/// As the fused product has it: by the reciprocal, to fp16 and then to int8.
fn fused_quantised(values: &[f32]) -> (Vec<i8>, f32) {
    let scale = largest(values) / 127.0;
    let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (values.iter().map(|value| nearest(f16::from_f32(value * factor).to_f32())).collect(), scale)
}

/// Which scale comes first.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Row,
    Column,
}

fn dot(codes: &[i8], rows: impl Iterator<Item = i32>) -> i64 {
    codes.iter().zip(rows).map(|(code, row)| i64::from(*code) * i64::from(row)).sum()
}

/// int8 by int8. Behind the grouped product of a bf16 layer the column's scale is bf16.
fn sums(projection: &Projection, rows: &[i8], scale: f32, order: Order, dtype: FloatType) -> Vec<f32> {
    let columns = projection.codes.chunks(projection.k).zip(&projection.scales);
    columns
        .map(|(codes, &column)| {
            let sum = dot(codes, rows.iter().map(|&row| i32::from(row))) as f32;
            match order {
                Order::Row => (sum * scale) * column,
                Order::Column if dtype == FloatType::Bf16 => (sum * rounded(dtype, column)) * scale,
                Order::Column => (sum * column) * scale,
            }
        })
        .collect()
}

/// int8 by int4: `x = 16 * high + low + 8`, both parts in fp16, to which groups are added one after the other.
fn halves(projection: &Projection, rows: &[i8], scale: f32) -> Vec<f32> {
    let Projection { codes, scales, k } = projection;
    let groups = scales.len() * k / codes.len();
    let columns = codes.chunks(*k).zip(scales.chunks(groups));
    columns
        .map(|(codes, scales)| {
            let groups = || codes.chunks(k / groups).zip(rows.chunks(k / groups)).zip(scales);
            let part = |of: fn(i32) -> i32| {
                groups().fold(0f32, |total, ((codes, rows), scale)| {
                    let sum = dot(codes, rows.iter().map(|&row| of(i32::from(row)))) as f32;
                    let sum = f16::from_f32(sum * scale).to_f32();
                    f16::from_f32(total + sum).to_f32()
                })
            };
            let (high, low) = (part(|x| x.div_euclid(16)), part(|x| (x & 15) - 8));
            let lacks = groups().fold(0f32, |lacks, ((codes, _), scale)| {
                lacks + 8.0 * (codes.iter().map(|&code| i64::from(code)).sum::<i64>() as f32 * scale)
            });
            ((16.0 * high + low) + lacks) * scale
        })
        .collect()
}

fn refusals(rig: &Rig) {
    let mut experts = ExpertSpec::new(4, 64, 32);
    let spec = |experts| MoeSpec::new(RouterSpec::new(Score::Softmax, 2), experts, None).unwrap();
    let refused = |experts: ExpertSpec, dtype, format, words: [&str; 2]| {
        let error = load(rig, &Synthetic::new(spec(experts), 1), dtype, format).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error:?}");
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    refused(experts, FloatType::F32, ExpertFormat::W8A8, ["w8a8", "f32"]);
    refused(experts, FloatType::F32, ExpertFormat::W4A16 { group: None }, ["w4a16", "bf16 or f16"]);
    refused(experts, FloatType::Bf16, ExpertFormat::W4A8 { group: Some(64) }, ["groups of 64", "groups of 256"]);
    refused(experts, FloatType::Bf16, ExpertFormat::W4A8 { group: Some(256) }, ["64 inputs", "w4a16"]);
    experts.bias = true;
    refused(experts, FloatType::Bf16, ExpertFormat::W4A8 { group: None }, ["w4a8", "biases"]);
    refused(experts, FloatType::F16, ExpertFormat::W8A8, ["w8a8", "biases"]);
}
