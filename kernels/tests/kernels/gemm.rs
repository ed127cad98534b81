//! The GEMMs against the scalar reference, on every instruction set of this CPU and on pools of several sizes, over random shapes,
//! strides, formats and groups.

use crate::common::*;
use moe_kernels::element::Float;
use moe_kernels::gemm::{Bias, Weight, gemm};
use moe_kernels::group_list::{Group, GroupListKind, decode};
use moe_kernels::grouped_gemm::{Expert, grouped_gemm};
use moe_kernels::isa::Isa;
use moe_kernels::nz::{NzLayout, NzMat, pack};
use moe_kernels::view::{Mat, MatMut, NdView};
use moe_kernels::{KernelError, reference};
use proptest::prelude::*;

/// How a matrix lies in memory.
#[derive(Debug, Clone, Copy)]
enum Order {
    RowMajor,
    Transposed,
    /// Gaps between rows and between columns.
    Padded,
    Nz,
    NzTransposed,
}

impl Order {
    fn strides(self, rows: usize, cols: usize) -> (usize, usize) {
        match self {
            Self::RowMajor | Self::Nz | Self::NzTransposed => (cols, 1),
            Self::Transposed => (1, rows),
            Self::Padded => (2 * cols + 3, 2),
        }
    }

    fn span(self, rows: usize, cols: usize) -> usize {
        let (row, col) = self.strides(rows, cols);
        if rows * cols == 0 { 0 } else { (rows - 1) * row + (cols - 1) * col + 1 }
    }
}

fn strided() -> impl Strategy<Value = Order> {
    prop::sample::select(vec![Order::RowMajor, Order::Transposed, Order::Padded])
}

fn any_order() -> impl Strategy<Value = Order> {
    prop::sample::select(vec![Order::RowMajor, Order::Transposed, Order::Padded, Order::Nz, Order::NzTransposed])
}

fn view<T: Float>(data: &[T], rows: usize, cols: usize, order: Order) -> Mat<'_, T> {
    let (row, col) = order.strides(rows, cols);
    Mat::new(data, rows, cols, row, col).unwrap()
}

/// The memory of a weight, and the weight over it.
fn weight_memory<T: Float>(k: usize, n: usize, order: Order, seed: u64) -> Vec<T> {
    let data: Vec<T> = to(&noise(order.span(k, n), seed));
    match order {
        Order::Nz => {
            let len = moe_kernels::nz::NzLayout::new(k, n, T::BYTES).unwrap().storage_len();
            let mut storage = vec![T::from_f32(POISON); len];
            pack(&NdView::contiguous(&data, &[k, n]).unwrap(), &mut storage).unwrap();
            storage
        }
        Order::NzTransposed => {
            let len = moe_kernels::nz::NzLayout::new(n, k, T::BYTES).unwrap().storage_len();
            let mut storage = vec![T::from_f32(POISON); len];
            pack(&NdView::new(&data, &[n, k], &[1, n]).unwrap(), &mut storage).unwrap();
            storage
        }
        _ => data,
    }
}

fn weight<T: Float>(memory: &[T], k: usize, n: usize, order: Order) -> Weight<'_, T> {
    match order {
        Order::Nz => Weight::Nz(NzMat::new(memory, k, n).unwrap()),
        Order::NzTransposed => Weight::NzTransposed(NzMat::new(memory, n, k).unwrap()),
        _ => Weight::Strided(view(memory, k, n, order)),
    }
}

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    x: Order,
    out: Order,
    /// Order of each expert's weight and what bias it has: 0 none, 1 f32, 2 the weight's type.
    experts: Vec<(Order, u8)>,
    /// Rows of each expert; they may leave rows at the end that belong to nobody.
    counts: Vec<i64>,
    seed: u64,
}

