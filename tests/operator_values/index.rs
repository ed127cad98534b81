//! Elements and slices by index, tensors joined and reordered.

use ascend_moe::op::{self, ScatterReduce};
use ascend_moe::{DType, Result, Sequence, TensorView, TensorViewMut};

use crate::bench::{Bench, Host, Laid, cases, coordinates, offset};
use crate::number::{ALL, Due, Float, Int, Number};
use crate::random::Values;

type Indexed = fn(&Sequence<'_>, &TensorView<'_>, i64, &TensorView<'_>, &mut TensorViewMut<'_>) -> Result<()>;

/// Indices of a dimension, counted from either end; none where it has no elements.
fn indices(bench: &mut Bench, shape: &[usize], size: usize) -> (Host, Laid) {
    let dtype = bench.random.pick(&[DType::I32, DType::I64]);
    let shape = if size == 0 { vec![0; shape.len()] } else { shape.to_vec() };
    bench.input(dtype, &shape, Values::Index(-(size as i64), size.max(1) as i64))
}

/// The element that an index names.
fn wrapped(index: Number, size: usize) -> usize {
    let index = index.int();
    usize::try_from(if index < 0 { index + size as i64 } else { index }).unwrap()
}

fn exactly(numbers: impl IntoIterator<Item = Number>) -> Vec<Due> {
    numbers.into_iter().map(Due::Exactly).collect()
}

/// A shape no larger than another but along a dimension.
fn within(bench: &mut Bench, shape: &[usize], axis: usize) -> Vec<usize> {
    let mut size = |(i, &size): (usize, &usize)| {
        if i == axis { bench.random.below(6) } else { size - bench.random.below(2).min(size) }
    };
    shape.iter().enumerate().map(&mut size).collect()
}

#[test]
fn gathers() {
    cases("gather", 200, |bench| {
        let dtype = bench.random.pick(ALL);
        let shape = bench.random.shape(0..=4);
        let (axis, dim) = bench.random.dim(shape.len());
        let (x, x_laid) = bench.input(dtype, &shape, Values::Wild);
        let own = within(bench, &shape, axis);
        let (index, laid) =
            indices(bench, &own, if x.values.is_empty() { 0 } else { shape.get(axis).copied().unwrap_or(1) });
        let mut out = bench.output(dtype, &index.shape);
        bench.run(|sequence| op::gather(sequence, &x_laid.view(), dim, &laid.view(), &mut out.view_mut()));
        let due = coordinates(&index.shape).into_iter().map(|mut at| {
            // A tensor without dimensions has one element to name.
            if let Some(&size) = shape.get(axis) {
                at[axis] = wrapped(index.at(&at), size);
            }
            x.at(&at)
        });
        bench.check(&[&x, &index], &out, &exactly(due));
    });
}

/// Slices along a dimension by an index of a shape, which takes the place of the dimension.
fn slices(x: &Host, axis: usize, index: &Host) -> (Vec<usize>, Vec<Due>) {
    let behind = x.shape.get(axis + 1..).unwrap_or_default();
    let shape = [&x.shape[..axis], &index.shape, behind].concat();
    let due = coordinates(&shape).into_iter().map(|at| {
        let (before, rest) = at.split_at(axis);
        let (named, behind) = rest.split_at(index.shape.len());
        x.at(&[before, &[wrapped(index.at(named), x.shape[axis])], behind].concat())
    });
    (shape.clone(), exactly(due))
}

#[test]
fn selections() {
    let operators: [(&str, Indexed, usize); 2] =
        [("index_select", op::index_select, 1), ("gather_v2", op::gather_v2, 3)];
    for (name, operator, most) in operators {
        cases(name, 200, |bench| {
            let dtype = bench.random.pick(ALL);
            let shape = bench.random.shape(1..=4);
            let (axis, dim) = bench.random.dim(shape.len());
            let (x, x_laid) = bench.input(dtype, &shape, Values::Wild);
            let own = bench.random.shape(1..=most);
            let (index, laid) = indices(bench, &own, shape[axis]);
            let (shape, due) = slices(&x, axis, &index);
            let mut out = bench.output(dtype, &shape);
            bench.run(|sequence| operator(sequence, &x_laid.view(), dim, &laid.view(), &mut out.view_mut()));
            bench.check(&[&x, &index], &out, &due);
        });
    }
    cases("embedding", 150, |bench| {
        let dtype = bench.random.pick(ALL);
        let shape = bench.random.shape(2..=2);
        let (x, x_laid) = bench.input(dtype, &shape, Values::Wild);
        let own = bench.random.shape(0..=3);
        // A single index is there whatever the rows are.
        if shape[0] == 0 && own.is_empty() {
            return;
        }
        // Unlike the others it takes no index from the end.
        let own = if shape[0] == 0 { vec![0; own.len()] } else { own };
        let wide = bench.random.pick(&[DType::I32, DType::I64]);
        let (index, laid) = bench.input(wide, &own, Values::Index(0, shape[0].max(1) as i64));
        let (shape, due) = slices(&x, 0, &index);
        let mut out = bench.output(dtype, &shape);
        bench.run(|sequence| op::embedding(sequence, &x_laid.view(), &laid.view(), &mut out.view_mut()));
        bench.check(&[&x, &index], &out, &due);
    });
}

