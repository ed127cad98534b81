//! A layer's experts: the kernels alone beside torch and as a share of what the machine can do, and a whole `MoeLayer` on the
//! simulator beside the kernels alone.
//!
//! `PEERS_PYTHON` names a Python with torch; see `docs/performance.md`. The crates of others are in `benches/peers`.

mod measure;
#[path = "measure/layer.rs"]
mod source;

use anyhow::{Context, Result, ensure};
use ascend_moe::layer::{LayerOptions, MoeLayer};
use ascend_moe::spec::{ExpertSpec, FloatType, MoeSpec, Normalise, RouterSpec, Score};
use ascend_moe::{Cann, Stream, Tensor};
use criterion::Criterion;
use half::bf16;
use measure::machine::{Machine, Peak};
use measure::pipeline::{Format, Pipeline};
use measure::python::PythonPeer;
use measure::workload::{Bound, Experts, W1, W2, W3, W4, values};
use measure::{Local, Racers, group, print, race, verdict};
use moe_kernels::element::Float;
use source::Made;

/// A layer may cost so much more than its kernels.
const OVERHEAD: f64 = 0.05;
/// f32 on the shapes of W1 is to reach so much of its peak.
const F32_SHARE: f64 = 0.85;

fn main() -> Result<()> {
    let machine = Machine::measure();
    println!("{machine}");
    let mut criterion = Criterion::default().configure_from_args();
    for job in [W1, W2, W3, W4] {
        for format in [Format::Nd, Format::Nz] {
            kernels::<bf16>(&mut criterion, &machine, machine.bf16, job, format)?;
        }
    }
    let job = Experts { share: F32_SHARE, peers: &[], ..W1 };
    kernels::<f32>(&mut criterion, &machine, machine.f32, job, Format::Nd)?;
    let cann = Cann::open(None).context("opening a backend")?;
    for job in [W1, W4] {
        layer(&mut criterion, &cann, job)?;
    }
    criterion.final_summary();
    Ok(())
}

fn sizes(job: &Experts) -> String {
    let Experts { tokens, hidden, intermediate, experts, top_k, .. } = job;
    format!("T{tokens} H{hidden} I{intermediate} E{experts} k{top_k}")
}

fn kernels<T: Float>(
    criterion: &mut Criterion,
    machine: &Machine,
    peak: Peak,
    job: Experts,
    format: Format,
) -> Result<()> {
    let made = || {
        let mut pipeline = Pipeline::<T>::new(job, format)?;
        pipeline.run()?;
        ensure!(pipeline.output().iter().any(|value| value.to_f32() != 0.0), "an output of zeros");
        let Experts { tokens, hidden, intermediate, experts, top_k, .. } = job;
        let words = format!("experts {tokens} {hidden} {intermediate} {experts} {top_k}");
        let peers = job.peers.iter().map(|(name, _)| PythonPeer::start(name, &words, &job.expert_ids()));
        let peers = peers.filter_map(Result::transpose).collect::<Result<_>>()?;
        Ok(Racers::new(Local("ours", move || pipeline.run()), peers))
    };
    let name = format!("{}/{}/{format:?}", job.name, T::NAME);
    let Some(race) = race(&mut group(criterion, "kernels"), &name, made)? else { return Ok(()) };
    println!("{}, {}: {}, {}, weights {format:?}", job.name, job.what, sizes(&job), T::NAME);
    print(&race, job.peers);
    let (what, rate, most) = match job.bound {
        Bound::Operations => ("GFLOP/s", job.operations() / race.ours.seconds(), peak),
        Bound::WeightBytes => {
            ("GB/s of weights", job.active_weights() * T::BYTES as f64 / race.ours.seconds(), machine.read)
        }
    };
    let share = rate / most.rate;
    println!(
        "  {:.1} {what}, {:.0} % of the peak ({}); goal {:.0} %: {}",
        rate / 1e9,
        share * 100.0,
        most.how,
        job.share * 100.0,
        verdict(share, job.share),
    );
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
    println!("{}, {}: {}, bf16, MoeLayer on {}{simulated}", job.name, job.what, sizes(&job), cann.soc());
    print(&race, &[]);
    for (_, versus) in &race.peers {
        let Ok(versus) = versus else { continue };
        let overhead = 1.0 / versus.ratio - 1.0;
        let verdict = if overhead <= OVERHEAD { "met" } else { "missed" };
        println!(
            "  the layer costs {:.1} % more than the kernels alone; goal at most {:.0} %: {verdict}",
            overhead * 100.0,
            OVERHEAD * 100.0,
        );
    }
    Ok(())
}
