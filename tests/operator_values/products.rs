//! Matrix products.

use ascend_moe::op::{self, AddmmFactors, CubeMath, GroupListKind, GroupedMatmul, Groups};
use ascend_moe::{DType, Error};

use crate::bench::{Bench, Host, Laid, Layout, cases, coordinates};
use crate::number::{Due, EPS, FLOATS, Float, Int, Number};
use crate::random::Values;

/// The sum of products of two rows of numbers, summed in f32 in any order.
fn dot(pairs: impl Iterator<Item = (Number, Number)>) -> (f64, f64) {
    let (mut sum, mut size, mut count) = (0.0, 0.0, 0);
    for (a, b) in pairs {
        let product = a.wide() * b.wide();
        (sum, size, count) = (sum + product, size + product.abs(), count + 1);
    }
    (sum, size * EPS * f64::from(count))
}

/// Dimensions of a product; now and then long, empty or of one.
fn size(bench: &mut Bench) -> usize {
    if bench.random.once(15) { 0 } else { bench.random.pick(&[1, 2, 3, 5, 8, 17, 40]) }
}

fn math(bench: &mut Bench) -> CubeMath {
    bench.random.pick(&[CubeMath::KeepDType, CubeMath::AllowHf32, CubeMath::GroupedF32])
}

/// What is due at coordinates of a product with leading dimensions; vectors lack theirs.
fn product(a: &Host, b: &Host, at: &[usize]) -> (f64, f64) {
    let (a_vector, b_vector) = (a.shape.len() == 1, b.shape.len() == 1);
    let own = usize::from(!a_vector) + usize::from(!b_vector);
    let (batch, matrix) = at.split_at(at.len() - own);
    let row = if a_vector { &[][..] } else { &matrix[..1] };
    let col = if b_vector { &[][..] } else { &matrix[matrix.len() - 1..] };
    // The leading dimensions of an operand are the last ones of the product's.
    let lead = |x: &Host| {
        let own = x.shape.len().saturating_sub(2);
        let at = batch[batch.len() - own..].iter().zip(&x.shape);
        at.map(|(&at, &size)| if size == 1 { 0 } else { at }).collect::<Vec<_>>()
    };
    let (a_lead, b_lead) = (lead(a), lead(b));
    let k = *a.shape.last().unwrap();
    dot((0..k).map(|k| (a.at(&[&a_lead[..], row, &[k]].concat()), b.at(&[&b_lead[..], &[k], col].concat()))))
}

/// Runs one kind of product over its shapes.
macro_rules! products {
    ($name:literal, $count:literal, $operator:path, |$bench:ident| $shapes:expr) => {
        cases($name, $count, |$bench| {
            let (a_shape, b_shape, shape): (Vec<usize>, Vec<usize>, Vec<usize>) = $shapes;
            let bench = $bench;
            let (dtype, to, math) = (bench.random.pick(FLOATS), bench.random.pick(FLOATS), math(bench));
            let values = bench.random.pick(&[Values::Smooth, Values::SmoothOrNot]);
            let (a, a_laid) = bench.input(dtype, &a_shape, values);
            let (b, b_laid) = bench.input(dtype, &b_shape, values);
            let mut out = bench.output(to, &shape);
            bench.run(|sequence| $operator(sequence, &a_laid.view(), &b_laid.view(), math, &mut out.view_mut()));
            let due = |at: &Vec<usize>| {
                let (sum, error) = product(&a, &b, at);
                Due::near(sum, error).to(to)
            };
            let due: Vec<Due> = coordinates(&shape).iter().map(due).collect();
            bench.check(&[&a, &b], &out, &due);
        })
    };
}

#[test]
fn matrices() {
    products!("mm", 120, op::mm, |bench| {
        let [m, k, n] = [0; 3].map(|_| size(bench));
        (vec![m, k], vec![k, n], vec![m, n])
    });
}

#[test]
fn stacks() {
    products!("batch_matmul", 100, op::batch_matmul, |bench| {
        let [m, k, n] = [0; 3].map(|_| size(bench));
        let batch = 1 + bench.random.below(3);
        (vec![batch, m, k], vec![batch, k, n], vec![batch, m, n])
    });
    products!("matmul", 150, op::matmul, |bench| {
        let [m, k, n] = [0; 3].map(|_| size(bench));
        let batch = bench.random.shape(0..=3);
        let batch: Vec<usize> = batch.into_iter().map(|size| size.min(3)).collect();
        // A vector has no leading dimensions.
        let (row, column) = (bench.random.once(5), bench.random.once(5));
        let narrow = bench.random.narrower(&batch);
        let swap = bench.random.once(2);
        let (mut a_lead, mut b_lead) = if swap { (narrow, batch.clone()) } else { (batch.clone(), narrow) };
        if row {
            a_lead.clear();
        }
        if column {
            b_lead.clear();
        }
        let lead = match (row, column) {
            (true, true) => vec![],
            (true, false) => b_lead.clone(),
            (false, true) => a_lead.clone(),
            (false, false) => batch,
        };
        let a = if row { vec![k] } else { [&a_lead[..], &[m, k]].concat() };
        let b = if column { vec![k] } else { [&b_lead[..], &[k, n]].concat() };
        let own: Vec<usize> = [(!row).then_some(m), (!column).then_some(n)].into_iter().flatten().collect();
        (a, b, [lead, own].concat())
    });
}

