//! A layer's experts on the kernels alone, beside torch and as a share of what the machine can do: floats, quantised prefill, and
//! quantised decode beside bf16.
//!
//! `PEERS_PYTHON` names a Python with torch; see `docs/performance.md`. The crates of others are in `benches/peers`.

mod measure;

use anyhow::{Result, ensure};
use criterion::Criterion;
use half::bf16;
use measure::machine::{Machine, Peak};
use measure::pipeline::{Format, Pipeline};
use measure::python::PythonPeer;
use measure::quantised::{Held, Numbers, QuantJob, Way};
use measure::workload::{Bound, Experts, W1, W2, W3, W4, W5, W6};
use measure::{Contender, Local, Racers, group, print, race, verdict};
use moe_kernels::element::Float;
use moe_kernels::quant_gemm::Rounding;

/// f32 on the shapes of W1 is to reach so much of its peak.
const F32_SHARE: f64 = 0.85;
/// Decoding is to be so much of what the bytes allow faster than with weights of more bytes.
const BYTES_SHARE: f64 = 0.8;
/// Numbers along K that share a scale, where those of a column do not: of W4A8 as CANN has them, of W4A16 as checkpoints do.
const GROUPS: [usize; 2] = [256, 128];

fn main() -> Result<()> {
    let machine = Machine::measure();
    println!("{machine}");
    let mut criterion = Criterion::default().configure_from_args();
    for job in [W1, W2, W3, W4] {
        for format in [Format::Nd, Format::Nz, Format::NzTransposed] {
            floats::<bf16>(&mut criterion, &machine, machine.bf16, job, format)?;
        }
    }
    let job = Experts { share: F32_SHARE, peers: &[], ..W1 };
    floats::<f32>(&mut criterion, &machine, machine.f32, job, Format::Nd)?;
    for job in [W5, W6] {
        for held in [Held::Transposed, Held::Nz] {
            for rounding in [Rounding::Fast, Rounding::Faithful] {
                let way = Way { numbers: Numbers::W8A8, group: None, held, rounding };
                quantised_prefill(&mut criterion, &machine, job, way)?;
            }
        }
    }
    for job in [W2, W4] {
        for way in ways_to_decode() {
            quantised_decode(&mut criterion, &machine, job, way)?;
        }
    }
    criterion.final_summary();
    Ok(())
}

/// Weights as devices hold them, and both roundings where they differ.
fn ways_to_decode() -> Vec<Way> {
    let [of_w4a8, of_w4a16] = GROUPS.map(|group| [None, Some(group)]);
    let kinds: [(_, &[Held], &[Option<usize>]); 3] = [
        (Numbers::W8A8, &[Held::Transposed, Held::Nz], &[None]),
        (Numbers::W4A8, &[Held::Plain, Held::Transposed, Held::Nz], &of_w4a8),
        (Numbers::W4A16, &[Held::Plain, Held::Transposed, Held::Nz], &of_w4a16),
    ];
    let mut ways = Vec::new();
    for (numbers, held, groups) in kinds {
        for (held, group) in held.iter().flat_map(|held| groups.iter().map(move |group| (*held, *group))) {
            let both = [Rounding::Fast, Rounding::Faithful];
            ways.extend(both.map(|rounding| Way { numbers, group, held, rounding }));
        }
    }
    ways
}

/// The Python peers of a job.
fn peers(job: &Experts) -> Result<Vec<Box<dyn Contender>>> {
    let Experts { tokens, hidden, intermediate, experts, top_k, .. } = job;
    let words = format!("experts {tokens} {hidden} {intermediate} {experts} {top_k}");
    let peers = job.peers.iter().map(|(name, _)| PythonPeer::start(name, &words, &job.expert_ids()));
    peers.filter_map(Result::transpose).collect()
}

