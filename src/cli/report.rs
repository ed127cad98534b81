//! What `run` reports, for scripts and for people.

use std::fmt;

use ascend_moe::checkpoint::HostLayer;
use ascend_moe::layer::{ExpertPlan, MoeLayer};
use ascend_moe::spec::Part;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::BinaryBytes;
use serde::Serialize;

use super::backend::BackendReport;
use super::compare::{Comparison, Measure};

/// The report of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    pub(crate) ok: bool,
    pub(crate) backend: BackendReport,
    pub(crate) checkpoint: String,
    pub(crate) model_type: &'static str,
    pub(crate) dtype: &'static str,
    pub(crate) input: String,
    pub(crate) layers: Vec<LayerReport>,
    /// Operators launched through the call table, from its trace.
    pub(crate) operators: Vec<OperatorCount>,
}

/// One layer.
#[derive(Serialize)]
pub(crate) struct LayerReport {
    pub(crate) layer: usize,
    pub(crate) tokens: usize,
    pub(crate) hidden: usize,
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
    /// How the router ran; `plan-router` tells more.
    pub(crate) router: &'static str,
    /// How the experts ran.
    pub(crate) expert_plan: ExpertReport,
    /// Tokens that ran at once.
    pub(crate) chunk: usize,
    /// `null` where the input has no reference, or no tokens.
    pub(crate) comparison: Option<Comparison>,
    /// How far quantised experts are from the same layer in floating point; `null` where they are not quantised.
    pub(crate) from_float: Option<Comparison>,
    pub(crate) output: Summary,
    /// Rows that each expert got.
    pub(crate) expert_counts: Vec<i64>,
    pub(crate) load: Load,
    pub(crate) steps: Vec<StepReport>,
    pub(crate) memory: MemoryReport,
}

/// An output in numbers.
#[derive(Serialize)]
pub(crate) struct Summary {
    pub(crate) mean: f64,
    pub(crate) standard_deviation: f64,
    pub(crate) max_abs: f64,
    /// The first values of the first token.
    pub(crate) first: Vec<f32>,
}

impl Summary {
    pub(crate) fn new(values: &[f32], hidden: usize) -> Self {
        let count = values.len().max(1) as f64;
        let sum = |of: &dyn Fn(f64) -> f64| values.iter().fold(0.0, |sum, &v| sum + of(f64::from(v)));
        let mean = sum(&|v| v) / count;
        let variance = sum(&|v| (v - mean).powi(2)) / count;
        Self {
            mean,
            standard_deviation: variance.sqrt(),
            max_abs: values.iter().map(|&v| f64::from(v).abs()).fold(0.0, f64::max),
            first: values.iter().take(hidden.min(4)).copied().collect(),
        }
    }
}

/// How tokens spread over experts.
#[derive(Serialize)]
pub(crate) struct Load {
    pub(crate) min: i64,
    pub(crate) max: i64,
    /// Largest over mean; 1 is even.
    pub(crate) imbalance: f64,
    /// Experts without a row.
    pub(crate) empty: usize,
}

impl Load {
    pub(crate) fn new(counts: &[i64]) -> Self {
        let (min, max) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
        let mean = counts.iter().sum::<i64>() as f64 / counts.len().max(1) as f64;
        Self {
            min,
            max,
            imbalance: if mean > 0.0 { max as f64 / mean } else { 0.0 },
            empty: counts.iter().filter(|&&count| count == 0).count(),
        }
    }
}

/// How the experts' projections are held, and which operators multiply with them.
#[derive(Serialize)]
pub(crate) struct ExpertReport {
    pub(crate) format: String,
    /// The operator that multiplies with gate and up, activates and quantises at once; `null` where these are steps.
    pub(crate) fused: Option<String>,
    /// Why these are steps where activations are quantised, or why stored codes are expanded.
    pub(crate) reason: Option<String>,
    /// How the checkpoint stores them.
    pub(crate) stored: Option<String>,
    /// Root mean square of what the codes are off, as a share of that of the weights; 0 where they are exact.
    pub(crate) weight_error: f64,
}

impl ExpertReport {
    /// * `expanded`: why stored codes were expanded.
    pub(crate) fn new(layer: &MoeLayer, source: &HostLayer<'_>, expanded: Option<String>) -> Self {
        let ExpertPlan { format, fused, reason, .. } = layer.experts();
        Self {
            format: format.to_string(),
            fused: fused.map(|operator| format!("aclnn{}", operator.name())),
            reason: expanded.or_else(|| reason.clone()),
            stored: source.stored(Part::W13).map(|stored| stored.to_string()),
            weight_error: layer.quantisation_error().rms(),
        }
    }
}

impl fmt::Display for ExpertReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format)?;
        if let Some(stored) = &self.stored {
            write!(f, " of {stored}")?;
        }
        if self.weight_error > 0.0 {
            write!(f, ", codes off by {:.2e}", self.weight_error)?;
        }
        match (&self.fused, &self.reason) {
            (Some(operator), _) => write!(f, ", gate and up to quantised activations by {operator}"),
            (None, Some(reason)) => write!(f, ", not fused: {reason}"),
            (None, None) => Ok(()),
        }
    }
}

/// A step and its time.
#[derive(Serialize)]
pub(crate) struct StepReport {
    pub(crate) name: &'static str,
    pub(crate) milliseconds: f32,
}

/// Bytes of a layer.
#[derive(Serialize)]
pub(crate) struct MemoryReport {
    /// Device bytes announced before loading.
    pub(crate) announced: u64,
    /// Most device bytes held at once since the layer began to load.
    pub(crate) peak: u64,
}