#[test]
fn addmm() {
    cases("addmm", 120, |bench| {
        let [m, k, n] = [0; 3].map(|_| size(bench));
        let (dtype, math) = (bench.random.pick(FLOATS), math(bench));
        let factors = AddmmFactors {
            beta: bench.random.pick(&[1.0, 0.0, -0.5, 0.3]),
            alpha: bench.random.pick(&[1.0, 2.0, 0.7]),
        };
        let (a, a_laid) = bench.input(dtype, &[m, k], Values::Smooth);
        let (b, b_laid) = bench.input(dtype, &[k, n], Values::Smooth);
        let own = bench.random.narrower(&[m, n]);
        let (c, c_laid) = bench.input(dtype, &own, Values::Smooth);
        let mut out = bench.output(dtype, &[m, n]);
        bench.run(|sequence| {
            let (a, b, c) = (a_laid.view(), b_laid.view(), c_laid.view());
            op::addmm(sequence, &c, &a, &b, factors, math, &mut out.view_mut())
        });
        let (beta, alpha) = (f64::from(factors.beta as f32), f64::from(factors.alpha as f32));
        let due = |at: &Vec<usize>| {
            let (sum, error) = product(&a, &b, at);
            let addend = beta * c.broadcast_at(at).wide();
            let error = alpha.abs() * error + 2.0 * EPS * (addend.abs() + (alpha * sum).abs());
            Due::near(addend + alpha * sum, error).to(dtype)
        };
        let due: Vec<Due> = coordinates(&[m, n]).iter().map(due).collect();
        bench.check(&[&a, &b, &c], &out, &due);
    });
}

#[test]
fn groups() {
    cases("grouped_matmul", 150, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let (k, n) = (bench.random.pick(&[1, 3, 8, 17]), bench.random.pick(&[1, 2, 5, 16]));
        let experts = 1 + bench.random.below(4);
        // Rows of each expert, some of them none, and rows of no expert behind them.
        let (counts, counts_laid) = bench.input(DType::I64, &[experts], Values::Index(0, 4));
        let counts: Vec<usize> = counts.values.iter().map(|count| count.int() as usize).collect();
        let taken: usize = counts.iter().sum();
        let rows = taken + bench.random.below(3);
        let kind = bench.random.pick(&[GroupListKind::Count, GroupListKind::Cumsum, GroupListKind::KeyValue]);
        let (mut end, mut list) = (0, Vec::new());
        for (expert, &count) in counts.iter().enumerate() {
            end += count;
            match kind {
                GroupListKind::Count => {}
                GroupListKind::Cumsum => list.push(end),
                // Experts without rows are left out; zeros fill the list.
                GroupListKind::KeyValue if count == 0 => {}
                GroupListKind::KeyValue => list.extend([expert, count]),
            }
        }
        let list = if kind == GroupListKind::Count {
            counts_laid
        } else {
            let shape = if kind == GroupListKind::KeyValue { vec![experts, 2] } else { vec![experts] };
            list.resize(shape.iter().product(), 0);
            bench.given(DType::I64, &shape, list.into_iter().map(|value| Int(value as i64)).collect())
        };
        let (x, x_laid) = bench.input_in(Layout::Upright, dtype, &[rows, k], Values::Smooth);
        // Weights as they are, or transposed in memory.
        let transposed = bench.random.once(2);
        let stored = if transposed { [experts, n, k] } else { [experts, k, n] };
        let (weight, weight_laid) = bench.input_in(Layout::Upright, dtype, &stored, Values::Smooth);
        let bias_dtype = if dtype == DType::Bf16 { DType::F32 } else { dtype };
        let (bias, bias_laid) = bench.input(bias_dtype, &[experts, n], Values::Smooth);
        let biased = bench.random.once(2);
        let mut out = bench.output_in(Layout::Upright, dtype, &[rows, n]);
        bench.run(|sequence| {
            let view = weight_laid.view();
            let weight = [if transposed { view.transpose().unwrap() } else { view }];
            let bias = if biased { vec![bias_laid.view()] } else { vec![] };
            let groups = Groups::Rows { list: &list.view(), kind };
            let inputs = GroupedMatmul { x: &[x_laid.view()], weight: &weight, bias: &bias, groups };
            op::grouped_matmul(sequence, &inputs, &mut [out.view_mut()]).map(drop)
        });
        let expert_of: Vec<usize> =
            counts.iter().enumerate().flat_map(|(expert, &count)| vec![expert; count]).collect();
        let due = |at: &Vec<usize>| {
            let expert = *expert_of.get(at[0])?;
            let w = |k| weight.at(&if transposed { [expert, at[1], k] } else { [expert, k, at[1]] });
            let (sum, error) = dot((0..k).map(|k| (x.at(&[at[0], k]), w(k))));
            let bias = if biased { bias.at(&[expert, at[1]]) } else { Float(0.0) }.wide();
            Some(Due::near(sum + bias, error + 2.0 * EPS * (sum.abs() + bias.abs())).to(dtype))
        };
        bench.check_part(&[&x, &weight, &bias], &out, coordinates(&[rows, n]).iter().map(due));
    });
}

