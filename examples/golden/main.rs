//! Answers golden files: for each `<stem>.safetensors` of a folder writes `<stem>.out.safetensors` with the chosen
//! experts, their weights and the layer's output, or, where the file is about a number format, with the tensors it asks for;
//! and names each file it cannot answer.
//!
//! `cargo run --release --example golden -- IN_DIR OUT_DIR [--backend auto|cann|sim]`

pub(crate) mod answer;
mod formats;
pub(crate) mod meta;
mod quantisation;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use ascend_moe::{Cann, Choice};
use clap::Parser;

/// Answer golden files with the expert layer
#[derive(Parser)]
struct Args {
    /// Folder with golden files
    in_dir: PathBuf,
    /// Folder for the answers; made if it is not there
    out_dir: PathBuf,
    /// What to run on: auto, cann or sim
    #[arg(long)]
    backend: Option<Choice>,
}

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Answers every file; gives the number of those it could not.
fn run(args: &Args) -> Result<usize> {
    let files = golden_files(&args.in_dir)?;
    std::fs::create_dir_all(&args.out_dir).with_context(|| args.out_dir.display().to_string())?;
    let device = Cann::open(args.backend)?.device(0)?;
    let mut failures = 0;
    for path in &files {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let out = args.out_dir.join(format!("{stem}.out.safetensors"));
        match answer::answer(&device, path, &out) {
            Ok(()) => println!("answered  {stem}"),
            Err(error) => {
                println!("no answer {stem}: {error:#}");
                failures += 1;
            }
        }
    }
    println!("{} answered, {failures} not", files.len() - failures);
    Ok(failures)
}

/// The safetensors files of a folder that are no answers, in the order of their names.
fn golden_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".safetensors") && !name.ends_with(".out.safetensors") {
            files.push(path);
        }
    }
    files.sort();
    anyhow::ensure!(!files.is_empty(), "{}: no safetensors files", dir.display());
    Ok(files)
}
