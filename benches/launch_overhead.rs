//! What the safe layer costs on the host: one small operator (`aclnnAdd` of 16 f32) through it, over the same vendor calls
//! (descriptors, both phases, workspace) made straight on the call table.
//!
//! Rounds alternate, each on an idle stream: the synchronisation is outside of the timed part. `cargo bench --bench
//! launch_overhead`; a number as the first argument sets the rounds. On the simulator the vendor's side is the
//! simulator's, so the ratio, not the times, is the result.

#[path = "measure/spread.rs"]
mod spread;

#[allow(dead_code, reason = "shared with a test")]
#[path = "../tests/raw_add/mod.rs"]
mod raw_add;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ascend_moe::Cann;
use raw_add::Add;
use spread::Spread;

/// Rounds of each kind, after as many tenths for warming up.
const ROUNDS: usize = 20_000;
/// The safe layer may cost half as much again as the calls it makes.
const GOAL: f64 = 1.5;

fn main() -> Result<()> {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(ROUNDS).max(10);
    let cann = Cann::open(None).context("opening a backend")?;
    let mut add = Add::new(&cann)?;
    let (mut safe, mut raw) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for round in 0..rounds + rounds / 10 {
        add.stream.synchronize()?;
        let start = Instant::now();
        add.safe()?;
        let by_layer = start.elapsed();
        add.stream.synchronize()?;
        let start = Instant::now();
        add.raw()?;
        let by_hand = start.elapsed();
        if round >= rounds / 10 {
            safe.push(by_layer);
            raw.push(by_hand);
        }
    }
    ensure!(add.sum()? == [3.5; raw_add::LEN], "wrong sum");

    let simulated = if cann.is_simulated() { " (simulated)" } else { "" };
    println!("aclnnAdd of {} f32 on {}{simulated}, {rounds} alternating rounds, idle stream", raw_add::LEN, cann.soc());
    let (safe, raw) = (Spread::of(safe), Spread::of(raw));
    println!("{:<12} {:>11} {:>11} {:>11}", "", "median", "10 %", "90 %");
    println!("{:<12} {}", "safe layer", safe);
    println!("{:<12} {}", "raw calls", raw);
    let ratio = safe.median.as_secs_f64() / raw.median.as_secs_f64();
    let verdict = if ratio <= GOAL { "met" } else { "missed" };
    println!("ratio of medians {ratio:.3}, goal {GOAL} {verdict}");
    Ok(())
}