/// One tensor of a list, its weight, its bias and its output.
struct Listed {
    x: (Host, Laid),
    weight: (Host, Laid),
    bias: (Host, Laid),
    out: Laid,
}

#[test]
fn lists() {
    cases("grouped_matmul of tensors", 150, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let bias_dtype = if dtype == DType::Bf16 { DType::F32 } else { dtype };
        let count = 1 + bench.random.below(3);
        let biased = bench.random.once(2);
        let mut list: Vec<Listed> = (0..count)
            .map(|_| {
                let (k, n) = (bench.random.pick(&[1, 3, 8, 17]), bench.random.pick(&[1, 2, 5, 16]));
                let lead: Vec<usize> =
                    (0..bench.random.pick(&[1, 1, 2, 4])).map(|_| 1 + bench.random.below(3)).collect();
                Listed {
                    x: bench.input_in(Layout::Upright, dtype, &[&lead[..], &[k]].concat(), Values::Smooth),
                    weight: bench.input_in(Layout::Upright, dtype, &[k, n], Values::Smooth),
                    bias: bench.input(bias_dtype, &[n], Values::Smooth),
                    out: bench.output_in(Layout::Upright, dtype, &[&lead[..], &[n]].concat()),
                }
            })
            .collect();
        bench.run(|sequence| {
            let mut outs = Vec::new();
            let (mut x, mut weight, mut bias) = (Vec::new(), Vec::new(), Vec::new());
            for Listed { x: (_, x_laid), weight: (_, weight_laid), bias: (_, bias_laid), out } in &mut list {
                x.push(x_laid.view());
                weight.push(weight_laid.view());
                bias.extend(biased.then(|| bias_laid.view()));
                outs.push(out.view_mut());
            }
            let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &bias, groups: Groups::Tensors };
            op::grouped_matmul(sequence, &inputs, &mut outs).map(drop)
        });
        for Listed { x: (x, _), weight: (weight, _), bias: (bias, _), out } in &list {
            let (k, n) = (weight.shape[0], weight.shape[1]);
            let rows = x.values.chunks(k).flat_map(|row| (0..n).map(move |column| (row, column)));
            let due = rows.map(|(row, column)| {
                let (sum, error) = dot((0..k).map(|k| (row[k], weight.at(&[k, column]))));
                let bias = if biased { bias.values[column] } else { Float(0.0) }.wide();
                Due::near(sum + bias, error + 2.0 * EPS * (sum.abs() + bias.abs())).to(dtype)
            });
            bench.check(&[x, weight, bias], out, &due.collect::<Vec<_>>());
        }
    });
}

#[test]
fn weights_in_place() {
    cases("trans_matmul_weight", 60, |bench| {
        let dtype = bench.random.pick(&[DType::F16, DType::Bf16, DType::I8]);
        let block = if dtype == DType::I8 { 32 } else { 16 };
        let (k, n) = (1 + bench.random.below(40), block * (1 + bench.random.below(2)));
        let size = k.next_multiple_of(16) * n;
        // Memory for whole blocks, of which the weight is the first rows.
        let (weight, mut laid) = bench.input_in(Layout::Packed, dtype, &[k.next_multiple_of(16), n], Values::Grid);
        let mut short = bench.output_in(Layout::Packed, dtype, &[k, 5]);
        bench.run(|sequence| {
            assert_eq!(op::matmul_weight_size(sequence, &[k as i64, n as i64], dtype)?, size as u64);
            assert_eq!(op::matmul_weight_size(sequence, &[2, k as i64, 5], dtype)?, (2 * size / n * block) as u64);
            op::trans_matmul_weight(sequence, &mut laid.view_mut().rows(0..k)?)
        });
        // The layout is the device's own; here nothing moves.
        let due: Vec<Due> = weight.values.iter().map(|&value| Due::Exactly(value)).collect();
        bench.check(&[&weight], &laid, &due);
        let sequence = bench.stream.sequence().unwrap();
        let refused = op::trans_matmul_weight(&sequence, &mut short.view_mut());
        assert!(matches!(refused, Err(Error::Shape { .. })), "{refused:?} of {:?}", short.view());
    });
}
