//! What this machine can do at most: multiplications and additions, and bytes read. The bounds that results are set against.
//!
//! A rate is the work of all threads over the time from the first start to the last end: only time in which all of them ran counts
//! as such. Of many short bursts the best one is the peak, since whatever disturbs a burst slows it.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Time spent on each peak.
const SPENT: Duration = Duration::from_millis(700);
/// Accumulators of a peak's loop: enough to hide the latency of its instruction, few enough for its registers.
const CHAINS: usize = 12;
/// Turns of a peak's loop in a burst.
const TURNS: usize = 1_000_000;
/// Bytes that are read in a burst: far more than caches hold.
const READ_BYTES: usize = 512 << 20;

/// The peaks.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Threads of the current pool, all of which the peaks and the kernels use.
    pub(crate) threads: usize,
    /// Operations per second, a multiplication and an addition being two, on f32.
    pub(crate) f32: Peak,
    /// On bf16: its dot product where the CPU has one, else that of f32, to which bf16 is widened.
    pub(crate) bf16: Peak,
    /// On int8 with sums in int32.
    pub(crate) int8: Peak,
    /// Bytes per second that are read from memory.
    pub(crate) read: Peak,
}

/// The best rate of something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peak {
    /// How it is reached.
    pub(crate) how: &'static str,
    /// Per second.
    pub(crate) rate: f64,
}

impl Machine {
    /// Measures them all, on as many threads as the current pool has.
    pub(crate) fn measure() -> Self {
        let threads = rayon::current_num_threads();
        let peaks = loops();
        let rate = |peak: Loop| Peak {
            how: peak.how,
            rate: best_rate(threads, |_| {
                (peak.run)(TURNS);
                (TURNS * CHAINS * peak.operations) as f64
            }),
        };
        let buffer = vec![1u64; READ_BYTES / size_of::<u64>()];
        let parts: Vec<&[u64]> = buffer.chunks(buffer.len().div_ceil(threads)).collect();
        let read = best_rate(threads, |thread| {
            black_box(scan(parts[thread]));
            size_of_val(parts[thread]) as f64
        });
        Self {
            threads,
            f32: rate(peaks.f32),
            bf16: rate(peaks.bf16),
            int8: rate(peaks.int8),
            read: Peak { how: "reading 512 MiB", rate: read },
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "peaks of this machine, {} threads:", self.threads)?;
        for (name, peak) in [("f32", self.f32), ("bf16", self.bf16), ("int8", self.int8)] {
            writeln!(f, "  {name:<5} {:>8.1} GFLOP/s  ({})", peak.rate / 1e9, peak.how)?;
        }
        write!(f, "  read  {:>8.1} GB/s     ({})", self.read.rate / 1e9, self.read.how)
    }
}

/// The best of many bursts; `work` does a thread's share and says how much it was.
fn best_rate(threads: usize, work: impl Fn(usize) -> f64 + Sync) -> f64 {
    let start = Instant::now();
    let mut best = 0f64;
    while start.elapsed() < SPENT {
        let barrier = Barrier::new(threads);
        let one = |thread| {
            barrier.wait();
            let start = Instant::now();
            let done = work(thread);
            (done, start, Instant::now())
        };
        let runs: Vec<(f64, Instant, Instant)> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
            handles.into_iter().filter_map(|handle| handle.join().ok()).collect()
        });
        let first = runs.iter().map(|run| run.1).min();
        let last = runs.iter().map(|run| run.2).max();
        if let (Some(first), Some(last)) = (first, last) {
            let done: f64 = runs.iter().map(|run| run.0).sum();
            best = best.max(done / (last - first).as_secs_f64());
        }
    }
    best
}

fn scan(words: &[u64]) -> u64 {
    let mut all = [0u64; 16];
    for block in words.as_chunks::<16>().0 {
        all.iter_mut().zip(block).for_each(|(all, word)| *all |= word);
    }
    all.into_iter().fold(0, |all, word| all | word)
}

/// A loop that does nothing but one kind of operation.
#[derive(Clone, Copy)]
struct Loop {
    how: &'static str,
    /// Operations of one accumulator in one turn.
    operations: usize,
    run: fn(usize),
}

struct Loops {
    f32: Loop,
    bf16: Loop,
    int8: Loop,
}

