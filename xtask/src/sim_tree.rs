//! `cargo xtask sim-tree`: builds `cann-sim-abi` and lays it out like an installed CANN.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use ascend_sys::Release;
use cann_sim::tree::{self, LIBRARY};

use crate::Layout;

pub(crate) fn run(dir: &Path, layout: Layout, release: Release, dev: bool) -> Result<ExitCode> {
    let library = build(dev)?;
    let layout = match layout {
        Layout::Split => tree::Layout::Split,
        Layout::Single => tree::Layout::Single,
    };
    tree::make(dir, &library, layout, release).with_context(|| format!("making {}", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("naming {}", dir.display()))?;
    println!("export ASCEND_HOME_PATH=\"{}\"", dir.display());
    // An empty entry at the end would mean the current directory.
    println!("export LD_LIBRARY_PATH=\"{}/lib64${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"", dir.display());
    println!("export CANN_SIM_RELEASE={release}");
    Ok(ExitCode::SUCCESS)
}

/// Builds the shared library; cargo tells where it lies. Together with the library of the command, since alone its dependencies would
/// have other features and be built once more.
fn build(dev: bool) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--package", "cann-sim-abi", "--package", "ascend-moe", "--lib"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    if !dev {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output().context("running cargo")?;
    if !output.status.success() {
        bail!("cann-sim-abi does not build");
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages")?;
    let files = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    files
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|path| path.file_name().is_some_and(|name| name == LIBRARY))
        .context("cargo built no shared library")
}
