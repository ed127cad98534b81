//! `plan-router`: which operators the routers of a model run as, and why.

use std::fmt;

use ascend_moe::backend::Environment;
use ascend_moe::checkpoint::read_config;
use ascend_moe::layer::{LayerOptions, RouterPlan};
use ascend_moe::spec::FloatType;
use ascend_moe::{Cann, Choice};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::args::PlanRouterArgs;
use super::backend::BackendReport;
use super::failure::Failure;
use super::{Outcome, print, print_json};

/// The plans of a model's routers.
#[derive(Serialize)]
struct Plans {
    schema: &'static str,
    ok: bool,
    backend: BackendReport,
    checkpoint: String,
    model_type: &'static str,
    dtype: &'static str,
    /// One entry for each plan, with the layers it is for.
    plans: Vec<Plan>,
}

#[derive(Serialize)]
struct Plan {
    layers: Vec<usize>,
    /// The way taken.
    method: &'static str,
    /// The better ways that were not taken.
    rejected: Vec<Rejected>,
    /// Type of the logits' product.
    logits: &'static str,
    /// Type that weights are given in.
    weights: &'static str,
    operators: Vec<Operator>,
}

#[derive(Serialize)]
struct Rejected {
    method: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct Operator {
    name: String,
    purpose: &'static str,
    /// Of a pass of two tokens.
    operands: String,
}

pub(crate) fn plan_router(args: &PlanRouterArgs) -> Result<Outcome, Failure> {
    let model = read_config(&args.checkpoint)?;
    let layers = if args.layers.is_empty() { model.moe_layers() } else { &args.layers };
    let options = LayerOptions::new(args.dtype.map_or(model.dtype(), FloatType::from));
    let cann = open(args)?;
    let device = cann.device(0)?;

    let mut plans: Vec<(RouterPlan, Vec<usize>)> = Vec::new();
    for &layer in layers {
        let spec = model.moe(layer).ok_or_else(|| {
            let legal = model.moe_layers();
            Failure::input(format_args!("layer {layer} is no mixture of experts; legal are {legal:?}"))
        })?;
        let plan = RouterPlan::new(&device, spec, options).map_err(|error| Failure::from(error).in_layer(layer))?;
        match plans.iter_mut().find(|(known, _)| *known == plan) {
            Some((_, layers)) => layers.push(layer),
            None => plans.push((plan, vec![layer])),
        }
    }
    let report = Plans {
        schema: "ascend-moe/plan-router/1",
        ok: true,
        backend: BackendReport::new(&cann),
        checkpoint: args.checkpoint.display().to_string(),
        model_type: model.model_type(),
        dtype: options.dtype.name(),
        plans: plans.into_iter().map(|(plan, layers)| Plan::new(plan, layers)).collect(),
    };
    if args.json { print_json(&report) } else { print(&report.to_string()) }?;
    Ok(Outcome::Right)
}

/// The backend asked for; the simulator in the release asked for.
fn open(args: &PlanRouterArgs) -> Result<Cann, Failure> {
    let choice = args.backend.map(Choice::from);
    let Some(release) = &args.release else { return Ok(Cann::open(choice)?) };
    if choice != Some(Choice::Sim) {
        return Err(Failure::input("--release says what the simulator plays; it goes with --backend sim"));
    }
    let environment = Environment::from_process().with_simulated_release(release).map_err(Failure::input)?;
    Ok(Cann::open_in(choice, &environment)?)
}

impl Plan {
    fn new(plan: RouterPlan, layers: Vec<usize>) -> Self {
        let rejected = plan.rejected.into_iter();
        let operators = plan.calls.into_iter().map(|call| Operator {
            name: format!("aclnn{}", call.operator.name()),
            purpose: call.purpose,
            operands: call.operands,
        });
        Self {
            layers,
            method: plan.method.name(),
            rejected: rejected.map(|(method, reason)| Rejected { method: method.name(), reason }).collect(),
            logits: plan.logits.name(),
            weights: plan.gate.name(),
            operators: operators.collect(),
        }
    }
}

impl fmt::Display for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BackendReport { soc, release, simulated, .. } = &self.backend;
        let simulated = if *simulated { ", simulated" } else { "" };
        writeln!(f, "{} in {} on {soc}, CANN {release}{simulated}", self.model_type, self.dtype)?;
        for plan in &self.plans {
            writeln!(f, "\nlayers {}: {}", ranges(&plan.layers), plan.method)?;
            for Rejected { method, reason } in &plan.rejected {
                writeln!(f, "  not {method}: {reason}")?;
            }
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(["operator", "for", "operands of two tokens"]);
            for Operator { name, purpose, operands } in &plan.operators {
                table.add_row([name.as_str(), purpose, operands]);
            }
            writeln!(f, "{table}")?;
        }
        Ok(())
    }
}

/// Ascending numbers, runs of them as `first-last`.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let shown =
        runs.into_iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn layers_are_shown_as_runs() {
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
    }
}
