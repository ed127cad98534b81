//! One DeepSeek-V3 layer at its real width, the share of one die: hidden 7168, intermediate 2048, 8 experts and the
//! shared one, 64 tokens with 8 rows each, bf16. Prints bytes announced and bytes used, and GFLOP/s.
//!
//! Where CANN is found this runs on the device; elsewhere on the simulator, where it measures the host kernels.

#[path = "measure/layer.rs"]
mod layer;

use ascend_moe::layer::{LayerOptions, MoeLayer, WeightSource};
use ascend_moe::spec::{ExpertSpec, FloatType, MoeSpec, Normalise, RouterSpec, Score, SharedSpec};
use ascend_moe::{Cann, Stream, Tensor};
use criterion::{Criterion, Throughput};
use layer::Made;

const TOKENS: usize = 64;
const HIDDEN: usize = 7168;
const INTERMEDIATE: usize = 2048;
const EXPERTS: usize = 8;
const TOP_K: usize = 8;

/// Multiplications and additions of the expert GEMMs, the shared expert's and the router's.
fn operations() -> u64 {
    let expert_rows = (TOKENS * TOP_K + TOKENS) as u64;
    2 * (expert_rows * 3 * (HIDDEN * INTERMEDIATE) as u64 + (TOKENS * HIDDEN * EXPERTS) as u64)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut router = RouterSpec::new(Score::Sigmoid, TOP_K);
    router.choice_bias = true;
    router.norm = Normalise::Sum { eps: 1e-20 };
    router.scale = 2.5;
    let experts = ExpertSpec::new(EXPERTS, HIDDEN, INTERMEDIATE);
    let source = Made(MoeSpec::new(router, experts, Some(SharedSpec::new(INTERMEDIATE)))?);
    let options = LayerOptions::new(FloatType::Bf16);

    let cann = Cann::open(None)?;
    let device = cann.device(0)?;
    let plan = MoeLayer::memory_plan(&device, source.spec(), options, TOKENS)?;
    let stream = Stream::new(&device)?;
    let layer = MoeLayer::load(&stream, &source, options, &mut |_, _| {})?;
    let mut values = vec![0u8; TOKENS * HIDDEN * 4];
    Made::fill(7, FloatType::F32, &mut values);
    let values: Vec<f32> =
        values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) * 64.0).collect();
    let x = Tensor::from_f32(&device, FloatType::Bf16, &values, &[TOKENS, HIDDEN])?;
    let mut output = layer.forward(&stream, x.view())?;
    stream.synchronize()?;

    println!("{} ({}), {}", cann.soc(), if cann.is_simulated() { "simulated" } else { "device" }, cann.reason());
    println!("bytes announced before loading {}", plan.device_bytes());
    println!("bytes at most in use           {}", device.peak_bytes());
    if device.peak_bytes() != plan.device_bytes() {
        return Err("the layer's peak is not what it announced".into());
    }

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("deepseek_v3_layer");
    group.sample_size(10).throughput(Throughput::Elements(operations()));
    group.bench_function(format!("bf16/T{TOKENS}_H{HIDDEN}_I{INTERMEDIATE}_E{EXPERTS}_k{TOP_K}"), |bencher| {
        bencher.iter(|| {
            layer.forward_into(&stream, x.view(), &mut output)?;
            stream.synchronize()
        });
    });
    group.finish();
    criterion.final_summary();
    println!("1 element is one floating-point operation: Gelem/s are GFLOP/s");
    Ok(())
}