/// An operator and how often it was launched.
#[derive(Serialize)]
pub(crate) struct OperatorCount {
    pub(crate) name: String,
    pub(crate) count: u64,
}

/// For a person.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BackendReport { name, simulated, soc, release, reason, clock, arithmetic } = &self.backend;
        if *simulated {
            writeln!(f, "{} on a simulator of CANN {release} and {soc}: no device was used", self.model_type)?;
        } else {
            writeln!(f, "{} on CANN {release}, {soc}", self.model_type)?;
        }
        writeln!(f, "  backend     {name}")?;
        writeln!(f, "  because     {reason}")?;
        if let Some(arithmetic) = arithmetic {
            writeln!(f, "  arithmetic  {arithmetic}")?;
        }
        writeln!(f, "  checkpoint  {}", self.checkpoint)?;
        writeln!(f, "  input       {}", self.input)?;
        writeln!(f, "  dtype       {}", self.dtype)?;
        for layer in &self.layers {
            layer.write(f, clock)?;
        }
        if self.operators.is_empty() {
            writeln!(f, "\nno operator was launched")?;
        } else {
            let mut table = plain(&["operator", "launches"]);
            for OperatorCount { name, count } in &self.operators {
                table.add_row([name.clone(), count.to_string()]);
            }
            right(&mut table, 1);
            writeln!(f, "\noperators launched\n{}", indented(&table))?;
        }
        let of = self.layers.len();
        let verdicts = self.layers.iter().filter_map(LayerReport::verdict);
        let (wrong, compared) = (verdicts.clone().filter(|right| !right).count(), verdicts.count());
        match (wrong, compared) {
            (0, 0) => writeln!(f, "\nno reference: nothing was compared"),
            (0, n) => writeln!(f, "\nright: {n} of {of} layers compared, all within tolerance"),
            (wrong, n) => {
                writeln!(
                    f,
                    "\nFAILED: {wrong} of {n} layers compared are farther from the reference than the tolerance"
                )
            }
        }
    }
}

impl LayerReport {
    /// Whether it is right by all that it was compared with; `None` where that is nothing.
    pub(crate) fn verdict(&self) -> Option<bool> {
        [self.comparison, self.from_float].into_iter().flatten().map(|comparison| comparison.ok).reduce(|a, b| a && b)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, clock: &str) -> fmt::Result {
        let Self { layer, tokens, hidden, experts, top_k, output, load, .. } = self;
        writeln!(f, "\nlayer {layer}: {tokens} tokens of {hidden}, {top_k} of {experts} experts each")?;
        if *tokens == 0 {
            return writeln!(f, "  nothing to compute");
        }
        let Summary { mean, standard_deviation, max_abs, first } = output;
        writeln!(
            f,
            "  output   mean {mean:.3e}, deviation {standard_deviation:.3e}, largest {max_abs:.3e}, begins {first:?}"
        )?;
        writeln!(f, "  weights  {}", self.expert_plan)?;
        for (what, comparison) in [("error  ", &self.comparison), ("float  ", &self.from_float)] {
            if let Some(comparison) = comparison {
                writeln!(f, "  {what}  {comparison}")?;
            }
        }
        let Load { min, max, imbalance, empty } = load;
        writeln!(f, "  experts  {min} to {max} rows, largest {imbalance:.2} of the mean, {empty} without any")?;
        writeln!(f, "           {}", histogram(&self.expert_counts))?;
        let [announced, peak] = [self.memory.announced, self.memory.peak].map(BinaryBytes);
        writeln!(f, "  memory   {announced} announced, {peak} at most in use")?;
        let total: f32 = self.steps.iter().map(|step| step.milliseconds).sum();
        writeln!(f, "  time     {total:.3} ms ({clock})")?;
        let mut table = plain(&["step", "ms", "share"]);
        for StepReport { name, milliseconds } in &self.steps {
            let share = if total > 0.0 { 100.0 * milliseconds / total } else { 0.0 };
            table.add_row([(*name).to_owned(), format!("{milliseconds:.3}"), format!("{share:.0} %")]);
        }
        right(&mut table, 1);
        right(&mut table, 2);
        writeln!(f, "{}", indented(&table))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.ok { "right" } else { "WRONG" };
        match self.measure {
            Measure::Largest => write!(
                f,
                "{verdict}: {:.2e} of the largest value ({:.2e} of {:.3e})",
                self.max_rel_error, self.max_abs_error, self.max_reference
            )?,
            Measure::RootMeanSquare => write!(
                f,
                "{verdict}: root mean square {:.2e} ({:.2e} of the largest value at most)",
                self.rms_rel_error, self.max_rel_error
            )?,
        }
        write!(f, ", tolerance {:.0e}", self.tolerance)
    }
}

pub(crate) fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// Below a heading.
pub(crate) fn indented(table: &Table) -> String {
    table.lines().map(|line| format!("          {}", line.trim_end())).collect::<Vec<_>>().join("\n")
}

pub(crate) fn right(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// One character an expert, or the mean of several where there are more than 64.
fn histogram(counts: &[i64]) -> String {
    const BARS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bin = counts.len().div_ceil(64).max(1);
    let sums: Vec<i64> = counts.chunks(bin).map(|chunk| chunk.iter().sum()).collect();
    let most = sums.iter().max().copied().unwrap_or(0).max(1);
    sums.iter()
        .map(|&sum| {
            // Anything above 0 shows.
            let level = (sum * 8 + most - 1) / most;
            BARS.get(usize::try_from(level).unwrap_or(0)).copied().unwrap_or('█')
        })
        .collect()
}
