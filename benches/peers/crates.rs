//! W1 and W4 in bf16 beside what a user would write with the crates `gemm`, `faer` and `candle-core`: one expert after the other,
//! f32 with the first two (neither multiplies bf16), both types with candle.
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml`

#[path = "../measure/mod.rs"]
mod measure;

use std::rc::Rc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use criterion::Criterion;
use half::bf16;
use measure::machine::Machine;
use measure::pipeline::{Format, Pipeline};
use measure::workload::{Experts, W1, W4, values};
use measure::{Contender, Local, Racers, group, print, race};

/// The speed that is wanted, that of each crate being 1.
const GOALS: [(&str, f64); 4] = [("gemm f32", 4.0), ("faer f32", 4.0), ("candle f32", 4.0), ("candle bf16", 4.0)];

fn main() -> Result<()> {
    println!("{}", Machine::measure());
    let mut criterion = Criterion::default().configure_from_args();
    for job in [W1, W4] {
        let made = || {
            let mut pipeline = Pipeline::<bf16>::new(job, Format::Nd)?;
            let operands = Rc::new(Slices::new(&job));
            let peers: Vec<Box<dyn Contender>> = vec![
                Box::new(Local("gemm f32", by_slices(job, operands.clone(), product_by_gemm))),
                Box::new(Local("faer f32", by_slices(job, operands, product_by_faer))),
                Box::new(Local("candle f32", by_candle(job, DType::F32)?)),
                Box::new(Local("candle bf16", by_candle(job, DType::BF16)?)),
            ];
            Ok(Racers::new(Local("ours", move || pipeline.run()), peers))
        };
        let Some(race) = race(&mut group(&mut criterion, "crates"), job.name, made)? else { continue };
        println!("{}, {}: ours in bf16, weights Nd", job.name, job.what);
        print(&race, &GOALS);
    }
    criterion.final_summary();
    Ok(())
}

/// The tokens of each expert.
fn tokens_of_experts(job: &Experts, ids: &[i32]) -> Vec<Vec<u32>> {
    let mut tokens = vec![Vec::new(); job.experts];
    for (slot, &expert) in ids.iter().enumerate() {
        tokens[expert as usize].push((slot / job.top_k) as u32);
    }
    tokens
}

/// `y [m, n] = x [m, k] @ w [n, k]^T`, row-major.
type Product = fn([usize; 3], &[f32], &[f32], &mut [f32]);

/// The operands of a job in f32.
struct Slices {
    x: Vec<f32>,
    gate_up: Vec<f32>,
    down: Vec<f32>,
}

impl Slices {
    fn new(job: &Experts) -> Self {
        let Experts { tokens, hidden, intermediate, experts, .. } = *job;
        Self {
            x: values(tokens * hidden, 1.0),
            gate_up: values(experts * 2 * intermediate * hidden, 0.05),
            down: values(experts * hidden * intermediate, 0.05),
        }
    }
}

/// The job over slices.
fn by_slices(job: Experts, operands: Rc<Slices>, product: Product) -> impl FnMut() -> Result<()> {
    let Experts { tokens, hidden, intermediate, top_k, .. } = job;
    let ids = job.expert_ids();
    let share = 1.0 / top_k as f32;
    let mut output = vec![0f32; tokens * hidden];
    let [mut rows, mut projected, mut activated, mut combined] = [const { Vec::new() }; 4];
    move || {
        let Slices { x, gate_up, down } = &*operands;
        output.fill(0.0);
        for (expert, tokens) in tokens_of_experts(&job, &ids).iter().enumerate() {
            let m = tokens.len();
            if m == 0 {
                continue;
            }
            rows.clear();
            tokens.iter().for_each(|&token| rows.extend_from_slice(&x[token as usize * hidden..][..hidden]));
            projected.resize(m * 2 * intermediate, 0.0);
            activated.clear();
            combined.resize(m * hidden, 0.0);
            let weight = &gate_up[expert * 2 * intermediate * hidden..][..2 * intermediate * hidden];
            product([m, 2 * intermediate, hidden], &rows, weight, &mut projected);
            for row in projected.chunks_exact(2 * intermediate) {
                let (gate, up) = row.split_at(intermediate);
                activated.extend(gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up));
            }
            let weight = &down[expert * hidden * intermediate..][..hidden * intermediate];
            product([m, hidden, intermediate], &activated, weight, &mut combined);
            for (row, &token) in combined.chunks_exact(hidden).zip(tokens) {
                let output = &mut output[token as usize * hidden..][..hidden];
                output.iter_mut().zip(row).for_each(|(output, value)| *output += share * value);
            }
        }
        Ok(())
    }
}

fn product_by_gemm([m, n, k]: [usize; 3], x: &[f32], w: &[f32], y: &mut [f32]) {
    assert!(x.len() >= m * k && w.len() >= n * k && y.len() >= m * n);
    let threads = gemm::Parallelism::Rayon(rayon::current_num_threads());
    let (rows, cols) = (k as isize, n as isize);
    // SAFETY: the slices have as many elements as the sizes and strides reach, and `y` overlaps neither of the others.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            cols,
            false,
            x.as_ptr(),
            1,
            rows,
            w.as_ptr(),
            rows,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

fn product_by_faer([m, n, k]: [usize; 3], x: &[f32], w: &[f32], y: &mut [f32]) {
    use faer::{Accum, MatMut, MatRef, Par};
    let x = MatRef::from_row_major_slice(&x[..m * k], m, k);
    let w = MatRef::from_row_major_slice(&w[..n * k], n, k).transpose();
    let y = MatMut::from_row_major_slice_mut(&mut y[..m * n], m, n);
    faer::linalg::matmul::matmul(y, Accum::Replace, x, w, 1.0, Par::rayon(rayon::current_num_threads()));
}

/// The job over tensors of candle.
fn by_candle(job: Experts, dtype: DType) -> Result<impl FnMut() -> Result<()>> {
    let Experts { tokens, hidden, intermediate, experts, top_k, .. } = job;
    let ids = job.expert_ids();
    let tensor = |rows: usize, cols: usize, scale: f32| {
        Tensor::from_vec(values::<f32>(rows * cols, scale), (rows, cols), &Device::Cpu)?.to_dtype(dtype)
    };
    let x = tensor(tokens, hidden, 1.0)?;
    let mut weights = Vec::with_capacity(experts);
    for _ in 0..experts {
        weights.push((tensor(2 * intermediate, hidden, 0.05)?, tensor(hidden, intermediate, 0.05)?));
    }
    Ok(move || {
        let mut output = Tensor::zeros((tokens, hidden), dtype, &Device::Cpu)?;
        for ((gate_up, down), tokens) in weights.iter().zip(tokens_of_experts(&job, &ids)) {
            if tokens.is_empty() {
                continue;
            }
            let rows = tokens.len();
            let tokens = Tensor::from_vec(tokens, rows, &Device::Cpu)?;
            let projected = x.index_select(&tokens, 0)?.matmul(&gate_up.t()?)?;
            let gate = projected.narrow(1, 0, intermediate)?.contiguous()?;
            let up = projected.narrow(1, intermediate, intermediate)?.contiguous()?;
            let combined = (gate.silu()? * up)?.matmul(&down.t()?)?;
            output = output.index_add(&tokens, &(combined * (1.0 / top_k as f64))?, 0)?;
        }
        Ok(())
    })
}
