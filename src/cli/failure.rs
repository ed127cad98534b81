//! Why a command ends without a report: what is told on standard error and, with `--json`, on standard output.

use std::fmt::Display;
use std::io::{self, Write as _};

use ascend_moe::Error;
use ascend_moe::checkpoint::CheckpointError;
use ascend_moe::convert::ConvertError;
use serde::Serialize;

use super::print_json;

/// What went wrong; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The arguments.
    Usage,
    /// A file, or a variable of the environment.
    Input,
    /// The backend is not usable, cannot run this, or failed.
    Backend,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Usage | Self::Input => 2,
            Self::Backend => 3,
        }
    }
}

/// A command that failed. The message is whole: errors of the library tell their causes themselves.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

/// A failure as JSON.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    ok: bool,
    error: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    kind: Kind,
    exit_code: u8,
    message: &'a str,
}

impl Failure {
    /// Arguments that do not parse, in clap's words.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
        Self { kind: Kind::Usage, message }
    }

    pub(crate) fn input(error: impl Display) -> Self {
        Self { kind: Kind::Input, message: error.to_string() }
    }

    pub(crate) fn backend(error: impl Display) -> Self {
        Self { kind: Kind::Backend, message: error.to_string() }
    }

    /// The same, of one layer.
    pub(crate) fn in_layer(self, layer: usize) -> Self {
        Self { message: format!("layer {layer}: {}", self.message), ..self }
    }

    pub(crate) fn code(&self) -> u8 {
        self.kind.code()
    }

    /// Tells it. That nobody listens changes nothing.
    pub(crate) fn tell(&self, json: bool) {
        let Self { kind, message } = self;
        let _ = writeln!(io::stderr(), "error: {message}");
        if json {
            let error = Told { kind: *kind, exit_code: kind.code(), message };
            let _ = print_json(&Report { schema: "ascend-moe/error/1", ok: false, error });
        }
    }
}

impl From<anyhow::Error> for Failure {
    /// What the command line itself finds wrong is input.
    fn from(error: anyhow::Error) -> Self {
        Self::input(error)
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::input(error)
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Self {
        Self::input(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Checkpoint(_) | Error::UnknownBackend { .. } => Self::input(error),
            _ => Self::backend(error),
        }
    }
}
