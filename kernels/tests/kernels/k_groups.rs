//! Groups along K and lists of products against the scalar reference, on every instruction set of this CPU and on pools of several
//! sizes; small numbers worked out by hand.

use crate::common::*;
use moe_kernels::element::Float;
use moe_kernels::gemm::{Bias, Product, Weight, gemms};
use moe_kernels::group_list::{Group, GroupListKind, decode};
use moe_kernels::grouped_gemm::{k_grouped_gemm, k_grouped_gemm_add};
use moe_kernels::view::{Mat, MatMut};
use moe_kernels::{KernelError, reference};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    n: usize,
    /// Of each group.
    counts: Vec<i64>,
    /// What of K belongs to nobody.
    tail: usize,
    /// Whether x lies as `[K, M]`, and the weight as `[N, K]`.
    transposed: [bool; 2],
    /// Whether outputs have gaps.
    gaps: bool,
    seed: u64,
}

/// Sizes on both sides of the tile sizes 4, 8, 16, 64 and 256.
fn case() -> impl Strategy<Value = Case> {
    let size = || prop_oneof![3 => 0..20usize, 1 => 60..70usize];
    let count = prop_oneof![2 => Just(0i64), 3 => 1..20i64, 1 => 250..300i64];
    let counts = prop::collection::vec(count, 0..6);
    (size(), size(), counts, 0..5usize, any::<[bool; 2]>(), any::<bool>(), any::<u64>())
        .prop_map(|(m, n, counts, tail, transposed, gaps, seed)| Case { m, n, counts, tail, transposed, gaps, seed })
}

fn matrix<T: Float>(data: &[T], rows: usize, cols: usize, transposed: bool) -> Mat<'_, T> {
    if transposed {
        Mat::row_major(data, cols, rows).unwrap().transposed()
    } else {
        Mat::row_major(data, rows, cols).unwrap()
    }
}

/// The whole output memory of both ways, poison included.
fn both<T: Float, O: Float>(case: &Case, adds: bool) {
    let Case { m, n, .. } = *case;
    let k = case.counts.iter().sum::<i64>() as usize + case.tail;
    let values: (Vec<T>, Vec<T>) = (to(&noise(m * k, case.seed)), to(&noise(k * n, case.seed ^ 1)));
    let (x, w) = (matrix(&values.0, m, k, case.transposed[0]), matrix(&values.1, k, n, case.transposed[1]));
    let ends: Vec<i64> =
        case.counts.iter().scan(0, |end, count| Some(*end + count).inspect(|next| *end = *next)).collect();
    let groups = decode(GroupListKind::Count, &case.counts, case.counts.len(), k).unwrap();
    assert_eq!(decode(GroupListKind::Cumsum, &ends, ends.len(), k).unwrap(), groups);

    let before: Vec<O> = to(&noise(groups.len().max(case.counts.len()) * m * n, case.seed ^ 2));
    let mut expected = before.clone();
    reference::k_grouped_gemm(x, w, &groups, &mut expected, adds).unwrap();
    let (sizes_x, sizes_w) = (magnitudes(&values.0), magnitudes(&values.1));
    let mut bounds: Vec<f32> = up(&magnitudes(&before));
    let (sizes_x, sizes_w) = (matrix(&sizes_x, m, k, case.transposed[0]), matrix(&sizes_w, k, n, case.transposed[1]));
    reference::k_grouped_gemm(sizes_x, sizes_w, &groups, &mut bounds, adds).unwrap();
    bounds.iter_mut().for_each(|bound| *bound = sum_bound(k, *bound));
    // Outputs with a gap after each row.
    let row = n + usize::from(case.gaps);
    let gap = vec![O::from_f32(POISON); row - n];
    let (before, expected) = (spread(&before, n, &gap), spread(&expected, n, &gap));
    let bounds = spread(&bounds, n, &vec![0.0; row - n]);
    on_every_isa(&expected, &bounds, || {
        let mut out = before.clone();
        let size = m * row;
        let blocks = if m * n == 0 { Vec::new() } else { out.chunks_exact_mut(size).collect() };
        let mut blocks: Vec<_> = blocks.into_iter().map(|block| MatMut::new(block, m, n, row, 1).unwrap()).collect();
        blocks.extend((blocks.len()..case.counts.len()).map(|_| MatMut::new(&mut [], m, n, row, 1).unwrap()));
        let run = if adds { k_grouped_gemm_add } else { k_grouped_gemm };
        run(x, w, &groups, blocks).unwrap();
        out
    });
}

