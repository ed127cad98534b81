//! A whole `MoeLayer` on the simulator beside its kernels alone: what the layer, its operators and its memory cost.

mod measure;
#[path = "measure/layer.rs"]
mod source;

use anyhow::{Context, Result};
use ascend_moe::layer::{LayerOptions, MoeLayer};
use ascend_moe::spec::{ExpertSpec, FloatType, MoeSpec, Normalise, RouterSpec, Score};
use ascend_moe::{Cann, Stream, Tensor};
use criterion::Criterion;
use half::bf16;
use measure::pipeline::{Format, Pipeline};
use measure::workload::{Experts, W1, W4, values};
use measure::{Local, Racers, group, print, race};
use source::Made;

/// A layer may cost so much more than its kernels.
const OVERHEAD: f64 = 0.05;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let cann = Cann::open(None).context("opening a backend")?;
    for job in [W1, W4] {
        layer(&mut criterion, &cann, job)?;
    }
    criterion.final_summary();
    Ok(())
}

fn layer(criterion: &mut Criterion, cann: &Cann, job: Experts) -> Result<()> {
    let Experts { tokens, hidden, intermediate, experts, top_k, .. } = job;
    let made = || {
        let mut kernels = Pipeline::<bf16>::new(job, Format::Nd)?;
        let mut router = RouterSpec::new(Score::Sigmoid, top_k);
        router.norm = Normalise::Sum { eps: 1e-20 };
        let source = Made(MoeSpec::new(router, ExpertSpec::new(experts, hidden, intermediate), None)?);
        let device = cann.device(0)?;
        let stream = Stream::new(&device)?;
        let layer = MoeLayer::load(&stream, &source, LayerOptions::new(FloatType::Bf16), &mut |_, _| {})?;
        let x = Tensor::from_f32(&device, FloatType::Bf16, &values::<f32>(tokens * hidden, 1.0), &[tokens, hidden])?;
        let ids = Tensor::from_slice(&device, &job.expert_ids(), &[tokens, top_k])?;
        let weights = Tensor::from_slice(&device, &vec![1.0 / top_k as f32; tokens * top_k], &[tokens, top_k])?;
        let mut output = layer.forward_routed(&stream, x.view(), ids.view(), weights.view())?;
        stream.synchronize()?;
        let ours = Local("layer", move || {
            layer.forward_routed_into(&stream, x.view(), ids.view(), weights.view(), &mut output)?;
            Ok(stream.synchronize()?)
        });
        let kernels = Local("kernels alone", move || kernels.run());
        Ok(Racers::new(ours, vec![Box::new(kernels)]))
    };
    let name = format!("{}/bf16", job.name);
    let Some(race) = race(&mut group(criterion, "layer"), &name, made)? else { return Ok(()) };
    let simulated = if cann.is_simulated() { " (simulated)" } else { "" };
    println!("{job}, bf16, MoeLayer on {}{simulated}", cann.soc());
    print(&race, &[]);
    for (_, versus) in &race.peers {
        let Ok(versus) = versus else { continue };
        let overhead = 1.0 / versus.ratio - 1.0;
        let verdict = if overhead <= OVERHEAD { "met" } else { "missed" };
        println!(
            "  the layer takes {:+.1} % of the time of the kernels alone in addition; goal at most {:+.0} %: {verdict}",
            overhead * 100.0,
            OVERHEAD * 100.0,
        );
    }
    Ok(())
}
