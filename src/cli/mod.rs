//! The command line tool: arguments, input and output files, reports. What it computes is the library's.

mod args;
mod backend;
mod compare;
mod doctor;
mod input;
mod report;
mod run;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};

/// How a command ends, other than right.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A comparison failed; the report says which.
    Comparison,
    /// Bad usage or bad input.
    Input(anyhow::Error),
    /// The backend is not usable, or failed.
    Backend(anyhow::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Comparison => 1,
            Self::Input(_) => 2,
            Self::Backend(_) => 3,
        }
    }
}

/// Parses the arguments and runs the command.
pub(crate) fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .init();
    // Wrong arguments end the process with code 2 here.
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Doctor(args) => doctor::doctor(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Failure::Input(error) | Failure::Backend(error) = &failure {
                eprintln!("error: {error:#}");
            }
            ExitCode::from(failure.code())
        }
    }
}
