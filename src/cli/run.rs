//! `run`: layers of a checkpoint on real or random activations.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use ascend_moe::checkpoint::{Checkpoint, HostTensor, NamedTensor, write_tensors};
use ascend_moe::layer::{LayerOptions, LayerOutput, MoeLayer, Probe};
use ascend_moe::spec::{FloatType, MoeSpec};
use ascend_moe::{Cann, Device, OperatorId, Stream, Tensor};
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use super::args::RunArgs;
use super::backend::BackendReport;
use super::compare::Comparison;
use super::input::Input;
use super::report::{LayerReport, Load, MemoryReport, OperatorCount, Report, StepReport, Summary};

/// Results of one layer in host memory.
struct Results {
    layer: usize,
    output: HostTensor,
    ids: Vec<i32>,
    weights: Vec<f32>,
    chosen_shape: Vec<usize>,
}

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(&args.checkpoint).map_err(|error| Failure::Input(error.into()))?;
    let layers = chosen_layers(args, &checkpoint)?;
    let input = Input::open(args).map_err(Failure::Input)?;
    let dtype = args.dtype.map_or(checkpoint.model().dtype(), FloatType::from);
    // Everything that can be wrong with the input is found before a device is claimed.
    let inputs = layers
        .iter()
        .map(|&(layer, spec)| {
            let x = input.activations(layer, spec.experts().hidden)?;
            let reference = input.reference(layer, &x.shape)?;
            Ok((layer, x, reference))
        })
        .collect::<anyhow::Result<Vec<_>>>()
        .map_err(Failure::Input)?;

    let cann = Cann::open(args.backend.map(Into::into)).map_err(|error| Failure::Backend(error.into()))?;
    let device = cann.device(0).map_err(|error| Failure::Backend(error.into()))?;
    let before = operator_calls(&cann);
    let mut reports = Vec::new();
    let mut results = Vec::new();
    for (layer, x, reference) in inputs {
        let (report, result) = one_layer(&device, &checkpoint, layer, dtype, &x, reference.as_ref())?;
        reports.push(report);
        results.push(result);
    }
    let operators = operator_calls(&cann)
        .into_iter()
        .map(|(id, count)| (id, count - before.get(&id).copied().unwrap_or(0)))
        .filter(|&(_, count)| count > 0)
        .map(|(id, count)| OperatorCount { name: format!("aclnn{}", id.name()), count })
        .collect();
    let report = Report {
        schema: "ascend-moe/run/1",
        ok: reports.iter().all(|layer| layer.comparison.is_none_or(|comparison| comparison.ok)),
        backend: BackendReport::new(&cann),
        checkpoint: args.checkpoint.display().to_string(),
        model_type: checkpoint.model().model_type(),
        dtype: dtype.name(),
        input: input.describe(),
        layers: reports,
        operators,
    };
    if let Some(path) = &args.output {
        write(path, &results).map_err(Failure::Input)?;
    }
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::Backend(error.into()))?;
        println!("{text}");
    } else {
        report.print();
    }
    if report.ok { Ok(()) } else { Err(Failure::Comparison) }
}

/// The layers asked for, or all that are mixtures of experts.
fn chosen_layers<'c>(args: &RunArgs, checkpoint: &'c Checkpoint) -> Result<Vec<(usize, &'c MoeSpec)>, Failure> {
    let asked = if args.layers.is_empty() { checkpoint.moe_layers() } else { &args.layers };
    asked
        .iter()
        .map(|&layer| {
            let spec = checkpoint.model().moe(layer).with_context(|| {
                format!("layer {layer} is no mixture of experts; layers that are: {:?}", checkpoint.moe_layers())
            });
            spec.map(|spec| (layer, spec)).map_err(Failure::Input)
        })
        .collect()
}

fn operator_calls(cann: &Cann) -> BTreeMap<OperatorId, u64> {
    cann.table().operator_calls().collect()
}

fn one_layer(
    device: &Device,
    checkpoint: &Checkpoint,
    layer: usize,
    dtype: FloatType,
    x: &HostTensor,
    reference: Option<&HostTensor>,
) -> Result<(LayerReport, Results), Failure> {
    let source = checkpoint.layer_weights(layer).map_err(|error| Failure::Input(error.into()))?;
    let on_device = || -> Result<_, ascend_moe::Error> {
        let spec = source.spec();
        let options = LayerOptions::new(dtype);
        let tokens = x.shape.first().copied().unwrap_or(0);
        let announced = MoeLayer::memory_plan(device, spec, options, tokens)?.device_bytes();
        device.reset_peak_bytes();
        let in_use = device.bytes_in_use();
        let stream = Stream::new(device)?;
        let bar = progress_bar(layer);
        let moe = MoeLayer::load(&stream, &source, options, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        let input = Tensor::from_f32(device, dtype, &x.data, &x.shape)?;
        let mut probe = Probe::new();
        let output = moe.forward_probed(&stream, input.view(), &mut probe)?;
        let values = output.output.to_f32(&stream)?;
        let ids = output.expert_ids.to_vec::<i32>(&stream)?;
        let weights = output.expert_weights.to_f32(&stream)?;
        let counts = output.expert_counts.to_vec::<i64>(&stream)?;
        let steps = probe.take_steps()?;
        let memory = MemoryReport { announced, peak: device.peak_bytes() - in_use };
        Ok((values, ids, weights, counts, steps, memory, chosen_shape(&output)))
    };
    let (values, ids, weights, counts, steps, memory, chosen_shape) =
        on_device().map_err(|error| Failure::Backend(anyhow!(error).context(format!("layer {layer}"))))?;
    let spec = source.spec();
    let report = LayerReport {
        layer,
        tokens: x.shape.first().copied().unwrap_or(0),
        hidden: spec.experts().hidden,
        experts: spec.experts().num,
        top_k: spec.router().top_k,
        comparison: reference.map(|reference| Comparison::new(&values, &reference.data, dtype)),
        output: Summary::new(&values, spec.experts().hidden),
        load: Load::new(&counts),
        expert_counts: counts,
        steps: steps.iter().map(|step| StepReport { name: step.name, milliseconds: step.milliseconds }).collect(),
        memory,
    };
    let output = HostTensor { shape: x.shape.clone(), data: values };
    Ok((report, Results { layer, output, ids, weights, chosen_shape }))
}

fn chosen_shape(output: &LayerOutput) -> Vec<usize> {
    output.expert_ids.shape().iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect()
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

fn write(path: &std::path::Path, results: &[Results]) -> anyhow::Result<()> {
    let names: Vec<[String; 3]> = results
        .iter()
        .map(|r| ["output", "topk_idx", "topk_weight"].map(|what| format!("layers.{}.mlp.{what}", r.layer)))
        .collect();
    let tensors: Vec<NamedTensor<'_>> = results
        .iter()
        .zip(&names)
        .flat_map(|(r, [output, ids, weights])| {
            [
                NamedTensor::of(output, &r.output),
                NamedTensor::i32(ids, &r.chosen_shape, &r.ids),
                NamedTensor::f32(weights, &r.chosen_shape, &r.weights),
            ]
        })
        .collect();
    Ok(write_tensors(path, &tensors)?)
}
