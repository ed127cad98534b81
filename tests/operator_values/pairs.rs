//! Operators of two tensors and more, element by element, with broadcasting.

use ascend_moe::op;
use ascend_moe::{DType, Result, Sequence, TensorView, TensorViewMut};
use half::{bf16, f16};

use crate::bench::{Bench, Host, Laid, cases, coordinates};
use crate::number::{Due, Float, Int, NUMBERS, Number, common};
use crate::random::Values;

type Pair = fn(&Sequence<'_>, &TensorView<'_>, &TensorView<'_>, f64, &mut TensorViewMut<'_>) -> Result<()>;

/// A formula of two numbers of the dtype they are computed in, and a factor of the second.
type Formula = fn(Number, Number, f64, DType) -> Number;

/// Name, operator, formula. Factors other than 1 are taken by the first two.
const PAIRS: [(&str, Pair, Formula); 6] = [
    ("add", op::add, add),
    ("sub", op::sub, sub),
    (
        "mul",
        |s, a, b, _, out| op::mul(s, a, b, out),
        |a, b, _, dtype| arithmetic(a, b, dtype, |a, b| a * b, i64::wrapping_mul),
    ),
    (
        "div",
        |s, a, b, _, out| op::div(s, a, b, out),
        |a, b, _, dtype| Float(a.single() / b.single()).to(if dtype.is_float() { dtype } else { DType::F32 }),
    ),
    (
        "maximum",
        |s, a, b, _, out| op::maximum(s, a, b, out),
        |a, b, _, dtype| {
            arithmetic(a, b, dtype, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }, i64::max)
        },
    ),
    (
        "minimum",
        |s, a, b, _, out| op::minimum(s, a, b, out),
        |a, b, _, dtype| {
            arithmetic(a, b, dtype, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) }, i64::min)
        },
    ),
];

/// Rounded once; integers wrap around.
fn arithmetic(
    a: Number,
    b: Number,
    dtype: DType,
    of_float: fn(f32, f32) -> f32,
    of_int: fn(i64, i64) -> i64,
) -> Number {
    match (a, b) {
        (Int(a), Int(b)) => wrap(of_int(a, b), dtype),
        (a, b) => Float(of_float(a.single(), b.single())).to(dtype),
    }
}

fn wrap(value: i64, dtype: DType) -> Number {
    Int(if dtype == DType::I32 { (value as i32).into() } else { value })
}

fn add(a: Number, b: Number, alpha: f64, dtype: DType) -> Number {
    let alpha32 = alpha as f32;
    match (a, b, dtype) {
        (Int(a), Int(b), _) => wrap(a.wrapping_add((alpha as i64).wrapping_mul(b)), dtype),
        // bf16 is scaled by a product of its own.
        (Float(a), Float(b), DType::Bf16) => {
            let scaled = bf16::from_f32(bf16::from_f32(alpha32).to_f32() * b);
            Float(bf16::from_f32(a + scaled.to_f32()).to_f32())
        }
        (Float(a), Float(b), DType::F16) => Float(f16::from_f32(a + alpha32 * b).to_f32()),
        (a, b, _) => Float(a.single() + alpha32 * b.single()),
    }
}

fn sub(a: Number, b: Number, alpha: f64, dtype: DType) -> Number {
    match (a, b) {
        (Int(a), Int(b)) => wrap(a.wrapping_sub((alpha as i64).wrapping_mul(b)), dtype),
        (a, b) => Float(a.single() - alpha as f32 * b.single()).to(dtype),
    }
}

/// Two inputs that broadcast to a shape.
fn operands(bench: &mut Bench, shape: &[usize], dtypes: [DType; 2]) -> [(Host, Laid); 2] {
    // One of them has every dimension.
    let narrow = bench.random.narrower(shape);
    let shapes = if bench.random.once(2) { [shape.to_vec(), narrow] } else { [narrow, shape.to_vec()] };
    [0, 1].map(|i| bench.input(dtypes[i], &shapes[i], Values::Wild))
}

#[test]
fn pairs() {
    for (name, operator, formula) in PAIRS {
        cases(name, 250, |bench| {
            let dtypes = [0, 1].map(|_| bench.random.pick(NUMBERS));
            let (computed, to) = (common(dtypes[0], dtypes[1]), bench.random.pick(NUMBERS));
            let takes_factor = matches!(name, "add" | "sub");
            let factors: &[f64] = if computed.is_float() { &[1.0, 1.0, -2.0, 0.3] } else { &[1.0, -2.0, 3.0] };
            let alpha = if takes_factor { bench.random.pick(factors) } else { 1.0 };
            // A difference with a factor is computed in f32 from the start.
            let computed = if name == "sub" && alpha != 1.0 && computed.is_float() { DType::F32 } else { computed };
            let shape = bench.random.shape(0..=5);
            let [(a, a_laid), (b, b_laid)] = operands(bench, &shape, dtypes);
            let mut out = bench.output(to, &shape);
            bench.run(|sequence| operator(sequence, &a_laid.view(), &b_laid.view(), alpha, &mut out.view_mut()));
            let due = |at: &Vec<usize>| {
                let [a, b] = [&a, &b].map(|x| x.broadcast_at(at).to(computed));
                Due::Exactly(formula(a, b, alpha, computed).to(to))
            };
            let due: Vec<Due> = coordinates(&shape).iter().map(due).collect();
            bench.check(&[&a, &b], &out, &due);
        });
    }
}

#[test]
fn selections() {
    cases("select", 200, |bench| {
        let dtype = bench.random.pick(NUMBERS);
        let shape = bench.random.shape(0..=5);
        let [(a, a_laid), (b, b_laid)] = operands(bench, &shape, [dtype; 2]);
        let own = bench.random.narrower(&shape);
        let (condition, laid) = bench.input(DType::Bool, &own, Values::Wild);
        let mut out = bench.output(dtype, &shape);
        bench.run(|sequence| op::select(sequence, &laid.view(), &a_laid.view(), &b_laid.view(), &mut out.view_mut()));
        let due = |at: &Vec<usize>| {
            Due::Exactly(if condition.broadcast_at(at).int() != 0 { a.broadcast_at(at) } else { b.broadcast_at(at) })
        };
        let due: Vec<Due> = coordinates(&shape).iter().map(due).collect();
        bench.check(&[&condition, &a, &b], &out, &due);
    });
}
