//! Operators along dimensions.

use std::cmp::Ordering;

use ascend_moe::DType;
use ascend_moe::op::{self, AddRmsNormOutputs};

use crate::bench::{Bench, Host, Laid, cases, coordinates, offset};
use crate::number::{Due, EPS, FLOATS, Float, Int, NUMBERS, Number};
use crate::random::Values;

/// The numbers along a dimension through some coordinates. A tensor without dimensions has one lane of one number.
fn lane(x: &Host, axis: usize, at: &[usize]) -> Vec<Number> {
    let Some(&size) = x.shape.get(axis) else { return x.values.clone() };
    let mut at = at.to_vec();
    let mut pick = |i| {
        at[axis] = i;
        x.at(&at)
    };
    (0..size).map(&mut pick).collect()
}

#[test]
fn softmax() {
    cases("softmax", 200, |bench| {
        let (dtype, to) = (bench.random.pick(FLOATS), bench.random.pick(FLOATS));
        let shape = bench.random.shape(0..=4);
        let (axis, dim) = bench.random.dim(shape.len());
        let (x, laid) = bench.input(dtype, &shape, Values::Wild);
        let mut out = bench.output(to, &shape);
        bench.run(|sequence| op::softmax(sequence, &laid.view(), dim, &mut out.view_mut()));
        let due = |at: &Vec<usize>| {
            let lane = lane(&x, axis, at);
            let max = lane.iter().map(|x| x.wide()).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = lane.iter().map(|x| (x.wide() - max).exp()).sum();
            let y = (x.at(at).wide() - max).exp() / sum;
            // The difference is rounded, which the exponential carries on; its size counts only where the power does.
            let error = EPS * y * (lane.len() as f64 + 4.0 + (x.at(at).wide() - max).abs().min(200.0)) + 1e-37;
            Due::near(y, error).to(dtype).to(to)
        };
        let due: Vec<Due> = coordinates(&shape).iter().map(due).collect();
        bench.check(&[&x], &out, &due);
    });
}

/// NaN above all numbers, 0 and -0 equal.
fn order(a: Number, b: Number) -> Ordering {
    match (a, b) {
        (Int(a), Int(b)) => a.cmp(&b),
        (a, b) => a.wide().partial_cmp(&b.wide()).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
    }
}

/// Numbers and their places in order; equal ones as they come.
fn sorted(lane: &[Number], descending: bool) -> Vec<(Number, i64)> {
    let mut all: Vec<(Number, i64)> = lane.iter().copied().zip(0..).collect();
    all.sort_by(|(a, _), (b, _)| if descending { order(*b, *a) } else { order(*a, *b) });
    all
}

/// What is due at each place of the values and of the indices.
fn ordered(x: &Host, shape: &[usize], axis: usize, descending: bool) -> (Vec<Due>, Vec<Due>) {
    let pick = |at: &Vec<usize>| {
        let (value, index) = sorted(&lane(x, axis, at), descending)[at.get(axis).copied().unwrap_or(0)];
        (Due::Exactly(value), Due::Exactly(Int(index)))
    };
    coordinates(shape).iter().map(pick).unzip()
}

/// Few different values, so that there are ties.
fn with_ties(bench: &mut Bench, dtype: DType, shape: &[usize]) -> (Host, Laid) {
    let values = bench.random.pick(&[Values::Wild, Values::Grid]);
    bench.input(dtype, shape, values)
}

#[test]
fn orders() {
    cases("top_k", 200, |bench| {
        let dtype = bench.random.pick(NUMBERS);
        let mut shape = bench.random.shape(0..=4);
        let (axis, dim) = bench.random.dim(shape.len());
        let (x, laid) = with_ties(bench, dtype, &shape);
        let k = bench.random.below(shape.get(axis).copied().unwrap_or(1) + 1);
        let largest = bench.random.once(2);
        match shape.get_mut(axis) {
            Some(size) => *size = k,
            // A single number is chosen or it is not.
            None if k == 0 => return,
            None => {}
        }
        let (mut values, mut indices) = (bench.output(dtype, &shape), bench.output(DType::I64, &shape));
        bench.run(|sequence| {
            let outputs = (&mut values.view_mut(), &mut indices.view_mut());
            op::top_k(sequence, &laid.view(), k, dim, largest, outputs.0, outputs.1)
        });
        let (value_due, index_due) = ordered(&x, &shape, axis, largest);
        bench.check(&[&x], &values, &value_due);
        bench.check(&[&x], &indices, &index_due);
    });
    cases("sort", 200, |bench| {
        let dtype = bench.random.pick(NUMBERS);
        let shape = bench.random.shape(0..=4);
        let (axis, dim) = bench.random.dim(shape.len());
        let (x, laid) = with_ties(bench, dtype, &shape);
        let descending = bench.random.once(2);
        let (mut values, mut indices) = (bench.output(dtype, &shape), bench.output(DType::I64, &shape));
        let mut alone = bench.output(DType::I64, &shape);
        bench.run(|sequence| {
            let outputs = (&mut values.view_mut(), &mut indices.view_mut());
            op::sort(sequence, &laid.view(), dim, descending, outputs.0, outputs.1)?;
            op::argsort(sequence, &laid.view(), dim, descending, &mut alone.view_mut())
        });
        let (value_due, index_due) = ordered(&x, &shape, axis, descending);
        bench.check(&[&x], &values, &value_due);
        bench.check(&[&x], &indices, &index_due);
        bench.check(&[&x], &alone, &index_due);
    });
}