/// Sizes on both sides of those of panels, tiles and parts: 4, 6, 12, 16, 64 and 256.
fn case() -> impl Strategy<Value = Case> {
    let size =
        |most: usize| prop_oneof![3 => 0..20usize, 2 => 20..most, 1 => prop::sample::select(vec![64, 65, 256, 257])];
    (size(150), size(600), size(300), 1..5usize, any::<u64>()).prop_flat_map(|(m, k, n, experts, seed)| {
        let m = m.min(150);
        let counts = prop::collection::vec(0..=(m as i64), experts).prop_map(move |mut counts| {
            let mut left = m as i64;
            for count in &mut counts {
                *count = (*count).min(left);
                left -= *count;
            }
            counts
        });
        let experts = prop::collection::vec((any_order(), 0..3u8), experts);
        (strided(), strided(), experts, counts).prop_map(move |(x, out, experts, counts)| Case {
            m,
            k,
            n,
            x,
            out,
            experts,
            counts,
            seed,
        })
    })
}

/// The operands of a case, or their magnitudes.
struct Operands<T> {
    x: Vec<T>,
    weights: Vec<Vec<T>>,
    wide: Vec<f32>,
    same_type: Vec<T>,
}

impl<T: Float> Operands<T> {
    fn new(case: &Case) -> Self {
        let Case { m, k, n, seed, .. } = *case;
        let weights = case.experts.iter().zip(1..);
        Self {
            x: to(&noise(case.x.span(m, k), seed)),
            weights: weights.map(|((order, _), i)| weight_memory(k, n, *order, seed ^ i)).collect(),
            wide: noise(n, seed ^ 99),
            same_type: to(&noise(n, seed ^ 98)),
        }
    }

    fn magnitudes(&self) -> Self {
        Self {
            x: magnitudes(&self.x),
            weights: self.weights.iter().map(|weight| magnitudes(weight)).collect(),
            wide: magnitudes(&self.wide),
            same_type: magnitudes(&self.same_type),
        }
    }

    fn experts(&self, case: &Case) -> Vec<Expert<'_, T>> {
        let bias = |kind| match kind {
            0 => None,
            1 => Some(Bias::F32(&self.wide[..])),
            _ => Some(Bias::Same(&self.same_type[..])),
        };
        let experts = case.experts.iter().zip(&self.weights);
        experts
            .map(|((order, kind), memory)| Expert { weight: weight(memory, case.k, case.n, *order), bias: bias(*kind) })
            .collect()
    }
}

