//! Views, FRACTAL_NZ packing and elementwise operators: equal to their scalar references bit for bit on any pool, and how they
//! round.

use crate::common::*;
use half::{bf16, f16};
use moe_kernels::elementwise::{Number, Wide, add, cast, map2, mul, muls};
use moe_kernels::nz::{NzLayout, pack, unpack};
use moe_kernels::reference;
use moe_kernels::view::{Mat, MatMut, NdView, NdViewMut, broadcast_shape};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nz_is_the_reference_and_unpacks(
        batch in prop::collection::vec(1..4usize, 0..3),
        (rows, cols) in (0..40usize, 0..70usize),
        transposed in any::<bool>(),
    ) {
        nz_both(&batch, rows, cols, transposed, |i| i as u8);
        nz_both(&batch, rows, cols, transposed, |i| i as u16);
        nz_both(&batch, rows, cols, transposed, |i| i as u32);
    }

    #[test]
    fn elementwise_is_the_reference(
        axes in prop::collection::vec((0..5usize, 0..3usize, 0..3usize), 0..5),
        order in any::<u64>(),
        values in prop::collection::vec(wild(), 8),
        alpha in -2f32..2.0,
    ) {
        elementwise_both(&axes, order, |i| values[i % values.len()], alpha);
        elementwise_both(&axes, order, |i| bf(&values)[i % values.len()], alpha);
        elementwise_both(&axes, order, |i| h(&values)[i % values.len()], alpha);
        elementwise_both(&axes, order, |i| (i as i32).wrapping_mul(0x9e37_79b9u32 as i32), 3);
        elementwise_both(&axes, order, |i| (i as i64).wrapping_mul(0x9e37_79b9_7f4a_7c15u64 as i64), -5);
    }

    #[test]
    fn views_stay_inside(len in 0..40usize, shape in prop::collection::vec(0..5usize, 2), strides in prop::collection::vec(0..9usize, 2)) {
        let mut data: Vec<f32> = vec![0.0; len];
        let mut reached: Vec<usize> = Vec::new();
        for r in 0..shape[0] {
            reached.extend((0..shape[1]).map(|c| r * strides[0] + c * strides[1]));
        }
        let inside = reached.iter().all(|offset| *offset < len);
        let unique = reached.iter().collect::<std::collections::HashSet<_>>().len() == reached.len();
        prop_assert_eq!(Mat::new(&data, shape[0], shape[1], strides[0], strides[1]).is_ok(), inside);
        prop_assert_eq!(NdView::new(&data, &shape, &strides).is_ok(), inside);
        let written = MatMut::new(&mut data, shape[0], shape[1], strides[0], strides[1]).is_ok();
        // Views whose strides interleave are refused too, though their elements may be distinct.
        prop_assert!(!written || inside && unique);
        prop_assert_eq!(written, NdViewMut::new(&mut data, &shape, &strides).is_ok());
    }
}

fn nz_both<T>(batch: &[usize], rows: usize, cols: usize, transposed: bool, value: impl Fn(usize) -> T + Sync)
where
    T: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug,
{
    let matrices: usize = batch.iter().product();
    let shape: Vec<usize> = batch.iter().copied().chain([rows, cols]).collect();
    let logical: Vec<T> = (0..matrices * rows * cols).map(&value).collect();
    // The same matrices with rows and columns exchanged in memory.
    let mut memory = logical.clone();
    let mut strides = vec![rows * cols; batch.len()];
    for axis in (0..batch.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * batch[axis + 1];
    }
    strides.extend(if transposed { [1, rows] } else { [cols, 1] });
    if transposed {
        for (i, v) in logical.iter().enumerate() {
            let (matrix, r, c) = (i / (rows * cols), i / cols % rows, i % cols);
            memory[matrix * rows * cols + c * rows + r] = *v;
        }
    }
    let layout = NzLayout::new(rows, cols, size_of::<T>()).unwrap();
    let expected: Vec<T> = (0..matrices)
        .flat_map(|i| reference::pack_nz(&logical[i * rows * cols..][..rows * cols], rows, cols).unwrap())
        .collect();
    assert_eq!(expected.len(), matrices * layout.storage_len());
    on_pools(|| {
        let mut storage = vec![value(0xaa); expected.len()];
        pack(&NdView::new(&memory, &shape, &strides).unwrap(), &mut storage).unwrap();
        assert_eq!(storage, expected);
        let mut back = vec![value(0xaa); logical.len()];
        unpack(&storage, &shape, &mut back).unwrap();
        assert_eq!(back, logical);
    });
}

