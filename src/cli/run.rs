//! `run`: layers of a checkpoint on real or random activations.

use std::collections::BTreeSet;

use ascend_moe::checkpoint::{Checkpoint, HostLayer, HostTensor};
use ascend_moe::layer::{ExpertFormat, LayerInput, LayerOptions, MoeLayer, Pass, Probe};
use ascend_moe::spec::FloatType;
use ascend_moe::{Cann, Device, Error, Stream, Tensor};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::RunArgs;
use super::backend::BackendReport;
use super::compare::Comparison;
use super::failure::Failure;
use super::input::Input;
use super::memory::{self, Announced};
use super::output::{Output, Results};
use super::report::{ExpertReport, LayerReport, Load, MemoryReport, OperatorCount, Report, StepReport, Summary};
use super::{Outcome, print, print_json};

/// A layer to run.
struct Job<'c> {
    source: HostLayer<'c>,
    pass: Pass,
    options: LayerOptions,
    /// Why stored codes are expanded, where the device has no way to multiply with them.
    expanded: Option<String>,
}

pub(crate) fn run(args: &RunArgs) -> Result<Outcome, Failure> {
    // Everything that can be wrong with files is found before a device is claimed.
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let input = Input::open(args)?;
    let mut jobs = jobs(args, &checkpoint, &input)?;
    let output = Output::check(args)?;
    // And everything that does not fit before the first layer is loaded.
    let cann = Cann::open(args.backend.map(Into::into))?;
    let device = cann.device(0)?;
    if args.quant.is_none() {
        jobs.iter_mut().try_for_each(|job| expand_where_needed(args, &checkpoint, &device, job))?;
    }
    let announced = jobs
        .iter()
        .map(|Job { source, pass, options, .. }| {
            let (spec, limit) = (source.spec(), args.scratch_limit);
            memory::announce(&device, spec, *options, *pass, limit).map_err(|f| f.in_layer(source.index()))
        })
        .collect::<Result<Vec<_>, _>>()?;

    let (mut layers, mut results) = (Vec::new(), Vec::new());
    for (job, announced) in jobs.iter().zip(announced) {
        let (report, result) =
            one_layer(&device, job, &input, announced).map_err(|f| f.in_layer(job.source.index()))?;
        layers.push(report);
        results.push(result);
    }
    let operators = cann.table().operator_calls();
    let operators = operators.map(|(id, count)| OperatorCount { name: format!("aclnn{}", id.name()), count }).collect();
    let report = Report {
        schema: "ascend-moe/run/1",
        ok: layers.iter().all(|layer| layer.verdict() != Some(false)),
        backend: BackendReport::new(&cann),
        checkpoint: args.checkpoint.display().to_string(),
        model_type: checkpoint.model().model_type(),
        dtype: jobs.first().map_or(checkpoint.model().dtype(), |job| job.options.dtype).name(),
        input: input.describe(),
        layers,
        operators,
    };
    if let Some(output) = output {
        output.write(&results)?;
    }
    if args.json { print_json(&report) } else { print(&report.to_string()) }?;
    Ok(if report.ok { Outcome::Right } else { Outcome::Wrong })
}

/// The type asked for, or the checkpoint's, and the format asked for, or this one. Quantised experts run in 16 bits only.
fn options(args: &RunArgs, checkpoint: &Checkpoint, stored: ExpertFormat) -> LayerOptions {
    let experts = args.quant.map_or(stored, ExpertFormat::from);
    let dtype = match (args.dtype, checkpoint.model().dtype()) {
        (Some(dtype), _) => dtype.into(),
        (None, FloatType::F32) if experts != ExpertFormat::Float => FloatType::Bf16,
        (None, dtype) => dtype,
    };
    LayerOptions::new(dtype).with_experts(experts)
}

/// The layers asked for, or all that are mixtures of experts, with their weights found and their input checked.
fn jobs<'c>(args: &RunArgs, checkpoint: &'c Checkpoint, input: &Input) -> Result<Vec<Job<'c>>, Failure> {
    let mut seen = BTreeSet::new();
    let asked = if args.layers.is_empty() { checkpoint.moe_layers() } else { &args.layers };
    asked
        .iter()
        .map(|&layer| {
            if !seen.insert(layer) {
                return Err(Failure::input(format_args!("layer {layer} is asked for twice; legal is each layer once")));
            }
            let source = checkpoint.layer_weights(layer)?;
            let pass = input.check(layer, source.spec())?;
            let options = options(args, checkpoint, ExpertFormat::stored(&source));
            Ok(Job { source, pass, options, expanded: None })
        })
        .collect()
}