/// A sum in the dtype of the output, of numbers converted to it first: exact of grids, else within what f32 loses.
fn summed(numbers: &[Number], to: DType, values: Values) -> Due {
    let numbers: Vec<Number> = numbers.iter().map(|number| number.to(to)).collect();
    if !to.is_float() {
        return Due::Exactly(Int(numbers.iter().map(|number| number.int()).sum()).to(to));
    }
    let sum: f64 = numbers.iter().map(|number| number.wide()).sum();
    let size: f64 = numbers.iter().map(|number| number.wide().abs()).sum();
    let exact = values == Values::Grid;
    Due::near(sum, if exact { 0.0 } else { numbers.len() as f64 * EPS * size }).to(to)
}

/// Values to add; sums of integers do not leave their range.
fn addends(bench: &mut Bench, to: DType) -> Values {
    if to.is_float() { bench.random.pick(&[Values::Grid, Values::SmoothOrNot]) } else { Values::Grid }
}

/// Dimensions to reduce, none of which may mean all, with their names.
fn reduced_dims(bench: &mut Bench, rank: usize) -> (Vec<bool>, Vec<i64>) {
    let mut gone: Vec<bool> = (0..rank).map(|_| bench.random.once(2)).collect();
    let mut named: Vec<i64> = (0..rank).filter(|&axis| gone[axis]).map(|axis| axis as i64).collect();
    if named.is_empty() {
        gone.fill(true);
    }
    if bench.random.once(2) {
        named.reverse();
        named.iter_mut().for_each(|dim| *dim -= rank as i64);
    }
    (gone, named)
}

/// The shape without some dimensions, or with 1 in their place.
fn without(shape: &[usize], gone: &[bool], keep: bool) -> Vec<usize> {
    let sizes = shape.iter().zip(gone).map(|(&size, &gone)| if gone { keep.then_some(1) } else { Some(size) });
    sizes.flatten().collect()
}

/// The numbers that come together at each place of the output.
fn collected(x: &Host, gone: &[bool]) -> Vec<Vec<Number>> {
    let kept = without(&x.shape, gone, true);
    let mut all = vec![Vec::new(); kept.iter().product()];
    for (at, &value) in coordinates(&x.shape).iter().zip(&x.values) {
        let at: Vec<usize> = at.iter().zip(gone).map(|(&at, &gone)| if gone { 0 } else { at }).collect();
        all[offset(&kept, &at)].push(value);
    }
    all
}

#[test]
fn sums() {
    cases("cumsum", 200, |bench| {
        let (dtype, to) = (bench.random.pick(NUMBERS), bench.random.pick(NUMBERS));
        let shape = bench.random.shape(0..=4);
        let (axis, dim) = bench.random.dim(shape.len());
        let values = addends(bench, to);
        let (x, laid) = bench.input(dtype, &shape, values);
        let mut out = bench.output(to, &shape);
        bench.run(|sequence| op::cumsum(sequence, &laid.view(), dim, &mut out.view_mut()));
        let due = |at: &Vec<usize>| summed(&lane(&x, axis, at)[..=at.get(axis).copied().unwrap_or(0)], to, values);
        let due: Vec<Due> = coordinates(&shape).iter().map(due).collect();
        bench.check(&[&x], &out, &due);
    });
    cases("reduce_sum", 250, |bench| {
        let (dtype, to) = (bench.random.pick(NUMBERS), bench.random.pick(NUMBERS));
        let shape = bench.random.shape(0..=5);
        let (gone, dims) = reduced_dims(bench, shape.len());
        let keep = bench.random.once(2);
        let values = addends(bench, to);
        let (x, laid) = bench.input(dtype, &shape, values);
        let mut out = bench.output(to, &without(&shape, &gone, keep));
        bench.run(|sequence| op::reduce_sum(sequence, &laid.view(), &dims, keep, &mut out.view_mut()));
        let due: Vec<Due> = collected(&x, &gone).iter().map(|numbers| summed(numbers, to, values)).collect();
        bench.check(&[&x], &out, &due);
    });
}