/// Bits, any NaN alike.
fn bits<T: Number>(values: &[T]) -> Vec<Option<u64>> {
    let bit = |v: &T| match v.widen() {
        Wide::Float(v) => (!v.is_nan()).then(|| u64::from(v.to_bits())),
        Wide::Int(v) => Some(v as u64),
    };
    values.iter().map(bit).collect()
}

/// Two operands that broadcast and an output with shuffled, padded strides. Of each axis: its size, and whether operand a and b
/// have it (0: size 1, 1 and 2: all of it).
fn elementwise_both<T: Number>(
    axes: &[(usize, usize, usize)],
    order: u64,
    value: impl Fn(usize) -> T,
    alpha: T::Scalar,
) {
    let of = |has: &dyn Fn(&(usize, usize, usize)) -> usize| -> Vec<usize> {
        axes.iter().map(|axis| if has(axis) == 0 { 1 } else { axis.0 }).collect()
    };
    let (shape_a, shape_b) = (of(&|axis| axis.1), of(&|axis| axis.2));
    let shape = broadcast_shape(&shape_a, &shape_b).unwrap();
    // Strides in a shuffled order of axes, with a gap after every second axis.
    let strides = |shape: &[usize], salt: u64| {
        let mut by: Vec<usize> = (0..shape.len()).collect();
        let key = noise(shape.len(), order ^ salt);
        by.sort_by(|a, b| key[*a].total_cmp(&key[*b]));
        let (mut strides, mut step) = (vec![0; shape.len()], 1);
        for (i, axis) in by.into_iter().enumerate() {
            strides[axis] = step;
            step = step * shape[axis].max(1) + i % 2;
        }
        (strides, step.max(1))
    };
    let (strides_a, len_a) = strides(&shape_a, order & 1);
    let (strides_b, len_b) = strides(&shape_b, order & 2);
    let (strides_out, len_out) = strides(&shape, order & 4);
    let (data_a, data_b): (Vec<T>, Vec<T>) =
        ((0..len_a).map(&value).collect(), (0..len_b).map(|i| value(i + 3)).collect());
    let a = NdView::new(&data_a, &shape_a, &strides_a).unwrap();
    let b = NdView::new(&data_b, &shape_b, &strides_b).unwrap();
    let poisoned: Vec<T> = vec![value(5); len_out];
    let expect = |f: &dyn Fn(T, T) -> T| {
        let mut data = poisoned.clone();
        reference::map2(&a, &b, &mut NdViewMut::new(&mut data, &shape, &strides_out).unwrap(), f).unwrap();
        bits(&data)
    };
    let sums = expect(&|a, b| a.add_scaled(b, alpha));
    let products = expect(&|a, b| a.multiply(b));
    on_pools(|| {
        let mut data = poisoned.clone();
        add(&a, &b, alpha, &mut NdViewMut::new(&mut data, &shape, &strides_out).unwrap()).unwrap();
        assert_eq!(bits(&data), sums);
        data.clone_from(&poisoned);
        mul(&a, &b, &mut NdViewMut::new(&mut data, &shape, &strides_out).unwrap()).unwrap();
        assert_eq!(bits(&data), products);
    });
    let mut scaled = vec![value(5); a.shape().iter().product()];
    muls(&a, alpha, &mut NdViewMut::contiguous(&mut scaled, &shape_a).unwrap()).unwrap();
    let mut copied = vec![value(5); scaled.len()];
    cast(&a, &mut NdViewMut::contiguous(&mut copied, &shape_a).unwrap()).unwrap();
    assert_eq!(bits(&scaled), bits(&copied.iter().map(|v| v.scale(alpha)).collect::<Vec<T>>()));
}

