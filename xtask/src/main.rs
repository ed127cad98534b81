//! Tasks of the repository: `cargo xtask <task>`.

#[cfg(feature = "bindgen")]
mod drift;
mod headers;
mod sim_tree;

use std::path::PathBuf;
use std::process::ExitCode;

use ascend_sys::Release;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Tasks of the ascend-moe repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// C headers of the functions this repository binds: write them, or compare the list with headers.
    ///
    /// Exit code: 0 done and equal, 1 the headers differ, 2 the task could not run.
    Headers(HeadersArgs),
    /// Build the simulator's shared library and lay it out like an installed CANN.
    ///
    /// Any program that looks for CANN in ASCEND_HOME_PATH, or is linked against its libraries, then runs on the simulator.
    SimTree(SimTreeArgs),
}

#[derive(Args)]
struct HeadersArgs {
    /// Where to write the headers [default: target/headers].
    #[arg(long, value_name = "DIR", conflicts_with_all = ["include", "roundtrip"])]
    out: Option<PathBuf>,
    /// Compare the list with the CANN headers in this directory, for example `/usr/local/Ascend/cann/include`. Needs libclang.
    #[arg(long, value_name = "DIR")]
    include: Option<PathBuf>,
    /// Read the generated headers back and compare: they must say what the list says. Needs libclang.
    #[arg(long, conflicts_with = "include")]
    roundtrip: bool,
}

#[derive(Args)]
struct SimTreeArgs {
    /// Directory to make; becomes the ASCEND_HOME_PATH.
    dir: PathBuf,
    /// Which files it has.
    #[arg(long, value_enum, default_value_t)]
    layout: Layout,
    /// CANN release that its version files tell.
    #[arg(long, value_parser = parse_release, default_value = "9.1.0")]
    release: Release,
    /// Build with the dev profile (default: release).
    #[arg(long)]
    dev: bool,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Layout {
    /// One library per repository, as CANN has it since 8.5.
    #[default]
    Split,
    /// The three libraries of CANN 8.1.
    Single,
}

fn parse_release(text: &str) -> Result<Release, String> {
    Release::parse(text).ok_or_else(|| "a release reads like 9.1.0".to_owned())
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Headers(args) => headers::run(&args.out, &args.include, args.roundtrip),
        Task::SimTree(args) => sim_tree::run(&args.dir, args.layout, args.release, args.dev),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