/// A loop over [`CHAINS`] accumulators of one step, as a function that needs features of the CPU.
macro_rules! chains {
    ($name:ident, $features:literal, $zero:expr, $factor:expr, |$sum:ident, $x:ident| $step:expr) => {
        fn $name(turns: usize) {
            #[target_feature(enable = $features)]
            fn run(turns: usize) {
                let $x = black_box($factor);
                let mut sums = [$zero; CHAINS];
                for _ in 0..turns {
                    for $sum in &mut sums {
                        *$sum = $step;
                    }
                }
                black_box(sums);
            }
            // SAFETY: `loops` names this function only where the CPU has the features.
            unsafe { run(turns) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
fn loops() -> Loops {
    use std::arch::x86_64::*;

    chains!(fma, "avx2,fma", _mm256_setzero_ps(), _mm256_set1_ps(1.0), |sum, x| _mm256_fmadd_ps(*sum, x, x));
    chains!(words, "avx2", _mm256_setzero_si256(), _mm256_set1_epi16(1), |sum, x| {
        _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, x))
    });
    chains!(wide_fma, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(1.0), |sum, x| _mm512_fmadd_ps(*sum, x, x));
    chains!(wide_words, "avx512f,avx512bw", _mm512_setzero_si512(), _mm512_set1_epi16(1), |sum, x| {
        _mm512_add_epi32(*sum, _mm512_madd_epi16(*sum, x))
    });
    chains!(dot_bytes, "avx512f,avx512vnni", _mm512_setzero_si512(), _mm512_set1_epi8(1), |sum, x| {
        _mm512_dpbusd_epi32(*sum, x, x)
    });
    chains!(dot_bf16, "avx512f,avx512bf16", _mm512_setzero_ps(), _mm512_set1_ps(1.0), |sum, x| {
        let pairs = _mm512_cvtne2ps_pbh(x, x);
        _mm512_dpbf16_ps(*sum, pairs, pairs)
    });

    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let f32 = match (wide, avx2) {
        (true, _) => Loop { how: "fused multiply-add, AVX-512", operations: 32, run: wide_fma },
        (_, true) => Loop { how: "fused multiply-add, AVX2", operations: 16, run: fma },
        _ => PLAIN_F32,
    };
    let int8 = match (wide, avx2) {
        (true, _) if is_x86_feature_detected!("avx512vnni") => {
            Loop { how: "vpdpbusd, AVX-512", operations: 128, run: dot_bytes }
        }
        (true, _) => Loop { how: "vpmaddwd and vpaddd, AVX-512", operations: 64, run: wide_words },
        (_, true) => Loop { how: "vpmaddwd and vpaddd, AVX2", operations: 32, run: words },
        _ => PLAIN_INT,
    };
    let bf16 = match wide && is_x86_feature_detected!("avx512bf16") {
        true => Loop { how: "vdpbf16ps, AVX-512", operations: 64, run: dot_bf16 },
        false => f32,
    };
    Loops { f32, bf16, int8 }
}

#[cfg(target_arch = "aarch64")]
fn loops() -> Loops {
    use std::arch::aarch64::*;
    use std::arch::{asm, is_aarch64_feature_detected};

    chains!(fma, "neon", vdupq_n_f32(0.0), vdupq_n_f32(1.0), |sum, x| vfmaq_f32(x, *sum, x));
    // The intrinsics of these are not stable.
    macro_rules! assembly {
        ($name:ident, $features:literal, $code:literal, $zero:expr, $factor:expr) => {
            chains!($name, $features, $zero, $factor, |sum, x| {
                // SAFETY: the feature is there; registers alone are touched.
                unsafe { asm!($code, inout(vreg) *sum, in(vreg) x, options(pure, nomem, nostack)) };
                *sum
            });
        };
    }
    assembly!(dot_bytes, "neon,dotprod", "sdot {0:v}.4s, {1:v}.16b, {1:v}.16b", vdupq_n_s32(0), vdupq_n_s8(1));
    assembly!(matrix_bytes, "neon,i8mm", "smmla {0:v}.4s, {1:v}.16b, {1:v}.16b", vdupq_n_s32(0), vdupq_n_s8(1));
    assembly!(matrix_bf16, "neon,bf16", "bfmmla {0:v}.4s, {1:v}.8h, {1:v}.8h", vdupq_n_f32(0.0), vdupq_n_u16(0x3f80));

    let f32 = Loop { how: "fused multiply-add, NEON", operations: 8, run: fma };
    let int8 = match (is_aarch64_feature_detected!("i8mm"), is_aarch64_feature_detected!("dotprod")) {
        (true, _) => Loop { how: "smmla, NEON", operations: 64, run: matrix_bytes },
        (_, true) => Loop { how: "sdot, NEON", operations: 32, run: dot_bytes },
        _ => PLAIN_INT,
    };
    let bf16 = match is_aarch64_feature_detected!("bf16") {
        true => Loop { how: "bfmmla, NEON", operations: 32, run: matrix_bf16 },
        false => f32,
    };
    Loops { f32, bf16, int8 }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn loops() -> Loops {
    Loops { f32: PLAIN_F32, bf16: PLAIN_F32, int8: PLAIN_INT }
}

const PLAIN_F32: Loop = Loop { how: "multiply and add, as compiled", operations: 8, run: plain_f32 };
const PLAIN_INT: Loop = Loop { how: "multiply and add of int32, as compiled", operations: 8, run: plain_int };

fn plain_f32(turns: usize) {
    let x = black_box([1f32; 4]);
    let mut sums = [[0f32; 4]; CHAINS];
    for _ in 0..turns {
        sums.iter_mut().for_each(|sum| sum.iter_mut().zip(&x).for_each(|(sum, x)| *sum = *sum * x + x));
    }
    black_box(sums);
}

fn plain_int(turns: usize) {
    let x = black_box([1i32; 4]);
    let mut sums = [[0i32; 4]; CHAINS];
    for _ in 0..turns {
        let step = |(sum, x): (&mut i32, &i32)| *sum = sum.wrapping_mul(*x).wrapping_add(*x);
        sums.iter_mut().for_each(|sum| sum.iter_mut().zip(&x).for_each(step));
    }
    black_box(sums);
}
