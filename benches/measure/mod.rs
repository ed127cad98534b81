//! What the benches of whole jobs share: the machine's peaks, the jobs, and races against peers in alternating rounds.
#![allow(dead_code, reason = "each bench uses its own part")]

pub(crate) mod machine;
pub(crate) mod pipeline;
pub(crate) mod python;
pub(crate) mod quantised;
pub(crate) mod spread;
pub(crate) mod workload;

use std::time::{Duration, Instant};

use anyhow::Result;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, SamplingMode};
use spread::Spread;

/// Rounds of a race. All of them agreeing counts as a difference, however small.
const ROUNDS: usize = 10;
/// A short job is repeated for so long in a round.
const ROUND: Duration = Duration::from_millis(20);
/// Peers' threads have so long to fall asleep before ours run.
const PAUSE: Duration = Duration::from_millis(20);

/// Something that does a job.
pub(crate) trait Contender {
    /// Who it is.
    fn name(&self) -> String;

    /// Does the job so many times, and says how long all of them took.
    ///
    /// # Errors
    /// What keeps it from doing so.
    fn run(&mut self, times: u64) -> Result<Duration>;
}

/// A closure that does the job once.
pub(crate) struct Local<F>(pub(crate) &'static str, pub(crate) F);

impl<F: FnMut() -> Result<()>> Contender for Local<F> {
    fn name(&self) -> String {
        self.0.to_owned()
    }

    fn run(&mut self, times: u64) -> Result<Duration> {
        let start = Instant::now();
        (0..times).try_for_each(|_| (self.1)())?;
        Ok(start.elapsed())
    }
}

/// A group of benches for jobs that take their time: criterion runs each [`ROUNDS`] times.
pub(crate) fn group<'a>(criterion: &'a mut criterion::Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(ROUNDS).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(ROUND * ROUNDS as u32);
    group
}

/// What a race gave: ours, and each peer that ran.
pub(crate) struct Race {
    /// Our times.
    pub(crate) ours: Spread,
    /// A peer's name, its times, and in how many rounds of all it was slower than ours. Or why it did not run.
    pub(crate) peers: Vec<(String, Result<Versus>)>,
}

/// A peer beside ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Versus {
    /// Its times.
    pub(crate) times: Spread,
    /// The median, over the rounds, of its time over ours.
    pub(crate) ratio: f64,
    /// Rounds in which it was slower.
    pub(crate) slower: usize,
    /// Rounds.
    pub(crate) rounds: usize,
}

/// Runs the racers in alternating rounds, ours under criterion as `name`; `None` where its filter leaves the job out.
pub(crate) fn race(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    make: impl FnOnce() -> Result<Racers>,
) -> Result<Option<Race>> {
    let mut make = Some(make);
    let mut made: Option<Result<Racers>> = None;
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            if let Some(make) = make.take() {
                made = Some(make());
            }
            let time = match &mut made {
                Some(Ok(racers)) => racers.round(times),
                _ => Ok(Duration::ZERO),
            };
            // criterion divides by it.
            let time = time.unwrap_or_else(|error| {
                made = Some(Err(error));
                Duration::ZERO
            });
            time.max(Duration::from_nanos(1))
        });
    });
    Ok(made.transpose()?.map(Racers::result))
}

/// Ours and its peers.
pub(crate) struct Racers {
    ours: Box<dyn Contender>,
    times: Vec<Duration>,
    peers: Vec<Peer>,
}

struct Peer {
    contender: Box<dyn Contender>,
    /// Of each round, or why it runs no more.
    times: Result<Vec<Duration>>,
}

impl Racers {
    /// At the start.
    pub(crate) fn new(ours: impl Contender + 'static, peers: Vec<Box<dyn Contender>>) -> Self {
        let peers = peers.into_iter().map(|contender| Peer { contender, times: Ok(Vec::new()) });
        Self { ours: Box::new(ours), times: Vec::new(), peers: peers.collect() }
    }

    /// Each peer, then ours `times` times.
    fn round(&mut self, times: u64) -> Result<Duration> {
        for Peer { contender, times } in &mut self.peers {
            let Ok(done) = times else { continue };
            let repeats = done.last().map_or(1, |last| ROUND.div_duration_f64(*last).ceil() as u64);
            match contender.run(repeats.max(1)) {
                Ok(time) => done.push(time / repeats.max(1) as u32),
                Err(error) => *times = Err(error),
            }
            std::thread::sleep(PAUSE);
        }
        let time = self.ours.run(times)?;
        self.times.push(time / times.max(1) as u32);
        Ok(time)
    }

    /// The first round, in which everything is cold, does not count.
    fn result(self) -> Race {
        let ours = &self.times[1..];
        let versus = |times: Vec<Duration>| {
            let pairs = times.iter().skip(1).zip(ours);
            let mut ratios: Vec<f64> = pairs.map(|(peer, ours)| peer.div_duration_f64(*ours)).collect();
            ratios.sort_by(f64::total_cmp);
            let ratio = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
            let slower = ratios.iter().filter(|ratio| **ratio > 1.0).count();
            Versus { times: Spread::of(times[1..].to_vec()), ratio, slower, rounds: ratios.len() }
        };
        let peers = self.peers.into_iter().map(|peer| (peer.contender.name(), peer.times.map(versus))).collect();
        Race { ours: Spread::of(ours.to_vec()), peers }
    }
}

/// Whether a goal was met, or by how much it was missed, in per cent of the goal.
pub(crate) fn verdict(value: f64, goal: f64) -> String {
    if value >= goal { "met".to_owned() } else { format!("missed by {:.0} %", (1.0 - value / goal) * 100.0) }
}

/// Prints our times, and each peer's with the ratio of speeds beside its goal.
pub(crate) fn print(race: &Race, goals: &[(&str, f64)]) {
    println!("  {:<28} {:>11} {:>11} {:>11}", "", "median", "10 %", "90 %");
    println!("  {:<28} {}", "ours", race.ours);
    for (name, versus) in &race.peers {
        match versus {
            Err(error) => println!("  {name:<28} did not run: {error}"),
            Ok(Versus { times, ratio, slower, rounds }) => {
                let goal = goals.iter().find(|(peer, _)| peer == name);
                let goal =
                    goal.map_or(String::new(), |(_, goal)| format!(", goal {goal:.2}: {}", verdict(*ratio, *goal)));
                println!("  {name:<28} {times}  ours {ratio:.2} times as fast ({slower} of {rounds} rounds){goal}");
            }
        }
    }
}
