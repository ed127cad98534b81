//! Operators of one tensor, element by element: maps, scalars, comparisons, fills, casts.

use ascend_moe::op::{self, ClippedSwiglu};
use ascend_moe::{DType, Result, Sequence, TensorView, TensorViewMut};

use crate::bench::{Bench, Host, Layout, cases, coordinates};
use crate::number::{ALL, Due, EPS, FLOATS, Float, Int, NUMBERS, Number};
use crate::random::Values;

type Map = fn(&Sequence<'_>, &TensorView<'_>, &mut TensorViewMut<'_>) -> Result<()>;

/// Name, operator, formula, and the error of f32 beside the formula.
type FloatMap = (&'static str, Map, fn(f64) -> f64, fn(f64, f64) -> f64);

/// Name, operator, and the formulas of floats and of integers.
type NumberMap = (&'static str, Map, fn(f32) -> f32, fn(i64) -> i64);

/// Below it f32 is 0 or imprecise.
const TINY: f64 = 1e-36;

const FLOAT_MAPS: &[FloatMap] = &[
    ("exp", op::exp, f64::exp, |_, y| 2.0 * EPS * y + TINY),
    ("sqrt", op::sqrt, f64::sqrt, |_, _| 0.0),
    ("sigmoid", op::sigmoid, sigmoid, |_, y| 4.0 * EPS * y + TINY),
    ("silu", op::silu, |x| x / (1.0 + (-x).exp()), |_, y| 4.0 * EPS * y.abs() + 100.0 * TINY),
    ("gelu", op::gelu, gelu, |x, _| 4.0 * EPS * x.abs().min(1e3) + EPS * x.abs() + TINY),
];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

#[test]
fn float_maps() {
    for (name, operator, formula, error) in FLOAT_MAPS {
        cases(name, 150, |bench| {
            let (dtype, to) = (bench.random.pick(FLOATS), bench.random.pick(FLOATS));
            let shape = bench.random.shape(0..=5);
            let (x, laid) = bench.input(dtype, &shape, Values::Wild);
            let mut out = bench.output(to, &shape);
            bench.run(|sequence| operator(sequence, &laid.view(), &mut out.view_mut()));
            let due = |x: &Number| {
                let y = formula(x.wide());
                Due::near(y, error(x.wide(), y)).to(dtype).to(to)
            };
            let due: Vec<Due> = x.values.iter().map(due).collect();
            bench.check(&[&x], &out, &due);
        });
    }
}

#[test]
fn number_maps() {
    let maps: [NumberMap; 3] = [
        ("abs", op::abs, f32::abs, i64::saturating_abs),
        ("neg", op::neg, |x| -x, i64::saturating_neg),
        ("relu", op::relu, |x| if x < 0.0 { 0.0 } else { x }, |x| x.max(0)),
    ];
    for (name, operator, of_float, of_int) in maps {
        cases(name, 100, |bench| {
            let dtype = bench.random.pick(NUMBERS);
            let shape = bench.random.shape(0..=5);
            let (x, laid) = bench.input(dtype, &shape, Values::Wild);
            let mut out = bench.output(dtype, &shape);
            bench.run(|sequence| operator(sequence, &laid.view(), &mut out.view_mut()));
            exact(bench, &x, &out, |x| match x {
                Float(x) => Float(of_float(x)),
                Int(x) => Int(of_int(x)).to(dtype),
            });
        });
    }
}

/// Holds an output against a function of each element.
fn exact(bench: &Bench, x: &Host, out: &crate::bench::Laid, function: impl Fn(Number) -> Number) {
    let due: Vec<Due> = x.values.iter().map(|&x| Due::Exactly(function(x))).collect();
    bench.check(&[x], out, &due);
}

#[test]
fn softplus() {
    cases("softplus", 150, |bench| {
        let (dtype, to) = (bench.random.pick(FLOATS), bench.random.pick(FLOATS));
        let (beta, threshold) = (bench.random.pick(&[0.5, 1.0, 2.0]), bench.random.pick(&[1.0, 20.0]));
        let shape = bench.random.shape(0..=4);
        let (x, laid) = bench.input(dtype, &shape, Values::Wild);
        let mut out = bench.output(to, &shape);
        bench.run(|sequence| op::softplus(sequence, &laid.view(), beta, threshold, &mut out.view_mut()));
        let due = |x: &Number| {
            let x = x.wide();
            let y = if x * beta > threshold { x } else { (x * beta).exp().ln_1p() / beta };
            Due::near(y, if x * beta > threshold { 0.0 } else { 4.0 * EPS * y + TINY }).to(dtype).to(to)
        };
        let due: Vec<Due> = x.values.iter().map(due).collect();
        bench.check(&[&x], &out, &due);
    });
}

#[test]
fn casts_and_copies() {
    cases("cast", 250, |bench| {
        let (from, to) = (bench.random.pick(NUMBERS), bench.random.pick(NUMBERS));
        let shape = bench.random.shape(0..=6);
        let (x, laid) = bench.input(from, &shape, Values::Wild);
        let mut out = bench.output(to, &shape);
        bench.run(|sequence| op::cast(sequence, &laid.view(), &mut out.view_mut()));
        exact(bench, &x, &out, |x| x.to(to));
    });
    cases("copy", 250, |bench| {
        let (from, to) = (bench.random.pick(ALL), bench.random.pick(ALL));
        let shape = bench.random.shape(0..=5);
        let own = bench.random.narrower(&shape);
        let (x, laid) = bench.input(from, &own, Values::Wild);
        let mut out = bench.output(to, &shape);
        bench.run(|sequence| op::copy(sequence, &laid.view(), &mut out.view_mut()));
        let due: Vec<Due> = coordinates(&shape).iter().map(|at| Due::Exactly(x.broadcast_at(at).to(to))).collect();
        bench.check(&[&x], &out, &due);
    });
}

/// A scalar: whole or not, of either sign.
fn scalar(bench: &mut Bench) -> f64 {
    bench.random.pick(&[0.0, 1.0, -1.0, 3.0, 2.5, -0.3, 1e-3, 65504.0])
}

#[test]
fn scalars() {
    cases("muls", 200, |bench| {
        let (dtype, to) = (bench.random.pick(NUMBERS), bench.random.pick(NUMBERS));
        let (shape, factor) = (bench.random.shape(0..=4), scalar(bench));
        let (x, laid) = bench.input(dtype, &shape, Values::Wild);
        let mut out = bench.output(to, &shape);
        bench.run(|sequence| op::muls(sequence, &laid.view(), factor, &mut out.view_mut()));
        // Integers are multiplied as f32, and fp16 has the factor in fp16.
        let computed = if dtype.is_float() { dtype } else { DType::F32 };
        let factor = if dtype == DType::F16 { Float(factor as f32).to(dtype).single() } else { factor as f32 };
        exact(bench, &x, &out, |x| Float(x.single() * factor).to(computed).to(to));
    });
    cases("adds", 200, |bench| {
        let (dtype, to) = (bench.random.pick(NUMBERS), bench.random.pick(NUMBERS));
        let (shape, value) = (bench.random.shape(0..=4), scalar(bench));
        let (x, laid) = bench.input(dtype, &shape, Values::Wild);
        let mut out = bench.output(to, &shape);
        bench.run(|sequence| op::adds(sequence, &laid.view(), value, &mut out.view_mut()));
        exact(bench, &x, &out, |x| match x {
            Int(x) if value.fract() == 0.0 => {
                let sum = x.wrapping_add(value as i64);
                Int(if dtype == DType::I32 { (sum as i32).into() } else { sum }).to(to)
            }
            x => {
                let computed = if dtype.is_float() { dtype } else { DType::F32 };
                Float(x.single() + Float(value as f32).to(computed).single()).to(computed).to(to)
            }
        });
    });
}

#[test]
fn clamps() {
    cases("clamp", 200, |bench| {
        let (dtype, to) = (bench.random.pick(NUMBERS), bench.random.pick(NUMBERS));
        let shape = bench.random.shape(0..=4);
        let mut bound = |odd: usize| {
            let value = bench.random.below(9) as f64 - 4.0;
            (!bench.random.once(odd)).then_some(if dtype.is_float() { value / 2.0 } else { value })
        };
        let (low, high) = (bound(3), bound(3));
        let (low, only_low) =
            if high.is_none() { (Some(low.unwrap_or(-1.0)), bound(2).is_none()) } else { (low, false) };
        let (x, laid) = bench.input(dtype, &shape, Values::Wild);
        let mut out = bench.output(to, &shape);
        bench.run(|sequence| match low {
            Some(low) if only_low => op::clamp_min(sequence, &laid.view(), low, &mut out.view_mut()),
            _ => op::clamp(sequence, &laid.view(), low, high, &mut out.view_mut()),
        });
        exact(bench, &x, &out, |x| {
            let clamped = match x {
                // The upper bound comes last; no comparison holds for NaN.
                Float(x) => {
                    let x = low.map_or(x, |low| if x < low as f32 { low as f32 } else { x });
                    Float(high.map_or(x, |high| if x > high as f32 { high as f32 } else { x }))
                }
                Int(x) => {
                    let x = low.map_or(x, |low| x.max(low as i64));
                    Int(high.map_or(x, |high| x.min(high as i64)))
                }
            };
            clamped.to(to)
        });
    });
}

type Compare = fn(&Sequence<'_>, &TensorView<'_>, f64, &mut TensorViewMut<'_>) -> Result<()>;

/// Name, operator, and what holds of the order of a number and the scalar; `None` beside NaN.
type Comparison = (&'static str, Compare, fn(Option<std::cmp::Ordering>) -> bool);

const COMPARISONS: [Comparison; 3] = [
    ("eq_scalar", op::eq_scalar, |order| order.is_some_and(std::cmp::Ordering::is_eq)),
    ("lt_scalar", op::lt_scalar, |order| order.is_some_and(std::cmp::Ordering::is_lt)),
    ("ge_scalar", op::ge_scalar, |order| order.is_some_and(std::cmp::Ordering::is_ge)),
];

#[test]
fn comparisons() {
    for (name, operator, holds) in COMPARISONS {
        cases(name, 150, |bench| {
            let dtype = bench.random.pick(NUMBERS);
            let shape = bench.random.shape(0..=4);
            let value = bench.random.pick(&[0.0, -1.0, 2.0, 0.5, 16_777_216.0, 16_777_216.5, 9_007_199_254_740_992.0]);
            let (x, laid) = bench.input(dtype, &shape, Values::Wild);
            let mut out = bench.output(DType::Bool, &shape);
            bench.run(|sequence| operator(sequence, &laid.view(), value, &mut out.view_mut()));
            exact(bench, &x, &out, |x| {
                let order = match x {
                    Int(x) if value.fract() == 0.0 => Some(x.cmp(&(value as i64))),
                    x => x.single().partial_cmp(&(value as f32)),
                };
                Int(holds(order).into())
            });
        });
    }
}

#[test]
fn fills() {
    cases("zero_fill", 60, |bench| {
        let dtype = bench.random.pick(ALL);
        let shape = bench.random.shape(0..=5);
        let mut out = bench.output(dtype, &shape);
        bench.run(|sequence| op::zero_fill(sequence, &mut out.view_mut()));
        let due = vec![Due::Exactly(Int(0).to(dtype)); shape.iter().product()];
        bench.check(&[], &out, &due);
    });
    cases("masked_fill", 150, |bench| {
        let dtype = bench.random.pick(ALL);
        let (shape, value) = (bench.random.shape(0..=5), scalar(bench));
        let own = bench.random.narrower(&shape);
        let (mask, laid) = bench.input(DType::Bool, &own, Values::Wild);
        let mut x = bench.output(dtype, &shape);
        bench.run(|sequence| op::masked_fill(sequence, &mut x.view_mut(), &laid.view(), value));
        let fill = Due::Exactly(Float(value as f32).to(dtype));
        let due = coordinates(&shape).into_iter().map(|at| (mask.broadcast_at(&at).int() != 0).then_some(fill));
        bench.check_part(&[&mask], &x, due);
    });
    cases("arange", 100, |bench| {
        let dtype = bench.random.pick(NUMBERS);
        let whole = !dtype.is_float() || bench.random.once(2);
        let step = bench.random.pick(if whole { &[1.0, -1.0, 3.0] } else { &[0.5, -0.25, 1.5] });
        let (start, count) = (bench.random.below(9) as f64 - 4.0, bench.random.below(40));
        let mut out = bench.output(dtype, &[count]);
        let end = start + step * count as f64;
        bench.run(|sequence| op::arange(sequence, start, end, step, &mut out.view_mut()));
        // All of them are exact in f32.
        let due: Vec<Due> =
            (0..count).map(|i| Due::Exactly(Float((start + i as f64 * step) as f32).to(dtype))).collect();
        bench.check(&[], &out, &due);
    });
}

#[test]
fn gated_activations() {
    cases("swiglu", 120, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let mut shape = bench.random.shape(1..=4);
        let (axis, dim) = bench.random.dim(shape.len());
        let half = shape[axis];
        shape[axis] *= 2;
        let (x, laid) = bench.input_in(Layout::Packed, dtype, &shape, Values::SmoothOrNot);
        shape[axis] = half;
        let mut out = bench.output_in(Layout::Packed, dtype, &shape);
        bench.run(|sequence| op::swiglu(sequence, &laid.view(), dim, &mut out.view_mut()));
        let due = |mut at: Vec<usize>| {
            let gate = x.at(&at).wide();
            at[axis] += half;
            let y = gate / (1.0 + (-gate).exp()) * x.at(&at).wide();
            Due::near(y, 6.0 * EPS * y.abs()).to(dtype)
        };
        let due: Vec<Due> = coordinates(&shape).into_iter().map(due).collect();
        bench.check(&[&x], &out, &due);
    });
    cases("clipped_swiglu", 150, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let (tokens, half) = (bench.random.below(7), 1 + bench.random.below(9));
        let params = ClippedSwiglu {
            alpha: bench.random.pick(&[1.0, 1.702]),
            limit: bench.random.pick(&[0.5, 2.0, 10.0]),
            bias: bench.random.pick(&[0.0, 1.0]),
            interleaved: bench.random.once(2),
        };
        let (x, laid) = bench.input_in(Layout::Packed, dtype, &[tokens, 2 * half], Values::Smooth);
        // Counts that may leave rows behind.
        let groups = 1 + bench.random.below(4);
        let most = (tokens / groups) as i64;
        let (counts, list) = bench.input(DType::I64, &[groups], Values::Index(0, most + 1));
        let grouped = bench.random.once(2);
        let rows = if grouped { counts.values.iter().map(|count| count.int()).sum::<i64>() as usize } else { tokens };
        let list = grouped.then(|| list.view());
        let mut out = bench.output_in(Layout::Packed, dtype, &[tokens, half]);
        bench.run(|sequence| {
            op::clipped_swiglu(sequence, &laid.view(), list.as_ref(), -1, &params, &mut out.view_mut())
        });
        let due = |at: Vec<usize>| {
            let (gate, up) = if params.interleaved { (2 * at[1], 2 * at[1] + 1) } else { (at[1], half + at[1]) };
            let gate = x.at(&[at[0], gate]).wide().min(params.limit);
            let up = x.at(&[at[0], up]).wide().clamp(-params.limit, params.limit);
            let silu = gate * sigmoid(params.alpha * gate);
            let y = silu * (up + params.bias);
            let error = 8.0 * EPS * silu.abs() * (up.abs() + params.bias.abs());
            (at[0] < rows).then_some(Due::near(y, error).to(dtype))
        };
        bench.check_part(&[&x], &out, coordinates(&[tokens, half]).into_iter().map(due));
    });
}