/// The whole output memory of both ways, poison included.
fn both<T: Float, O: Float>(case: &Case) {
    let Case { m, k, n, .. } = *case;
    let operands = Operands::<T>::new(case);
    let groups = decode(GroupListKind::Count, &case.counts, case.counts.len(), m).unwrap();
    let (row, col) = case.out.strides(m, n);
    let x = view(&operands.x, m, k, case.x);
    let experts = operands.experts(case);
    let poisoned = vec![O::from_f32(POISON); case.out.span(m, n)];
    let mut expected = poisoned.clone();
    reference::grouped_gemm(x, &experts, &groups, MatMut::new(&mut expected, m, n, row, col).unwrap()).unwrap();
    let sizes = operands.magnitudes();
    let mut bounds = vec![0f32; poisoned.len()];
    let out = MatMut::new(&mut bounds, m, n, row, col).unwrap();
    reference::grouped_gemm(view(&sizes.x, m, k, case.x), &sizes.experts(case), &groups, out).unwrap();
    bounds.iter_mut().for_each(|bound| *bound = sum_bound(k, *bound));
    on_every_isa(&expected, &bounds, || {
        let mut out = poisoned.clone();
        grouped_gemm(x, &experts, &groups, MatMut::new(&mut out, m, n, row, col).unwrap()).unwrap();
        out
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn grouped_gemm_is_the_reference(case in case()) {
        both::<half::bf16, half::bf16>(&case);
        both::<half::f16, half::f16>(&case);
        both::<f32, f32>(&case);
    }

    #[test]
    fn the_output_has_its_own_type(case in case()) {
        both::<half::bf16, f32>(&case);
        both::<half::f16, half::bf16>(&case);
    }

    #[test]
    fn infinities_and_nan_propagate(values in prop::collection::vec(small_or_not_finite(), 12), rows in 1..4usize) {
        for_each_float!(not_finite(&values, rows));
    }

    /// An output depends on its row of x and its column of the weight alone: not on how they lie, nor on what is beside them.
    #[test]
    fn neither_layout_nor_neighbours_matter(m in 1..40usize, k in 1..700usize, n in 1..90usize, seed: u64) {
        for_each_float!(alone_and_together([m, k, n], seed));
    }
}

fn small_or_not_finite() -> impl Strategy<Value = f32> {
    prop_oneof![9 => -4f32..4.0, 1 => prop::sample::select(vec![f32::INFINITY, f32::NEG_INFINITY, f32::NAN])]
}

fn not_finite<T: Float>(values: &[f32], rows: usize) {
    let k = 12 / rows;
    let x: Vec<T> = to(values);
    let w: Vec<T> = to(&values.iter().rev().copied().chain([1.0; 12]).take(k * 2).collect::<Vec<_>>());
    let x = Mat::row_major(&x, rows, k).unwrap();
    let w = Weight::Strided(Mat::row_major(&w, k, 2).unwrap());
    let mut expected = vec![0f32; rows * 2];
    reference::gemm(x, w, None, MatMut::row_major(&mut expected, rows, 2).unwrap()).unwrap();
    // 12 products of at most 4 * 4.
    on_every_isa(&expected, &vec![sum_bound(k, 12.0 * 16.0); rows * 2], || {
        let mut out = vec![0f32; rows * 2];
        gemm(x, w, None, MatMut::row_major(&mut out, rows, 2).unwrap()).unwrap();
        out
    });
}

fn alone_and_together<T: Float>([m, k, n]: [usize; 3], seed: u64) {
    let (x, plain): (Vec<T>, Vec<T>) = (to(&noise(m * k, seed)), to(&noise(k * n, !seed)));
    let turned: Vec<T> = (0..n).flat_map(|j| plain.iter().skip(j).step_by(n)).copied().collect();
    let packed = |values: &[T], rows, cols| {
        let mut storage = vec![T::from_f32(0.0); NzLayout::new(rows, cols, size_of::<T>()).unwrap().storage_len()];
        pack(&NdView::contiguous(values, &[rows, cols]).unwrap(), &mut storage).unwrap();
        storage
    };
    let (nz, nz_turned) = (packed(&plain, k, n), packed(&turned, n, k));
    let run = |x: &[T], w| {
        let mut out = vec![0f32; x.len() / k * n];
        let rows = x.len() / k;
        gemm(Mat::row_major(x, rows, k).unwrap(), w, None, MatMut::row_major(&mut out, rows, n).unwrap()).unwrap();
        out
    };
    for isa in Isa::available() {
        isa.with(|| {
            let plain = Weight::Strided(Mat::row_major(&plain, k, n).unwrap());
            let due = run(&x, plain);
            same(&run(&x, Weight::Strided(Mat::row_major(&turned, n, k).unwrap().transposed())), &due);
            same(&run(&x, Weight::Nz(NzMat::new(&nz, k, n).unwrap())), &due);
            same(&run(&x, Weight::NzTransposed(NzMat::new(&nz_turned, n, k).unwrap())), &due);
            same(&x.chunks(k).flat_map(|row| run(row, plain)).collect::<Vec<_>>(), &due);
        })
        .unwrap();
    }
}

/// One hot expert and many tiny ones, larger than a property test can afford.
fn hot_and_tiny<T: Float>() {
    let (k, n) = (300, 520);
    for counts in [vec![0, 200, 0], vec![1; 200], vec![3, 0, 190, 1, 0, 6]] {
        let m = 200;
        let x: Vec<T> = to(&noise(m * k, 5));
        let memory: Vec<Vec<T>> = (0..counts.len() as u64).map(|i| to(&noise(k * n, i + 7))).collect();
        let experts: Vec<Expert<'_, T>> =
            memory.iter().map(|w| Expert { weight: weight(w, k, n, Order::Transposed), bias: None }).collect();
        let groups = decode(GroupListKind::Count, &counts, counts.len(), m).unwrap();
        let x = Mat::row_major(&x, m, k).unwrap();
        let mut expected = vec![T::from_f32(0.0); m * n];
        reference::grouped_gemm(x, &experts, &groups, MatMut::row_major(&mut expected, m, n).unwrap()).unwrap();
        // The operands are at most a half.
        on_every_isa(&expected, &vec![sum_bound(k, k as f32 / 4.0); m * n], || {
            let mut out = vec![T::from_f32(0.0); m * n];
            grouped_gemm(x, &experts, &groups, MatMut::row_major(&mut out, m, n).unwrap()).unwrap();
            out
        });
    }
}

#[test]
fn one_hot_expert_and_many_tiny_groups() {
    for_each_float!(hot_and_tiny());
}

#[test]
fn an_expert_may_have_several_groups_and_rows_between_groups_stay() {
    let x = [1.0f32, 2.0, 3.0, 4.0];
    let w = [10.0f32];
    let expert = Expert { weight: Weight::Strided(Mat::row_major(&w, 1, 1).unwrap()), bias: None };
    let groups = [Group { expert: 0, rows: 0..1 }, Group { expert: 0, rows: 2..2 }, Group { expert: 0, rows: 3..4 }];
    let mut out = [POISON; 4];
    let x = Mat::row_major(&x, 4, 1).unwrap();
    grouped_gemm(x, &[expert], &groups, MatMut::row_major(&mut out, 4, 1).unwrap()).unwrap();
    assert_eq!(out, [10.0, POISON, POISON, 40.0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let data = [1.0f32; 12];
    let x = Mat::row_major(&data, 3, 4).unwrap();
    let w = Weight::Strided(Mat::row_major(&data[..8], 4, 2).unwrap());
    let run = |w, bias: Option<Bias<'_, f32>>, groups: &[Group], m, n| {
        let mut out = [POISON; 12];
        let experts = [Expert { weight: w, bias }];
        let result = grouped_gemm(x, &experts, groups, MatMut::row_major(&mut out, m, n).unwrap());
        assert_eq!(out, [POISON; 12]);
        result.unwrap_err()
    };
    let group = |expert, rows| [Group { expert, rows }];
    assert!(matches!(run(w, None, &group(0, 0..3), 2, 2), KernelError::Dim { what: "out, axis M", .. }));
    assert!(matches!(run(w, None, &group(0, 0..3), 3, 3), KernelError::Dim { expected: 3, actual: 2, .. }));
    let short = Weight::Strided(Mat::row_major(&data[..6], 3, 2).unwrap());
    assert!(matches!(run(short, None, &group(0, 0..3), 3, 2), KernelError::Dim { expected: 4, actual: 3, .. }));
    let bias = Some(Bias::F32(&data[..3]));
    assert!(matches!(run(w, bias, &group(0, 0..3), 3, 2), KernelError::Length { expected: 2, actual: 3, .. }));
    assert!(matches!(run(w, None, &group(1, 0..3), 3, 2), KernelError::GroupExpert { experts: 1, .. }));
    assert!(matches!(run(w, None, &group(0, 0..4), 3, 2), KernelError::GroupRows { end: 4, rows: 3, .. }));
    let overlap = [Group { expert: 0, rows: 0..2 }, Group { expert: 0, rows: 1..3 }];
    assert!(matches!(run(w, None, &overlap, 3, 2), KernelError::GroupOverlap { group: 1, start: 1, previous_end: 2 }));
    #[allow(clippy::reversed_empty_ranges)] // the wrong range is the point
    let backward = group(0, 2..1);
    assert!(matches!(run(w, None, &backward, 3, 2), KernelError::GroupOverlap { .. }));
    let mut out = [POISON; 6];
    let bias = Some(Bias::Same(&data[..1]));
    assert!(gemm(x, w, bias, MatMut::row_major(&mut out, 3, 2).unwrap()).is_err());
    assert_eq!(out, [POISON; 6]);
}