/// Takes experts that nobody asked to have quantised for what they stand for, where no operator multiplies with their codes.
fn expand_where_needed(
    args: &RunArgs,
    checkpoint: &Checkpoint,
    device: &Device,
    job: &mut Job<'_>,
) -> Result<(), Failure> {
    match MoeLayer::memory_plan(device, job.source.spec(), job.options, job.pass) {
        Err(error @ (Error::Format { .. } | Error::Rule(_) | Error::MissingOperator { .. }))
            if job.options.experts != ExpertFormat::Float =>
        {
            job.options = options(args, checkpoint, ExpertFormat::Float);
            job.expanded = Some(error.to_string());
            Ok(())
        }
        _ => Ok(()),
    }
}

fn one_layer(
    device: &Device,
    Job { source, pass, options, expanded }: &Job<'_>,
    input: &Input,
    announced: Announced,
) -> Result<(LayerReport, Results), Failure> {
    let options = *options;
    let (layer, spec, tokens) = (source.index(), source.spec(), &pass.tokens);
    let (hidden, experts, top_k) = (spec.experts().hidden, spec.experts().num, spec.router().choices());
    let x = input.activations(layer, hidden)?;
    // Of no tokens nothing can be compared.
    let reference = if *tokens > 0 { input.reference(layer, &x.shape)? } else { None };

    device.reset_peak_bytes();
    let in_use = device.bytes_in_use();
    let stream = Stream::new(device)?;
    let moe = load(&stream, source, options)?;
    let on_device = Tensor::from_f32(device, options.dtype, &x.data, &x.shape)?;
    let router_input = input.router_input(layer, &x.shape)?;
    let seen_on_device =
        router_input.map(|seen| Tensor::from_f32(device, options.dtype, &seen.data, &seen.shape)).transpose()?;
    let ids_on_device =
        input.token_ids(layer, spec, *tokens)?.map(|ids| Tensor::from_slice(device, &ids, &[ids.len()])).transpose()?;
    let mut on_stream = LayerInput::from(on_device.view());
    if let Some(seen) = &seen_on_device {
        on_stream = on_stream.with_router_input(seen.view());
    }
    if let Some(ids) = &ids_on_device {
        on_stream = on_stream.with_token_ids(ids.view());
    }
    let mut probe = Probe::new();
    let output = if announced.chunk < *tokens {
        let mut output = moe.new_output(*tokens)?;
        moe.forward_chunked(&stream, on_stream, announced.chunk, &mut output)?;
        output
    } else {
        moe.forward_probed(&stream, on_stream, &mut probe)?
    };
    let values = output.output.to_f32(&stream)?;
    let ids = output.expert_ids.to_vec::<i32>(&stream)?;
    let weights = output.expert_weights.to_f32(&stream)?;
    let expert_counts = output.expert_counts.to_vec::<i64>(&stream)?;
    let steps = probe.take_steps()?;
    let peak = device.peak_bytes().saturating_sub(in_use);
    let (plan, router) = (ExpertReport::new(&moe, source, expanded.clone()), moe.router().plan().method.name());
    drop(moe);
    let from_float = if options.experts == ExpertFormat::Float || *tokens == 0 {
        None
    } else {
        let float = load(&stream, source, LayerOptions::new(options.dtype))?;
        let mut output = float.new_output(*tokens)?;
        float.forward_chunked(&stream, on_stream, announced.chunk, &mut output)?;
        let float = output.output.to_f32(&stream)?;
        Some(Comparison::new(&values, &float, options.dtype, options.experts))
    };

    let report = LayerReport {
        layer,
        tokens: *tokens,
        hidden,
        experts,
        top_k,
        comparison: reference
            .map(|reference| Comparison::new(&values, &reference.data, options.dtype, options.experts)),
        from_float,
        output: Summary::new(&values, hidden),
        load: Load::new(&expert_counts),
        expert_counts,
        steps: steps.iter().map(|step| StepReport { name: step.name, milliseconds: step.milliseconds }).collect(),
        router,
        expert_plan: plan,
        chunk: announced.chunk,
        memory: MemoryReport { announced: announced.bytes, peak },
    };
    let output = HostTensor { shape: x.shape, data: values };
    Ok((report, Results { layer, output, ids, weights, chosen_shape: [*tokens, top_k] }))
}

/// A layer on the device, with a bar while it is copied.
fn load(stream: &Stream, source: &HostLayer<'_>, options: LayerOptions) -> Result<MoeLayer, Failure> {
    let bar = progress_bar(source.index());
    let layer = MoeLayer::load(stream, source, options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(layer?)
}

/// Hidden where standard error is no terminal.
fn progress_bar(layer: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::new(0).with_message(format!("loading layer {layer}"));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
