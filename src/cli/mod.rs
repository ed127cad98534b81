//! The command line tool: arguments, input and output files, reports. What it computes is the library's.

mod args;
mod backend;
mod compare;
mod convert;
mod doctor;
mod failure;
mod input;
mod memory;
mod output;
mod plan_router;
mod report;
mod run;

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use failure::{Failure, Kind};

/// How a command ends that gave its report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Right,
    /// A comparison failed.
    Wrong,
    /// No backend is usable.
    Unusable,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Right => 0,
            Self::Wrong => 1,
            Self::Unusable => Kind::Backend.code(),
        }
    }
}

/// Parses the arguments and runs the command.
pub(crate) fn main() -> ExitCode {
    log();
    let (json, result) = match Cli::try_parse() {
        Ok(Cli { command: Command::Run(args) }) => (args.json, run::run(&args)),
        Ok(Cli { command: Command::Convert(args) }) => (args.json, convert::convert(&args)),
        Ok(Cli { command: Command::PlanRouter(args) }) => (args.json, plan_router::plan_router(&args)),
        Ok(Cli { command: Command::Doctor(args) }) => (args.json, doctor::doctor(&args)),
        Err(error) if error.use_stderr() => {
            // The arguments say nothing else for certain.
            let json = std::env::args_os().any(|argument| argument == "--json");
            (json, Err(Failure::usage(&error)))
        }
        Err(help) => (false, print(&help.render().to_string()).map(|()| Outcome::Right)),
    };
    ExitCode::from(match result {
        Ok(outcome) => outcome.code(),
        Err(failure) => {
            failure.tell(json);
            failure.code()
        }
    })
}

/// Logs to standard error, warnings unless `RUST_LOG` says otherwise.
fn log() {
    let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(coloured)
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .init();
}

/// Prints a report on standard output. A reader that has gone away is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::input(format_args!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// The same for a report as JSON.
fn print_json(report: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(report).map_err(|error| Failure::input(format_args!("the report: {error}")))?;
    print(&(text + "\n"))
}