/// One number upon another: rounded each time, integers wrap around, booleans are joined by "or" and "and".
fn joined(reduce: ScatterReduce, a: Number, b: Number, dtype: DType) -> Number {
    match (reduce, a, b) {
        (ScatterReduce::Replace, _, b) => b,
        (ScatterReduce::Add, Int(a), Int(b)) if dtype == DType::Bool => Int(a | b),
        (ScatterReduce::Add, Int(a), Int(b)) => wrap(a.wrapping_add(b), dtype),
        (ScatterReduce::Multiply, Int(a), Int(b)) => wrap(a.wrapping_mul(b), dtype),
        (ScatterReduce::Add, a, b) => Float(a.single() + b.single()).to(dtype),
        (ScatterReduce::Multiply, a, b) => Float(a.single() * b.single()).to(dtype),
    }
}

fn wrap(value: i64, dtype: DType) -> Number {
    Int(if dtype == DType::I32 { (value as i32).into() } else { value })
}

#[test]
fn scatters() {
    cases("scatter", 250, |bench| {
        let dtype = bench.random.pick(ALL);
        let reduce = bench.random.pick(&[ScatterReduce::Replace, ScatterReduce::Add, ScatterReduce::Multiply]);
        let shape = bench.random.shape(1..=4);
        let (axis, dim) = bench.random.dim(shape.len());
        let (x, x_laid) = bench.input(dtype, &shape, Values::Wild);
        let own = within(bench, &shape, axis);
        let (index, laid) = indices(bench, &own, if x.values.is_empty() { 0 } else { shape[axis] });
        let larger: Vec<usize> = index.shape.iter().map(|size| size + bench.random.below(2)).collect();
        let (src, src_laid) = bench.input(dtype, &larger, Values::Wild);
        let mut out = bench.output(dtype, &shape);
        bench.run(|sequence| {
            let (x, index, src) = (x_laid.view(), laid.view(), src_laid.view());
            op::scatter(sequence, &x, dim, &index, &src, reduce, &mut out.view_mut())
        });
        let mut due = x.values.clone();
        for at in coordinates(&index.shape) {
            let mut to = at.clone();
            to[axis] = wrapped(index.at(&at), shape[axis]);
            let target = &mut due[offset(&shape, &to)];
            *target = joined(reduce, *target, src.at(&at), dtype);
        }
        bench.check(&[&x, &index, &src], &out, &exactly(due));
    });
}

#[test]
fn orders() {
    cases("cat", 150, |bench| {
        let dtype = bench.random.pick(ALL);
        let mut shape = bench.random.shape(1..=4);
        let (axis, dim) = bench.random.dim(shape.len());
        let count = 1 + bench.random.below(4);
        let mut parts = Vec::new();
        for _ in 0..count {
            shape[axis] = bench.random.below(5);
            parts.push(bench.input(dtype, &shape, Values::Wild));
        }
        shape[axis] = parts.iter().map(|(part, _)| part.shape[axis]).sum();
        let mut out = bench.output(dtype, &shape);
        bench.run(|sequence| {
            let views: Vec<TensorView<'_>> = parts.iter().map(|(_, laid)| laid.view()).collect();
            op::cat(sequence, &views, dim, &mut out.view_mut())
        });
        let due = coordinates(&shape).into_iter().map(|mut at| {
            let mut part = parts.iter().map(|(part, _)| part);
            let from = part.find(|part| {
                let here = at[axis] < part.shape[axis];
                at[axis] -= if here { 0 } else { part.shape[axis] };
                here
            });
            from.unwrap().at(&at)
        });
        let inputs: Vec<&Host> = parts.iter().map(|(part, _)| part).collect();
        bench.check(&inputs, &out, &exactly(due));
    });
    cases("permute", 150, |bench| {
        let dtype = bench.random.pick(ALL);
        let shape = bench.random.shape(0..=5);
        let (x, laid) = bench.input(dtype, &shape, Values::Wild);
        let mut left: Vec<usize> = (0..shape.len()).collect();
        let order: Vec<usize> = (0..shape.len()).map(|_| left.swap_remove(bench.random.below(left.len()))).collect();
        let back = bench.random.once(2);
        let dims: Vec<i64> =
            order.iter().map(|&axis| axis as i64 - if back { shape.len() as i64 } else { 0 }).collect();
        let turned: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        let mut out = bench.output(dtype, &turned);
        bench.run(|sequence| op::permute(sequence, &laid.view(), &dims, &mut out.view_mut()));
        let due = coordinates(&turned).into_iter().map(|at| {
            let mut from = vec![0; at.len()];
            order.iter().zip(&at).for_each(|(&axis, &at)| from[axis] = at);
            x.at(&from)
        });
        bench.check(&[&x], &out, &exactly(due));
    });
}
