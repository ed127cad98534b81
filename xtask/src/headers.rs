//! `cargo xtask headers`: writes the C headers, or hands over to the drift check, which needs the feature `bindgen`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use ascend_sys::header;

pub(crate) fn run(out: &Option<PathBuf>, include: &Option<PathBuf>, roundtrip: bool) -> Result<ExitCode> {
    if include.is_some() || roundtrip {
        return compare(include.as_deref());
    }
    let out = out.clone().unwrap_or_else(|| target_dir().join("headers"));
    header::write_to(&out).with_context(|| format!("writing headers to {}", out.display()))?;
    println!("{} headers in {}", header::files().len(), out.display());
    Ok(ExitCode::SUCCESS)
}

/// Compares the list with the headers in `include`, or with its own where there is none.
#[cfg(feature = "bindgen")]
fn compare(include: Option<&Path>) -> Result<ExitCode> {
    let scratch = target_dir().join("headers-read");
    let report = match include {
        Some(dir) => crate::drift::with_vendor_headers(dir, &scratch)?,
        None => crate::drift::with_own_headers(&scratch)?,
    };
    print!("{report}");
    Ok(if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds this program again with the feature and runs the same task in it.
#[cfg(not(feature = "bindgen"))]
fn compare(include: Option<&Path>) -> Result<ExitCode> {
    use std::process::Command;

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--package", "xtask", "--features", "bindgen", "--", "headers"]);
    match include {
        Some(dir) => command.arg("--include").arg(dir),
        None => command.arg("--roundtrip"),
    };
    let status = command.status().context("running cargo with the feature bindgen")?;
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        Some(1) => ExitCode::FAILURE,
        _ => ExitCode::from(2),
    })
}

/// The build directory of the workspace.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join("target"),
    }
}
