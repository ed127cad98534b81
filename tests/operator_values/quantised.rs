//! Products of quantised operands.

use ascend_moe::DType;
use ascend_moe::op::{self, QuantMatmul};

use crate::bench::{Layout, cases, coordinates};
use crate::number::{Due, Float, Int};
use crate::random::Values;

/// int8 of every size up to some blocks, any layout of scales, bias and output: each step in f32, the result rounded once.
#[test]
fn int8_products() {
    cases("quant_matmul", 150, |bench| {
        let [m, k, n] = [0; 3].map(|_| bench.random.pick(&[1, 2, 3, 5, 16, 17, 33, 40]));
        let [transpose_x1, transpose_x2, per_row, biased] = [0; 4].map(|_| bench.random.once(2));
        let shape = |swap: bool, rows: usize, cols: usize| if swap { [cols, rows] } else { [rows, cols] };
        let bytes = Values::Index(-128, 128);
        let (x1, x1_laid) = bench.input_in(Layout::Packed, DType::I8, &shape(transpose_x1, m, k), bytes);
        let (x2, x2_laid) = bench.input_in(Layout::Packed, DType::I8, &shape(transpose_x2, k, n), bytes);
        let columns = if bench.random.once(4) { 1 } else { n };
        let dtype = bench.random.pick(&[DType::F32, DType::Bf16]);
        let (scale, scale_laid) = bench.input(dtype, &[columns], Values::SmoothOrNot);
        let (rows, rows_laid) = bench.input(DType::F32, &[m], Values::Smooth);
        let dtype = bench.random.pick(&[DType::F32, DType::Bf16, DType::I32]);
        let (bias, bias_laid) = bench.input(dtype, &[n], Values::Smooth);
        let mut out = bench.output(DType::Bf16, &[m, n]);
        let views = (x1_laid.view(), x2_laid.view(), scale_laid.view(), rows_laid.view(), bias_laid.view());
        bench.run(|sequence| {
            let inputs = QuantMatmul {
                x1: &views.0,
                x2: &views.1,
                transpose_x1,
                transpose_x2,
                scale: &views.2,
                per_token_scale: per_row.then_some(&views.3),
                offset: None,
                bias: biased.then_some(&views.4),
            };
            op::quant_matmul(sequence, &inputs, &mut out.view_mut()).map(drop)
        });
        let due = |at: &Vec<usize>| {
            let [row, col] = at[..] else { panic!("{at:?}") };
            let of = |x: &crate::bench::Host, swap: bool, i: usize, j: usize| x.at(&shape(swap, i, j)).int();
            let mut sum: i64 = (0..k).map(|l| of(&x1, transpose_x1, row, l) * of(&x2, transpose_x2, l, col)).sum();
            let mut added = 0.0;
            match bias.at(&[col]) {
                _ if !biased => {}
                Int(value) => sum += value,
                Float(value) => added = value,
            }
            let mut value = sum as f32 * scale.at(&[if columns == 1 { 0 } else { col }]).single();
            if per_row {
                value *= rows.at(&[row]).single();
            }
            if added != 0.0 {
                value += added;
            }
            Due::Exactly(Float(value)).to(DType::Bf16)
        };
        let due: Vec<Due> = coordinates(&[m, n]).iter().map(due).collect();
        bench.check(&[&x1, &x2, &scale, &rows, &bias], &out, &due);
    });
}