/// Each line with a gap behind.
fn spread<O: Float>(values: &[O], n: usize, gap: &[O]) -> Vec<O> {
    values.chunks_exact(n.max(1)).flat_map(|line| [line, gap].concat()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn k_groups_are_the_reference(case in case()) {
        both::<half::bf16, half::bf16>(&case, false);
        both::<half::f16, half::f16>(&case, false);
        both::<f32, f32>(&case, false);
    }

    #[test]
    fn k_groups_add_as_the_reference(case in case()) {
        both::<half::bf16, f32>(&case, true);
        both::<half::f16, f32>(&case, true);
        both::<f32, half::bf16>(&case, true);
    }

    /// Products of shapes of their own, with and without bias.
    #[test]
    fn lists_are_the_reference(
        shapes in prop::collection::vec((0..70usize, 0..300usize, 0..70usize, any::<bool>()), 0..5),
        seed in any::<u64>(),
    ) {
        type T = half::bf16;
        let operands: Vec<(Vec<T>, Vec<T>, Vec<f32>)> = shapes
            .iter()
            .zip(seed..)
            .map(|(&(m, k, n, _), seed)| (to(&noise(m * k, seed)), to(&noise(k * n, !seed)), noise(n, seed ^ 7)))
            .collect();
        let parts = || shapes.iter().zip(&operands).map(|(&(m, k, n, biased), (x, w, bias))| {
            let bias = biased.then_some(Bias::<T>::F32(bias));
            (matrix(x, m, k, false), Weight::Strided(matrix(w, k, n, biased)), bias, [m, n])
        });
        let expected: Vec<Vec<T>> = parts()
            .map(|(x, weight, bias, [m, n])| {
                let mut out = bf(&vec![POISON; m * n]);
                reference::gemm(x, weight, bias, MatMut::row_major(&mut out, m, n).unwrap()).unwrap();
                out
            })
            .collect();
        // Operands are at most a half, a bias as well.
        let bounds: Vec<f32> =
            shapes.iter().flat_map(|&(m, k, n, _)| vec![sum_bound(k, k as f32 / 4.0 + 0.5); m * n]).collect();
        on_every_isa(&expected.concat(), &bounds, || {
            let mut outs: Vec<Vec<T>> = shapes.iter().map(|&(m, _, n, _)| bf(&vec![POISON; m * n])).collect();
            let products = parts().zip(&mut outs).map(|((x, weight, bias, [m, n]), out)| {
                Product { x, weight, bias, out: MatMut::row_major(out, m, n).unwrap() }
            });
            gemms(products.collect()).unwrap();
            outs.concat()
        });
    }
}

fn blocks(out: &mut [f32]) -> Vec<MatMut<'_, f32>> {
    out.chunks_exact_mut(4).map(|block| MatMut::row_major(block, 2, 2).unwrap()).collect()
}

/// x `[[1, 2, 3], [4, 5, 6]]` lies transposed; groups of K: the first, none, the other two.
#[test]
fn by_hand() {
    let x = bf(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let w = bf(&[1.0, -1.0, 10.0, 20.0, 2.0, 0.5]);
    let (x, w) = (matrix(&x, 2, 3, true), matrix(&w, 3, 2, false));
    let groups = decode(GroupListKind::Cumsum, &[1, 1, 3], 3, 3).unwrap();
    let mut out = [POISON; 12];
    k_grouped_gemm(x, w, &groups, blocks(&mut out)).unwrap();
    assert_eq!(out, [1.0, -1.0, 4.0, -4.0, 0.0, 0.0, 0.0, 0.0, 26.0, 41.5, 62.0, 103.0]);
    // Added: what has no group keeps even a negative zero.
    let mut out = [-0.0f32; 12];
    out[0] = 0.5;
    k_grouped_gemm_add(x, w, &groups, blocks(&mut out)).unwrap();
    assert_eq!(out, [1.5, -1.0, 4.0, -4.0, -0.0, -0.0, -0.0, -0.0, 26.0, 41.5, 62.0, 103.0]);
    assert!(out[4..8].iter().all(|value| value.is_sign_negative()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let data = [1.0f32; 12];
    let (x, w) = (matrix(&data[..6], 2, 3, true), matrix(&data[..6], 3, 2, false));
    let run = |w, groups: &[(usize, std::ops::Range<usize>)], outputs: usize, m| {
        let groups: Vec<Group> =
            groups.iter().map(|(expert, rows)| Group { expert: *expert, rows: rows.clone() }).collect();
        let mut out = [POISON; 12];
        let blocks = out.chunks_exact_mut(m * 2).take(outputs).map(|block| MatMut::row_major(block, m, 2).unwrap());
        let result = k_grouped_gemm(x, w, &groups, blocks.collect());
        assert_eq!(out, [POISON; 12]);
        result.unwrap_err()
    };
    let short = matrix(&data[..4], 2, 2, false);
    assert!(matches!(run(short, &[], 1, 2), KernelError::Dim { what: "w, axis K", expected: 3, actual: 2 }));
    assert!(matches!(run(w, &[], 1, 3), KernelError::Dim { what: "out, axis M", expected: 2, actual: 3 }));
    assert!(matches!(run(w, &[(1, 0..1)], 1, 2), KernelError::GroupExpert { row: 0, expert: 1, experts: 1 }));
    assert!(matches!(run(w, &[(0, 0..4)], 1, 2), KernelError::GroupRows { entry: 0, end: 4, rows: 3 }));
    assert!(matches!(run(w, &[(0, 0..2), (1, 1..3)], 2, 2), KernelError::GroupOverlap { group: 1, .. }));
    assert!(matches!(run(w, &[(0, 0..1), (0, 1..3)], 2, 2), KernelError::GroupRepeated { row: 1, expert: 0 }));
}
