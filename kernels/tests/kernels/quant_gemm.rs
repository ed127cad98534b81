//! Quantised products against plain loops and worked numbers: schemes, roundings, scales at the ends of their range, groups.

use crate::common::{POISON, bf, on_pools, same, same_codes, up};
use half::{bf16, f16};
use moe_kernels::KernelError;
use moe_kernels::element::Float;
use moe_kernels::gemm::Weight;
use moe_kernels::group_list::Group;
use moe_kernels::int_gemm::{Int4Weight, IntWeight};
use moe_kernels::quant_gemm::{
    Activation, Dequant, QuantBias, QuantExpert, QuantProduct, Rounding, ScaleOrder, Scheme, accumulators, msd_bias,
    products_of_groups, quant_gemm, requant_gemm, round_to_i8, round_to_i8_through_f16,
};
use moe_kernels::swiglu_quant::{Smooth, SwigluQuant, grouped_swiglu_quant};
use moe_kernels::view::{Mat, MatMut};
use proptest::prelude::*;

fn int8(values: &[i8], k: usize, n: usize) -> IntWeight<'_> {
    IntWeight::Int8(Weight::Strided(Mat::row_major(values, k, n).unwrap()))
}

/// Two to a byte, the even one low.
fn nibbles(values: &[i8]) -> Vec<u8> {
    let nibble = |value: i8| (value as u8) & 15;
    values.chunks(2).map(|pair| nibble(pair[0]) | pair.get(1).map_or(0, |&high| nibble(high) << 4)).collect()
}

fn expert<'a>(weight: IntWeight<'a>, scale: &'a [f32], bias: QuantBias<'a>) -> QuantExpert<'a> {
    QuantExpert { weight, scale, offset: None, bias }
}

fn dequant(scheme: Scheme, row_scale: Option<&[f32]>) -> Dequant<'_> {
    let (rounding, order, activation) = (Rounding::Faithful, ScaleOrder::Column, Activation::None);
    Dequant { scheme, rounding, row_scale, order, activation }
}