/// Prints a rate, and which share of its bound it is beside the share that is wanted.
fn print_share(what: &str, rate: f64, bound: Peak, goal: f64) {
    let share = rate / bound.rate;
    println!(
        "  {:.1} {what}, {:.0} % of the peak ({}); goal {:.0} %: {}",
        rate / 1e9,
        share * 100.0,
        bound.how,
        goal * 100.0,
        verdict(share, goal),
    );
}

/// Prints how much of the peak of operations a job that reads weights reaches, where these would take longer than reading.
fn print_operations(job: &Experts, seconds: f64, bytes: f64, operations: Peak, read: Peak) {
    let least = job.operations() / operations.rate;
    if least > bytes / read.rate {
        println!(
            "  on this CPU operations take longer than reading: {:.0} % of their peak ({})",
            least / seconds * 100.0,
            operations.how
        );
    }
}

fn floats<T: Float>(
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
        Ok(Racers::new(Local("ours", move || pipeline.run()), peers(&job)?))
    };
    let name = format!("{}/{}/{format:?}", job.name, T::NAME);
    let Some(race) = race(&mut group(criterion, "kernels"), &name, made)? else { return Ok(()) };
    println!("{job}, {}, weights {format:?}", T::NAME);
    print(&race, job.peers);
    let seconds = race.ours.seconds();
    match job.bound {
        Bound::Operations => print_share("GFLOP/s", job.operations() / seconds, peak, job.share),
        Bound::WeightBytes => {
            let bytes = job.active_weights() * T::BYTES as f64;
            print_share("GB/s of weights", bytes / seconds, machine.read, job.share);
            print_operations(&job, seconds, bytes, peak, machine.read);
        }
    }
    Ok(())
}

fn quantised_prefill(criterion: &mut Criterion, machine: &Machine, job: Experts, way: Way) -> Result<()> {
    let made = || {
        let mut ours = QuantJob::checked(job, way)?;
        Ok(Racers::new(Local("ours", move || ours.run()), peers(&job)?))
    };
    let name = format!("{}/{way}", job.name);
    let Some(race) = race(&mut group(criterion, "kernels"), &name, made)? else { return Ok(()) };
    println!("{job}, {way}");
    print(&race, job.peers);
    print_share("GFLOP/s", job.operations() / race.ours.seconds(), machine.int8, job.share);
    Ok(())
}

/// Beside bf16 and, of fewer bytes, W8A8 in the same layout.
fn quantised_decode(criterion: &mut Criterion, machine: &Machine, job: Experts, way: Way) -> Result<()> {
    let format = if way.held == Held::Nz { Format::Nz } else { Format::Nd };
    let held = if way.held == Held::Nz { Held::Nz } else { Held::Transposed };
    let eight = Way { numbers: Numbers::W8A8, group: None, held, rounding: Rounding::Fast };
    let made = || {
        let mut ours = QuantJob::checked(job, way)?;
        let mut sixteen = Pipeline::<bf16>::new(job, format)?;
        let mut peers: Vec<Box<dyn Contender>> = vec![Box::new(Local("our bf16", move || sixteen.run()))];
        if way.numbers != Numbers::W8A8 {
            let mut eight = QuantJob::checked(job, eight)?;
            peers.push(Box::new(Local("our W8A8", move || eight.run())));
        }
        Ok(Racers::new(Local("ours", move || ours.run()), peers))
    };
    let name = format!("{}/{way}", job.name);
    let Some(race) = race(&mut group(criterion, "decode"), &name, made)? else { return Ok(()) };
    println!("{job}, {way}");
    let bytes = way.weight_bytes(&job);
    let goal = |more: f64| BYTES_SHARE * more / bytes;
    let sixteen = job.active_weights() * bf16::BYTES as f64;
    print(&race, &[("our bf16", goal(sixteen)), ("our W8A8", goal(eight.weight_bytes(&job)))]);
    let seconds = race.ours.seconds();
    print_share("GB/s of weights and scales", bytes / seconds, machine.read, job.share);
    let operations = if way.numbers == Numbers::W4A16 { machine.f32 } else { machine.int8 };
    print_operations(&job, seconds, bytes, operations, machine.read);
    Ok(())
}