#[test]
fn elementwise_runs_longer_than_a_task() {
    let n = 50_000;
    let (a, b) = (noise(n, 1), noise(n, 2));
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + 0.5 * b).collect();
    let (a, b) = (NdView::contiguous(&a, &[n]).unwrap(), NdView::contiguous(&b, &[n]).unwrap());
    on_pools(|| {
        let mut out = vec![POISON; n];
        add(&a, &b, 0.5, &mut NdViewMut::contiguous(&mut out, &[n]).unwrap()).unwrap();
        same(&out, &expected);
    });
}

#[test]
fn rounding_of_the_elementwise_operators() {
    fn one<T: Number>(a: T, b: T, f: impl Fn(T, T) -> T + Sync) -> T {
        let (a, b, mut out) = ([a], [b], [a]);
        let (a, b) = (NdView::contiguous(&a, &[]).unwrap(), NdView::contiguous(&b, &[]).unwrap());
        map2(&a, &b, &mut NdViewMut::contiguous(&mut out, &[]).unwrap(), f).unwrap();
        out[0]
    }
    let (x, y) = (bf(&[1.0])[0], bf(&[1.0078125])[0]);
    // 2.0078125 is half way between 2 and the next bf16, 2.015625.
    assert_eq!(one(x, y, |a, b| a.add_scaled(b, 1.0)).to_f32(), 2.0);
    // alpha is rounded to bf16 first: 1.001 becomes 1.
    assert_eq!(one(x, y, |a, b| a.add_scaled(b, 1.001)), one(x, y, |a, b| a.add_scaled(b, 1.0)));
    // alpha * other is rounded before the sum: 3 * 1.0078125 = 3.0234375 is a tie and becomes 3.03125, minus 3 is 1/32.
    assert_eq!(one(bf(&[-3.0])[0], y, |a, b| a.add_scaled(b, 3.0)).to_f32(), 0.03125);
    assert_eq!(one(h(&[-3.0])[0], h(&[1.0 + 2f32.powi(-10)])[0], |a, b| a.add_scaled(b, 3.0)).to_f32(), 0.0029296875);
    // A scalar factor stays f32 for bf16 and becomes fp16 for fp16.
    assert_eq!(one(bf(&[256.0])[0], x, |a, _| a.scale(1.005)).to_f32(), 258.0);
    assert_eq!(one(h(&[2048.0])[0], h(&[1.0])[0], |a, _| a.scale(1.0006)).to_f32(), 2050.0);
    assert_eq!(one(i32::MAX, 1, |a, b| a.add_scaled(b, 1)), i32::MIN);
    assert_eq!(one(7i64, -3, |a, b| a.add_scaled(b, 2)), 1);
}

#[test]
fn casts() {
    fn to_type<A: Number, B: Number>(values: &[A], zero: B) -> Vec<B> {
        let mut out = vec![zero; values.len()];
        let a = NdView::contiguous(values, &[values.len()]).unwrap();
        cast(&a, &mut NdViewMut::contiguous(&mut out, &[values.len()]).unwrap()).unwrap();
        out
    }
    let x = [1.9f32, -1.9, 3e9, -3e9, f32::NAN, f32::INFINITY, 0.5];
    assert_eq!(to_type(&x, 0i32), [1, -1, i32::MAX, i32::MIN, 0, i32::MAX, 0]);
    assert_eq!(to_type(&x[..5], 0i64), [1, -1, 3_000_000_000, -3_000_000_000, 0]);
    assert_eq!(to_type(&[i64::MAX, i64::MIN, 5], 0i32), [i32::MAX, i32::MIN, 5]);
    assert_eq!(to_type(&[16_777_217i32, -3], 0f32), [16_777_216.0, -3.0]);
    assert_eq!(up(&to_type(&[257i64, 259, -1], bf16::ZERO)), [256.0, 260.0, -1.0]);
    assert_eq!(to_type(&bf(&[2.5, -300.0]), 0i32), [2, -300]);
    assert_eq!(up(&to_type(&[1.0f32, 65520.0, 2049.0], f16::ZERO)), [1.0, f32::INFINITY, 2048.0]);
    assert_eq!(to_type(&[7i32, -7], 0i64), [7, -7]);
}