#[test]
fn maxima() {
    cases("amax", 200, |bench| {
        let dtype = bench.random.pick(NUMBERS);
        let shape: Vec<usize> = bench.random.shape(0..=5).into_iter().map(|size| size.max(1)).collect();
        let (gone, dims) = reduced_dims(bench, shape.len());
        let keep = bench.random.once(2);
        let (x, laid) = bench.input(dtype, &shape, Values::Wild);
        let mut out = bench.output(dtype, &without(&shape, &gone, keep));
        bench.run(|sequence| op::amax(sequence, &laid.view(), &dims, keep, &mut out.view_mut()));
        let greatest = |numbers: &Vec<Number>| numbers.iter().copied().max_by(|a, b| order(*a, *b)).unwrap();
        let due: Vec<Due> = collected(&x, &gone).iter().map(|numbers| Due::Exactly(greatest(numbers))).collect();
        bench.check(&[&x], &out, &due);
    });
}

/// The root-mean-square norm of rows: what is due of the values and of the factors.
fn normalised(x: &Host, gamma: &Host, eps: f64) -> (Vec<Due>, Vec<Due>) {
    let (n, x_dtype) = (gamma.values.len(), x.dtype);
    let (mut y, mut rstd) = (Vec::new(), Vec::new());
    for row in x.values.chunks(n.max(1)) {
        let squares: f64 = row.iter().map(|x| x.wide() * x.wide()).sum();
        let factor = 1.0 / (squares / n as f64 + eps).sqrt();
        let loose = (n as f64 + 6.0) * EPS;
        rstd.push(Due::near(factor, factor * loose));
        for (x, gamma) in row.iter().zip(&gamma.values) {
            let value = x.wide() * factor;
            // Rounded before it is multiplied.
            let rounded = Due::near(value, value.abs() * loose).to(x_dtype);
            let Due::Between(low, high) = rounded else { panic!("{rounded:?} of a float") };
            let ends = [low * gamma.wide(), high * gamma.wide()];
            y.push(Due::Between(ends[0].min(ends[1]), ends[0].max(ends[1])).to(x_dtype));
        }
    }
    (y, rstd)
}

/// The sum of two inputs, rounded.
fn added(a: &Host, b: &Host) -> Host {
    let dtype = a.dtype;
    let sum = |(a, b): (&Number, &Number)| Float(a.single() + b.single()).to(dtype);
    Host { dtype, shape: a.shape.clone(), values: a.values.iter().zip(&b.values).map(sum).collect() }
}

#[test]
fn norms() {
    cases("rms_norm", 150, |bench| {
        let (dtype, gamma_dtype) = (bench.random.pick(FLOATS), bench.random.pick(FLOATS));
        let (shape, behind, factors) = norm_shapes(bench);
        let (x, x_laid) = bench.input(dtype, &shape, Values::SmoothOrNot);
        let (gamma, gamma_laid) = bench.input(gamma_dtype, &behind, Values::Smooth);
        let (mut y, mut rstd) = (bench.output(dtype, &shape), bench.output(DType::F32, &factors));
        let eps = bench.random.pick(&[1e-6, 1e-2]);
        bench.run(|sequence| {
            let outputs = (&mut y.view_mut(), &mut rstd.view_mut());
            op::rms_norm(sequence, &x_laid.view(), &gamma_laid.view(), eps, outputs.0, outputs.1)
        });
        let (y_due, rstd_due) = normalised(&x, &gamma, eps);
        bench.check(&[&x, &gamma], &y, &y_due);
        bench.check(&[&x], &rstd, &rstd_due);
    });
    cases("add_rms_norm", 150, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let (shape, behind, factors) = norm_shapes(bench);
        let (a, a_laid) = bench.input(dtype, &shape, Values::SmoothOrNot);
        let (b, b_laid) = bench.input(dtype, &shape, Values::Smooth);
        let (gamma, gamma_laid) = bench.input(dtype, &behind, Values::Smooth);
        let (mut y, mut sum) = (bench.output(dtype, &shape), bench.output(dtype, &shape));
        let mut rstd = bench.output(DType::F32, &factors);
        bench.run(|sequence| {
            let outputs =
                AddRmsNormOutputs { y: &mut y.view_mut(), rstd: &mut rstd.view_mut(), sum: &mut sum.view_mut() };
            op::add_rms_norm(sequence, &a_laid.view(), &b_laid.view(), &gamma_laid.view(), 1e-6, outputs)
        });
        let x = added(&a, &b);
        let (y_due, rstd_due) = normalised(&x, &gamma, 1e-6);
        bench.check(&[&a, &b], &sum, &x.values.iter().map(|&x| Due::Exactly(x)).collect::<Vec<_>>());
        bench.check(&[&x, &gamma], &y, &y_due);
        bench.check(&[&x], &rstd, &rstd_due);
    });
}

/// Shapes of an input, of its last dimensions, and with 1 in their place.
fn norm_shapes(bench: &mut Bench) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let mut shape = bench.random.shape(1..=4);
    let kept = bench.random.below(shape.len());
    // Rows of nothing have no norm.
    shape[kept..].iter_mut().for_each(|size| *size = (*size).max(1));
    let factors = [&shape[..kept], &vec![1; shape.len() - kept][..]].concat();
    (shape.clone(), shape[kept..].to_vec(), factors)
}
