//! `convert`: the expert weights of a checkpoint in another format.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;

use ascend_moe::convert::{self, Options, Progress, TensorReport};
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::ConvertArgs;
use super::failure::Failure;
use super::report::{indented, plain, right};
use super::{Outcome, print, print_json};

/// The report of a conversion.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    ok: bool,
    from: String,
    to: String,
    seconds: f64,
    #[serde(flatten)]
    conversion: convert::Report,
}

pub(crate) fn convert(args: &ConvertArgs) -> Result<Outcome, Failure> {
    let mut options = Options::new(args.format.into());
    options.nz = args.nz;
    options.group = args.group.map(NonZeroUsize::get);
    let style =
        ProgressStyle::with_template("{bar:40} {binary_bytes} of {binary_total_bytes} at {binary_bytes_per_sec} {msg}");
    let bar = ProgressBar::new(0);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    let started = std::time::Instant::now();
    let conversion = convert::convert(&args.from, &args.to, options, &mut |Progress { done, total, file, .. }| {
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(file.to_owned());
    });
    bar.finish_and_clear();
    let report = Report {
        schema: "ascend-moe/convert/1",
        ok: true,
        from: args.from.display().to_string(),
        to: args.to.display().to_string(),
        seconds: started.elapsed().as_secs_f64(),
        conversion: conversion?,
    };
    if args.json { print_json(&report) } else { print(&report.to_string()) }?;
    Ok(Outcome::Right)
}

/// For a person.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let convert::Report { format, files, resumed, bytes, copied, tensors, .. } = &self.conversion;
        writeln!(f, "{} of {}", format.name(), self.from)?;
        writeln!(
            f,
            "  output  {}, {} in {files} files, {resumed} of them from an earlier try",
            self.to,
            BinaryBytes(*bytes)
        )?;
        writeln!(f, "  time    {:.1} s", self.seconds)?;
        writeln!(f, "  copied  {copied} tensors")?;
        let mut table = plain(&["weights", "of", "from", "to", "rms", "largest"]);
        for (name, Group { count, from, to, rms, max }) in groups(tensors) {
            table.add_row([name, count.to_string(), from, to, percent(rms), percent(max)]);
        }
        for column in [1, 4, 5] {
            right(&mut table, column);
        }
        writeln!(
            f,
            "\nerror of the worst weight, relative to root mean square and to largest value\n{}",
            indented(&table)
        )
    }
}

/// Weights of all experts of a layer.
struct Group {
    count: usize,
    from: String,
    to: String,
    rms: f64,
    max: f64,
}

/// Weights under their names with `*` for the number of the expert.
fn groups(tensors: &[TensorReport]) -> BTreeMap<String, Group> {
    let mut groups = BTreeMap::new();
    for TensorReport { name, from, to, rms, max, .. } in tensors {
        let mut parts: Vec<&str> = name.split('.').collect();
        let expert = parts.iter().position(|part| *part == "experts").and_then(|at| parts.get_mut(at + 1));
        if let Some(number) = expert.filter(|part| part.bytes().all(|byte| byte.is_ascii_digit())) {
            *number = "*";
        }
        let new = || Group { count: 0, from: from.clone(), to: to.clone(), rms: 0.0, max: 0.0 };
        let group = groups.entry(parts.join(".")).or_insert_with(new);
        group.count += 1;
        (group.rms, group.max) = (group.rms.max(*rms), group.max.max(*max));
    }
    groups
}

fn percent(share: f64) -> String {
    if share == 0.0 { "exact".to_owned() } else { format!("{:.3} %", 100.0 * share) }
}
