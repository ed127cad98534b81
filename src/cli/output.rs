//! The output file: everything that can be wrong with its path is found before the work, and it is written whole or not
//! at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use ascend_moe::checkpoint::{HostTensor, NamedTensor, write_tensors};

use super::args::RunArgs;

/// Results of one layer in host memory.
pub(crate) struct Results {
    pub(crate) layer: usize,
    /// `[T, H]`.
    pub(crate) output: HostTensor,
    /// `[T, k]`, the best expert first.
    pub(crate) ids: Vec<i32>,
    /// `[T, k]`, in the same order.
    pub(crate) weights: Vec<f32>,
    /// Of `ids` and `weights`.
    pub(crate) chosen_shape: [usize; 2],
}

/// A place where a file can be written.
pub(crate) struct Output {
    path: PathBuf,
}

impl Output {
    /// The file of `--output`, if there is one. Writes a file of no tensors next to it and takes it away again: whatever
    /// the system has against it is known then.
    pub(crate) fn check(args: &RunArgs) -> Result<Option<Self>> {
        let Some(asked) = &args.output else { return Ok(None) };
        let shown = asked.display();
        let Some(name) = asked.file_name() else { bail!("output {shown} is not the name of a file") };
        let folder = match asked.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder =
            folder.canonicalize().map_err(|error| anyhow!("output {shown}: folder {}: {error}", folder.display()))?;
        if !folder.is_dir() {
            bail!("output {shown}: {} is not a folder", folder.display());
        }
        let path = folder.join(name);
        // A file takes the place of what is there: of a device or a link it must not.
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            bail!("output {shown} is there and is not a regular file; legal is a new file, or one to replace");
        }
        if args.checkpoint.canonicalize().is_ok_and(|checkpoint| checkpoint == folder) {
            bail!("output {shown} lies in the folder of the checkpoint; legal is any other");
        }
        if args.input.as_ref().is_some_and(|input| input.canonicalize().is_ok_and(|input| input == path)) {
            bail!("output {shown} is the input file; legal is any other");
        }
        let trial = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        write_tensors(&trial, &[])
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(fs::remove_file(&trial)?))
            .map_err(|error| anyhow!("output {shown} cannot be written: {error}"))?;
        Ok(Some(Self { path }))
    }

    pub(crate) fn write(&self, results: &[Results]) -> Result<()> {
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
        Ok(write_tensors(&self.path, &tensors)?)
    }
}
