//! Median and deciles of measured times.

use std::time::Duration;

/// Median and deciles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    /// A tenth of the times is below.
    pub(crate) low: Duration,
    /// Half of the times are below.
    pub(crate) median: Duration,
    /// Nine tenths of the times are below.
    pub(crate) high: Duration,
}

impl Spread {
    /// Of some times, in any order.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 10).copied().unwrap_or_default();
        Self { low: at(1), median: at(5), high: at(9) }
    }

    /// The median in seconds.
    #[allow(dead_code, reason = "not every bench divides by it")]
    pub(crate) fn seconds(&self) -> f64 {
        self.median.as_secs_f64()
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let longest = self.high.as_secs_f64();
        let (unit, factor) = if longest < 1e-3 { ("µs", 1e6) } else { ("ms", 1e3) };
        let scaled = |time: Duration| time.as_secs_f64() * factor;
        let (median, low, high) = (scaled(self.median), scaled(self.low), scaled(self.high));
        write!(f, "{median:>8.2} {unit} {low:>8.2} {unit} {high:>8.2} {unit}")
    }
}