fn half(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

#[test]
fn casts_to_int8() {
    let values = [0.5, 1.5, 2.5, -0.5, -1.5, 2.500_488_3, 126.5, 127.4, 200., -128.5, -129., -300.];
    assert_eq!(values.map(round_to_i8), [0, 2, 2, 0, -2, 3, 126, 127, 127, -128, -128, -128]);
    assert_eq!(values.map(round_to_i8_through_f16), [0, 2, 2, 0, -2, 2, 126, 127, 127, -128, -128, -128]);
    assert_eq!([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30].map(round_to_i8_through_f16), [0, 127, -128, 127]);
}

#[test]
fn the_worked_example_of_int8() {
    let x = [1i8, -2, 100, 100, -128, 127];
    let (w0, w1) = ([3i8, -4, 5, 6], [127i8, -127, 127, -128]);
    let (s0, s1) = (up(&bf(&[0.5, 0.25])), up(&bf(&[0.01, 0.02])));
    let experts = [
        expert(int8(&w0, 2, 2), &s0, QuantBias::Whole(&[10, -10])),
        expert(int8(&w1, 2, 2), &s1, QuantBias::Whole(&[0, 1])),
    ];
    let groups = [Group { expert: 0, rows: 0..1 }, Group { expert: 1, rows: 1..3 }];
    let x = Mat::row_major(&x, 3, 2).unwrap();
    let mut sums = [0i32; 6];
    let out = MatMut::row_major(&mut sums, 3, 2).unwrap();
    accumulators(products_of_groups(x, &experts, &groups, out).unwrap()).unwrap();
    assert_eq!(sums, [3, -26, 25400, -25499, -127, 1]);
    let mut y = [bf16::ZERO; 6];
    let out = MatMut::row_major(&mut y, 3, 2).unwrap();
    let products = products_of_groups(x, &experts, &groups, out).unwrap();
    quant_gemm(products, &dequant(Scheme::Int8, Some(&[0.1, 2.0, 0.5]))).unwrap();
    assert_eq!(up(&y), [0.150_390_63, -0.648_437_5, 508., -1020., -0.636_718_75, 0.010_009_766]);
}

fn msd<O: Float>(
    x: &[i8],
    w: &[i8],
    [k, n]: [usize; 2],
    scale: &[f32],
    bias: &[f32],
    rows: &[f32],
    rounding: Rounding,
) -> Vec<O> {
    let bytes = nibbles(w);
    let weight = IntWeight::Int4(Int4Weight::strided(&bytes, [k, n], [n, 1]).unwrap());
    let m = rows.len();
    let mut y = vec![O::from_f32(POISON); m * n];
    let product = QuantProduct {
        x: Mat::row_major(x, m, k).unwrap(),
        rows: 0..m,
        expert: expert(weight, scale, QuantBias::Float(bias)),
        out: MatMut::row_major(&mut y, m, n).unwrap(),
    };
    quant_gemm(vec![product], &Dequant { rounding, ..dequant(Scheme::Msd, Some(rows)) }).unwrap();
    y
}

#[test]
fn the_worked_examples_of_int8_by_int4() {
    for rounding in [Rounding::Fast, Rounding::Faithful] {
        let y = msd::<f32>(&[-37, 100], &[7, -8, 3, 5], [2, 2], &[0.5, 0.25], &[40., -6.], &[0.5], rounding);
        assert_eq!(y, [10.25, 99.5]);
    }
    let lossy = |rounding| msd::<f32>(&[127; 43], &[7; 43], [43, 1], &[1.0], &[2408.0], &[1.0], rounding);
    assert_eq!(lossy(Rounding::Faithful), [38244.0]);
    assert_eq!(lossy(Rounding::Fast), [38227.0]);
    let y = msd::<bf16>(&[127; 43], &[7; 43], [43, 1], &[1.0], &[2408.0], &[1.0], Rounding::Faithful);
    assert_eq!(up(&y), [38144.0]);
}

#[test]
fn the_bias_of_int8_by_int4() {
    let bytes = nibbles(&[7, -8, 3, 5]);
    let weight = IntWeight::Int4(Int4Weight::strided(&bytes, [2, 2], [2, 1]).unwrap());
    let mut bias = [POISON; 2];
    msd_bias(&weight, &[0.5, 0.25], &mut bias).unwrap();
    assert_eq!(bias, [40.0, -6.0]);
    msd_bias(&weight, &[0.5, 0.25, 2.0, 1.0], &mut bias).unwrap();
    assert_eq!(bias, [28.0 + 48.0, -16.0 + 40.0]);
    assert!(matches!(msd_bias(&weight, &[0.5], &mut bias), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(msd_bias(&weight, &[0.5, 1.0], &mut bias[1..]), Err(KernelError::Length { .. })));
    let wide = vec![1i8; 3 * 600];
    let mut bias = vec![POISON; 600];
    msd_bias(&int8(&wide, 3, 600), &(0..600).map(|i| i as f32).collect::<Vec<_>>(), &mut bias).unwrap();
    assert!(bias.iter().enumerate().all(|(i, bias)| *bias == 24.0 * i as f32));
}

#[derive(Debug, Clone)]
struct Case {
    scheme: Scheme,
    m: usize,
    k: usize,
    n: usize,
    parts: usize,
    /// Of each expert.
    counts: Vec<usize>,
    bias: usize,
    by_row: bool,
    row_first: bool,
    offset: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let scheme = prop::sample::select(vec![Scheme::Int8, Scheme::Msd, Scheme::Int4]);
    let counts = prop::collection::vec(0..7usize, 1..5);
    (scheme, 1..30usize, 1..140usize, 1..4usize, counts, 0..3usize, any::<[bool; 3]>(), any::<u64>(), 0..3usize)
        .prop_map(|(scheme, depth, n, parts, counts, bias, [by_row, row_first, offset], seed, tail)| {
            let parts = if scheme == Scheme::Int8 { 1 } else { parts };
            let bias = match scheme {
                Scheme::Int8 => bias,
                Scheme::Msd => 2,
                Scheme::Int4 => 0,
            };
            let m = counts.iter().sum::<usize>() + tail;
            let (by_row, offset) = (by_row || row_first, offset && scheme == Scheme::Msd);
            Case { scheme, m, k: depth * parts, n, parts, counts, bias, by_row, row_first, offset, seed }
        })
}

struct Numbers(u64);

impl Numbers {
    fn next(&mut self, end: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as i64 % end
    }

    fn ints(&mut self, len: usize, low: i64, high: i64) -> Vec<i8> {
        // Whole runs at the ends of the range, and of zeros.
        let run = self.next(4);
        let pick = |this: &mut Self| match run {
            0 => [low, high][this.next(2) as usize],
            1 => 0,
            _ => low + this.next(high - low + 1),
        };
        (0..len).map(|_| pick(self) as i8).collect()
    }

    fn scales(&mut self, len: usize) -> Vec<f32> {
        let ends = [f32::MIN_POSITIVE, 1e-40, 1e30, f32::MAX, 0.0, -0.5];
        let pick = |this: &mut Self| match this.next(12) {
            0 => ends[this.next(6) as usize],
            _ => (this.next(2000) - 400) as f32 * 1.7e-4,
        };
        (0..len).map(|_| pick(self)).collect()
    }
}

/// What one expert of a case has.
struct Parts<'a> {
    weight: &'a [i8],
    scale: &'a [f32],
    offset: &'a [f32],
    whole: &'a [i32],
    float: &'a [f32],
}

/// One number of a product, by the formulas of the operator.
fn due(case: &Case, x: &[i8], parts: &Parts<'_>, row: f32, n: usize) -> f32 {
    let Parts { weight: w, scale, offset, whole, float } = *parts;
    let size = case.k / case.parts;
    let dot = |of: &dyn Fn(i8) -> i32, part: usize| {
        (part * size..(part + 1) * size).map(|k| of(x[k]) * i32::from(w[k * case.n + n])).sum::<i32>()
    };
    let halves = |of: &dyn Fn(i8) -> i32| {
        (0..case.parts).fold(0.0, |sum, part| half(sum + half(dot(of, part) as f32 * scale[part * case.n + n])))
    };
    match case.scheme {
        Scheme::Int8 => {
            let acc = dot(&i32::from, 0) + if case.bias == 1 { whole[n] } else { 0 };
            let scaled = if case.row_first { acc as f32 * row * scale[n] } else { acc as f32 * scale[n] * row };
            if case.bias == 2 { scaled + float[n] } else { scaled }
        }
        Scheme::Int4 => halves(&i32::from) * row,
        Scheme::Msd => {
            let (high, low) = (halves(&|x| i32::from(x).div_euclid(16)), halves(&|x| i32::from(x).rem_euclid(16) - 8));
            let mut sum = 16.0 * high + low;
            if case.offset {
                sum += x.iter().map(|&x| i32::from(x)).sum::<i32>() as f32 * offset[n];
            }
            (sum + float[n]) * row
        }
    }
}

fn check<O: Float>(case: &Case) {
    let Case { scheme, m, k, n, parts, ref counts, seed, .. } = *case;
    let mut numbers = Numbers(seed);
    let (x_ends, w_ends) = match scheme {
        Scheme::Int8 => ([-128, 127], [-128, 127]),
        Scheme::Msd => ([-128, 127], [-8, 7]),
        Scheme::Int4 => ([-8, 7], [-8, 7]),
    };
    let x = numbers.ints(m * k, x_ends[0], x_ends[1]);
    let rows = numbers.scales(m);
    let weights: Vec<_> = counts.iter().map(|_| numbers.ints(k * n, w_ends[0], w_ends[1])).collect();
    let bytes: Vec<_> = weights.iter().map(|w| nibbles(w)).collect();
    let scales: Vec<_> = counts.iter().map(|_| numbers.scales(parts * n)).collect();
    let [offset, float] = [0; 2].map(|_| numbers.scales(n));
    let whole: Vec<i32> = (0..n).map(|_| numbers.next(1 << 20) as i32 - (1 << 19)).collect();
    let experts: Vec<_> = (0..counts.len())
        .map(|e| QuantExpert {
            weight: match scheme {
                Scheme::Int8 => int8(&weights[e], k, n),
                _ => IntWeight::Int4(Int4Weight::strided(&bytes[e], [k, n], [n, 1]).unwrap()),
            },
            scale: &scales[e],
            offset: case.offset.then_some(&offset[..]),
            bias: [QuantBias::None, QuantBias::Whole(&whole), QuantBias::Float(&float)][case.bias],
        })
        .collect();
    let (mut groups, mut expected, mut start) = (Vec::new(), vec![O::from_f32(POISON); m * n], 0);
    for (expert, &count) in counts.iter().enumerate() {
        groups.push(Group { expert, rows: start..start + count });
        for row in start..start + count {
            let x = &x[row * k..(row + 1) * k];
            let of_row = if case.by_row { rows[row] } else { 1.0 };
            let parts = Parts {
                weight: &weights[expert],
                scale: &scales[expert],
                offset: &offset,
                whole: &whole,
                float: &float,
            };
            for column in 0..n {
                let value = due(case, x, &parts, of_row, column);
                expected[row * n + column] = O::from_f32(value);
            }
        }
        start += count;
    }
    let order = if case.row_first { ScaleOrder::Row } else { ScaleOrder::Column };
    let settings = Dequant { order, ..dequant(scheme, case.by_row.then_some(&rows[..])) };
    on_pools(|| {
        let mut out = vec![O::from_f32(POISON); m * n];
        let target = MatMut::row_major(&mut out, m, n).unwrap();
        let products = products_of_groups(Mat::row_major(&x, m, k).unwrap(), &experts, &groups, target).unwrap();
        quant_gemm(products, &settings).unwrap();
        same(&out, &expected);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn schemes_give_what_their_formulas_give(case in case()) {
        check::<f32>(&case);
        check::<bf16>(&case);
        check::<f16>(&case);
    }
}

#[test]
fn activations() {
    let (x, w) = ([1i8, -2, 3, 0], [1i8]);
    let run = |activation| {
        let mut y = [0f32; 4];
        let product = QuantProduct {
            x: Mat::row_major(&x, 4, 1).unwrap(),
            rows: 0..4,
            expert: expert(int8(&w, 1, 1), &[0.5], QuantBias::None),
            out: MatMut::row_major(&mut y, 4, 1).unwrap(),
        };
        quant_gemm(vec![product], &Dequant { activation, ..dequant(Scheme::Int8, None) }).unwrap();
        y
    };
    assert_eq!(run(Activation::Relu), [0.5, 0., 1.5, 0.]);
    let near = |activation, due: &dyn Fn(f64) -> f64| {
        for (y, x) in run(activation).into_iter().zip([0.5, -1.0, 1.5, 0.0]) {
            assert!((f64::from(y) - due(x)).abs() <= 1e-6 * due(x).abs(), "{activation:?} of {x}: {y}");
        }
    };
    near(Activation::Silu, &|x| x / (1.0 + (-x).exp()));
    near(Activation::FastGelu, &|x| x / (1.0 + (-1.702 * x).exp()));
    let root = (2.0 / std::f64::consts::PI).sqrt();
    near(Activation::GeluTanh, &|x| 0.5 * x * (1.0 + (root * (x + 0.044715 * x * x * x)).tanh()));
}

#[test]
fn int8_outputs_round_and_saturate() {
    let (x, w) = ([5i8, -5, 127, -128], [1i8, 100]);
    let mut y = [0i8; 8];
    let product = QuantProduct {
        x: Mat::row_major(&x, 4, 1).unwrap(),
        rows: 0..4,
        expert: expert(int8(&w, 1, 2), &[0.5, 0.01], QuantBias::Whole(&[0, 50])),
        out: MatMut::row_major(&mut y, 4, 2).unwrap(),
    };
    requant_gemm(vec![product]).unwrap();
    assert_eq!(y, [2, 6, -2, -4, 64, 127, -64, -128]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let w = [1i8; 12];
    let run = |x: &[i8], expert: QuantExpert<'_>, scheme, rows: Option<&[f32]>| {
        let mut y = [0f32; 6];
        let (x, out) = (Mat::row_major(x, 2, 4).unwrap(), MatMut::row_major(&mut y, 2, 3).unwrap());
        quant_gemm(vec![QuantProduct { x, rows: 0..2, expert, out }], &dequant(scheme, rows))
    };
    let good = expert(int8(&w, 4, 3), &[1.0; 3], QuantBias::None);
    assert!(run(&[1; 8], good, Scheme::Int8, Some(&[1.0; 2])).is_ok());
    assert!(matches!(run(&[1; 8], good, Scheme::Int8, Some(&[1.0; 3])), Err(KernelError::Length { .. })));
    let scaled = |scale| QuantExpert { scale, ..good };
    assert!(matches!(run(&[1; 8], scaled(&[1.0; 2]), Scheme::Int8, None), Err(KernelError::Length { .. })));
    assert!(matches!(run(&[1; 8], scaled(&[1.0; 6]), Scheme::Int8, None), Err(KernelError::Length { .. })));
    assert!(run(&[1; 8], scaled(&[1.0; 6]), Scheme::Int4, None).is_ok());
    assert!(matches!(run(&[1; 8], scaled(&[1.0; 9]), Scheme::Int4, None), Err(KernelError::NotMultiple { .. })));
    let biased = |bias| QuantExpert { bias, ..good };
    assert!(matches!(
        run(&[1; 8], biased(QuantBias::Whole(&[1])), Scheme::Int8, None),
        Err(KernelError::Length { .. })
    ));
    assert!(matches!(
        run(&[1; 8], biased(QuantBias::Float(&[1.])), Scheme::Msd, None),
        Err(KernelError::Length { .. })
    ));
    let offset = QuantExpert { offset: Some(&[1.0]), ..good };
    assert!(matches!(run(&[1; 8], offset, Scheme::Msd, None), Err(KernelError::Length { .. })));
    let shallow = QuantExpert { weight: int8(&w, 3, 3), ..good };
    for scheme in [Scheme::Int8, Scheme::Msd, Scheme::Int4] {
        assert!(matches!(run(&[1; 8], shallow, scheme, None), Err(KernelError::Dim { .. })), "{scheme:?}");
    }
}

#[test]
fn the_worked_example_of_swiglu() {
    let x = [1i8, 2, 3, -4, 5, 6];
    let (w0, w1, w2) = ([1i8, 2, 3, 4, 5, 6, 7, 8], [0i8; 8], [1i8, -1, 2, -2, 3, 1, -1, 2]);
    let scale = [0.1, 0.1, 0.2, 0.2];
    let experts = [&w0, &w1, &w2].map(|w| expert(int8(w, 2, 4), &scale, QuantBias::None));
    let groups = [Group { expert: 0, rows: 0..1 }, Group { expert: 2, rows: 1..3 }];
    let inputs = SwigluQuant {
        x: Mat::row_major(&x, 3, 2).unwrap(),
        x_scale: &[0.5, 1.0, 0.25],
        experts: &experts,
        groups: &groups,
        scheme: Scheme::Int8,
        rounding: Rounding::Faithful,
        smooth: Smooth::None,
    };
    let (mut q, mut scales) = ([0i8; 6], [0f32; 3]);
    grouped_swiglu_quant(&inputs, &mut q, &mut scales).unwrap();
    assert_eq!(q, [80, 127, -102, 127, 127, 2]);
    for (found, due) in scales.iter().zip([0.007_365_85, 0.005_120_88, 0.000_579_45]) {
        assert!((found - due).abs() < 1e-8, "{found} {due}");
    }
    // 80.496 stays below the middle without the step through fp16.
    grouped_swiglu_quant(&SwigluQuant { rounding: Rounding::Fast, ..inputs }, &mut q, &mut scales).unwrap();
    assert_eq!(q[0], 80);
    // Rows of no group, and a row of zeros.
    let (mut q, mut scales) = ([9i8; 6], [9f32; 3]);
    let groups = [Group { expert: 1, rows: 1..2 }];
    grouped_swiglu_quant(&SwigluQuant { groups: &groups, ..inputs }, &mut q, &mut scales).unwrap();
    assert_eq!((q, scales), ([9, 9, 0, 0, 9, 9], [9.0, 0.0, 9.0]));
    let short = grouped_swiglu_quant(&inputs, &mut q[1..], &mut scales);
    assert!(matches!(short, Err(KernelError::Length { what: "q", .. })), "{short:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn swiglu_gives_what_its_formula_gives(case in case(), smooth in 0..3usize) {
        let case = Case { n: 2 * case.n, bias: if case.scheme == Scheme::Msd { 2 } else { 0 }, by_row: true, row_first: true, offset: false, ..case };
        let Case { scheme, m, k, n, parts, ref counts, seed, .. } = case;
        let mut numbers = Numbers(seed);
        let end = if scheme == Scheme::Int4 { 7 } else { 127 };
        let x = numbers.ints(m * k, -end - 1, end);
        let (w_end, half_n) = (if scheme == Scheme::Int8 { 127 } else { 7 }, n / 2);
        let weights: Vec<_> = counts.iter().map(|_| numbers.ints(k * n, -w_end - 1, w_end)).collect();
        let bytes: Vec<_> = weights.iter().map(|w| nibbles(w)).collect();
        let small = |numbers: &mut Numbers, len: usize| (0..len).map(|_| numbers.next(999) as f32 * 1e-5).collect::<Vec<_>>();
        let (rows, float) = (small(&mut numbers, m), small(&mut numbers, n));
        let scales: Vec<_> = counts.iter().map(|_| small(&mut numbers, parts * n)).collect();
        let factors = small(&mut numbers, counts.len() * half_n);
        let experts: Vec<_> = (0..counts.len()).map(|e| expert(
            match scheme {
                Scheme::Int8 => int8(&weights[e], k, n),
                _ => IntWeight::Int4(Int4Weight::strided(&bytes[e], [k, n], [n, 1]).unwrap()),
            },
            &scales[e],
            if scheme == Scheme::Msd { QuantBias::Float(&float) } else { QuantBias::None },
        )).collect();
        let (mut groups, mut due_q, mut due_scale, mut start) = (Vec::new(), vec![55i8; m * half_n], vec![POISON; m], 0);
        let mut values = vec![0f32; m * half_n];
        for (e, &count) in counts.iter().enumerate() {
            groups.push(Group { expert: e, rows: start..start + count });
            for row in start..start + count {
                let parts = Parts { weight: &weights[e], scale: &scales[e], offset: &[], whole: &[], float: &float };
                let sums: Vec<f32> = (0..n).map(|c| due(&case, &x[row * k..(row + 1) * k], &parts, rows[row], c)).collect();
                let s: Vec<f32> = (0..half_n).map(|c| {
                    let s = sums[c] / (1.0 + (-sums[c]).exp()) * sums[half_n + c];
                    match smooth { 0 => s, 1 => s * factors[e], _ => s * factors[e * half_n + c] }
                }).collect();
                let scale = s.iter().fold(0f32, |most, s| most.max(s.abs())) / 127.0;
                due_scale[row] = scale;
                values[row * half_n..][..half_n].copy_from_slice(&s);
                for (c, s) in s.iter().enumerate() {
                    let wide = half(s * (1.0 / scale)).round_ties_even().clamp(-128.0, 127.0);
                    due_q[row * half_n + c] = if scale == 0.0 { 0 } else { wide as i8 };
                }
            }
            start += count;
        }
        let smooth = [Smooth::None, Smooth::Expert(&factors[..counts.len()]), Smooth::Column(&factors)][smooth];
        let inputs = SwigluQuant { x: Mat::row_major(&x, m, k).unwrap(), x_scale: &rows, experts: &experts, groups: &groups, scheme, rounding: Rounding::Faithful, smooth };
        on_pools(|| {
            let (mut q, mut scale) = (vec![55i8; m * half_n], vec![POISON; m]);
            grouped_swiglu_quant(&inputs, &mut q, &mut scale).unwrap();
            for row in 0..m {
                let of = row * half_n..(row + 1) * half_n;
                let (found, due) = ((&q[of.clone()], scale[row]), (&due_q[of.clone()], due_scale[row]));
                same_codes(found, due, &values[of]);
            }
        });
    }
}

/// More rows than are held at a time give what they give by themselves.
#[test]
fn many_rows_are_taken_in_blocks() {
    let (m, k, n) = (4096 + 700, 3, 2);
    let mut numbers = Numbers(5);
    let (x, w, rows) = (numbers.ints(m * k, -128, 127), numbers.ints(k * n, -8, 7), numbers.scales(m));
    let all = msd::<f32>(&x, &w, [k, n], &[0.5, 0.25], &[1.0, 2.0], &rows, Rounding::Faithful);
    let part = |range: std::ops::Range<usize>| {
        let x = &x[range.start * k..range.end * k];
        msd::<f32>(x, &w, [k, n], &[0.5, 0.25], &[1.0, 2.0], &rows[range], Rounding::Faithful)
    };
    same(&all, &[part(0..4000), part(4000..m)].concat());

    let (m, n) = (1700, 10240);
    let (x, w, rows) = (numbers.ints(m, 1, 127), numbers.ints(2 * n, -128, 127), vec![0.01; m]);
    let scale = vec![0.02; n];
    let experts = [0, 1].map(|e| expert(int8(&w[e * n..][..n], 1, n), &scale, QuantBias::None));
    let run = |rows_of: std::ops::Range<usize>, groups: &[Group]| {
        let count = rows_of.len();
        let inputs = SwigluQuant {
            x: Mat::row_major(&x[rows_of.clone()], count, 1).unwrap(),
            x_scale: &rows[rows_of],
            experts: &experts,
            groups,
            scheme: Scheme::Int8,
            rounding: Rounding::Faithful,
            smooth: Smooth::None,
        };
        let (mut q, mut scale) = (vec![55i8; count * n / 2], vec![POISON; count]);
        grouped_swiglu_quant(&inputs, &mut q, &mut scale).unwrap();
        (q, scale)
    };
    let group = |expert, rows| Group { expert, rows };
    let all = run(0..m, &[group(0, 0..900), group(1, 900..1690)]);
    let parts = [run(0..900, &[group(0, 0..900)]), run(900..m, &[group(1, 0..790)])];
    let [first, second] = parts;
    assert!(all.0 == [first.0, second.0].concat());
    same(&all.1, &[first.1, second.1].concat());
}
