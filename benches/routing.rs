//! The router's choice and the gathering of rows, beside torch and numpy.
//!
//! - R1, R2: sigmoid, bias, the best 4 of 8 groups by the sum of their best 2, the best 8 of 256 experts, weights that sum to 2.5;
//!   4096 and 128 tokens.
//! - R3: slots sorted by expert, counts, and rows of 7168 bf16 gathered in that order; 1024 tokens, 8 of 256 experts each.
//!
//! R3 writes where memory was written before, as an operator on a device does; `numpy` makes a new array each time, `numpy-out`
//! writes where it wrote before. `PEERS_PYTHON` names the Python that has both; see `docs/performance.md`.

mod measure;

use anyhow::Result;
use criterion::Criterion;
use half::bf16;
use measure::machine::Machine;
use measure::python::PythonPeer;
use measure::workload::{expert_ids, values};
use measure::{Contender, Local, Racers, group, print, race};
use moe_kernels::gating::{Division, Dropped, Gating, GroupScore, Groups, Score, gating_top_k};
use moe_kernels::init_routing::Routing;

const EXPERTS: usize = 256;
const TOP_K: usize = 8;
const GROUPS: Groups = Groups { count: 8, keep: 4, score: GroupScore::TopSum(2), dropped: Dropped::Removed };
const ROUTER: Gating = Gating {
    top_k: TOP_K,
    score: Score::Sigmoid,
    groups: Some(GROUPS),
    renormalise: Some(Division::ByQuotient),
    eps: 1e-20,
    scale: 2.5,
};

fn main() -> Result<()> {
    let machine = Machine::measure();
    println!("{machine}");
    let mut criterion = Criterion::default().configure_from_args();
    for (name, tokens) in [("R1", 4096), ("R2", 128)] {
        choose(&mut criterion, &machine, name, tokens)?;
    }
    permute(&mut criterion, &machine, 1024, 7168)?;
    criterion.final_summary();
    Ok(())
}

/// Every peer that can be started.
fn peers(names: &[&'static str], job: &str, ids: &[i32]) -> Result<Vec<Box<dyn Contender>>> {
    names.iter().filter_map(|name| PythonPeer::start(name, job, ids).transpose()).collect()
}

/// Says what share of the time it would take to read so many bytes the job took.
fn print_bytes(machine: &Machine, bytes: usize, seconds: f64) {
    let rate = bytes as f64 / seconds;
    let share = rate / machine.read.rate * 100.0;
    println!("  {:.2} GB/s over operands and results, {share:.0} % of the rate of reading", rate / 1e9);
}

fn choose(criterion: &mut Criterion, machine: &Machine, name: &str, tokens: usize) -> Result<()> {
    let made = || {
        let logits: Vec<f32> = values(tokens * EXPERTS, 2.0);
        let bias: Vec<f32> = values(EXPERTS, 0.1);
        let (mut weights, mut indices) = (vec![0f32; tokens * TOP_K], vec![0i32; tokens * TOP_K]);
        let ours = Local("ours", move || {
            Ok(gating_top_k(&ROUTER, &logits, EXPERTS, Some(&bias), &mut weights, &mut indices, None)?)
        });
        let job = format!("choose {tokens} {EXPERTS} {} {} {TOP_K}", GROUPS.count, GROUPS.keep);
        Ok(Racers::new(ours, peers(&["torch", "numpy"], &job, &[])?))
    };
    let Some(race) = race(&mut group(criterion, "routing"), name, made)? else { return Ok(()) };
    println!("{name}: {tokens} tokens, the best {TOP_K} of {EXPERTS} experts, f32");
    print(&race, &[("torch", 3.0), ("numpy", 3.0)]);
    println!("  {:.2} million tokens/s", tokens as f64 / race.ours.seconds() / 1e6);
    print_bytes(machine, tokens * (EXPERTS + 2 * TOP_K) * 4, race.ours.seconds());
    Ok(())
}

fn permute(criterion: &mut Criterion, machine: &Machine, tokens: usize, hidden: usize) -> Result<()> {
    let row_bytes = hidden * size_of::<bf16>();
    let made = || {
        let ids = expert_ids(tokens, EXPERTS, TOP_K);
        let job = format!("permute {tokens} {hidden} {EXPERTS} {TOP_K}");
        let peers = peers(&["numpy", "numpy-out"], &job, &ids)?;
        let x: Vec<bf16> = values(tokens * hidden, 1.0);
        let mut rows = vec![1u8; tokens * TOP_K * row_bytes];
        let ours = Local("ours", move || {
            let routing = Routing::new(&ids, 0..EXPERTS)?;
            routing.expand(bytemuck::cast_slice(&x), row_bytes, TOP_K, None, &mut rows)?;
            Ok(())
        });
        Ok(Racers::new(ours, peers))
    };
    let Some(race) = race(&mut group(criterion, "routing"), "R3", made)? else { return Ok(()) };
    println!("R3: {tokens} tokens of {hidden} bf16 to {TOP_K} of {EXPERTS} experts each");
    print(&race, &[("numpy", 1.2), ("numpy-out", 1.2)]);
    print_bytes(machine, (tokens + tokens * TOP_K) * row_bytes, race.ours.seconds());
    Ok(())
}
