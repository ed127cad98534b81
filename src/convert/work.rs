//! The folder of a conversion: what is there from another try, what is still to be written, and when it is whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::{Plan, Shard, plan};
use super::shard::{Checksum, Create, sync_folder, write, write_whole};
use super::{ConvertError, Format, Options, Progress, Report, TensorReport, config};
use crate::checkpoint::Checkpoint;

/// Inside the folder of a conversion: what it is of, and a note for each file that is whole. Not there in what is finished.
const NOTES: &str = ".conversion";
/// The report, beside the weights.
const REPORT: &str = "conversion.json";
const INDEX: &str = "model.safetensors.index.json";

/// What a conversion is of: with another of these, files that are there are of no use.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    version: String,
    format: Format,
    nz: bool,
    group: Option<usize>,
    buffer: usize,
    /// Name, length and time of the last change of every file of the input.
    inputs: Vec<(String, u64, u128)>,
}

/// A file of weights that is whole.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    bytes: u64,
    checksum: String,
    tensors: Vec<TensorReport>,
}

pub(super) fn run(
    checkpoint: &Checkpoint,
    to: &Path,
    options: Options,
    create: &Create,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, ConvertError> {
    let plan = plan(checkpoint, options)?;
    let dir = folder(checkpoint, to)?;
    let notes = dir.join(NOTES);
    claim(&dir, &notes, &identity(checkpoint, options)?, create)?;

    let total = plan.shards.iter().map(Shard::bytes).sum();
    let pool = super::encode::Pool::default();
    let (mut done, mut resumed, mut tensors) = (0, 0, Vec::new());
    for shard in &plan.shards {
        let note = notes.join(format!("{}.json", shard.file));
        progress(Progress { done, total, file: &shard.file });
        if let Some(Note { tensors: of_shard, .. }) = finished(&dir.join(&shard.file), &note) {
            (resumed, done) = (resumed + 1, done + shard.bytes());
            tensors.extend(of_shard);
            continue;
        }
        let start = done;
        let written = write(checkpoint, shard, &dir, options, create, &pool, &mut |bytes| {
            done = (done + bytes).min(start + shard.bytes());
            progress(Progress { done, total, file: &shard.file });
        })?;
        done = start + shard.bytes();
        let bytes = size(&dir.join(&shard.file))?;
        let whole = Note { bytes, checksum: written.checksum, tensors: written.tensors };
        write_whole(&note, json!(whole).to_string().as_bytes(), create)?;
        tensors.extend(whole.tensors);
    }

    let copied = plan.shards.iter().flat_map(|shard| &shard.steps).filter(|step| step.is_copy()).count();
    let bytes = plan.shards.iter().map(|shard| size(&dir.join(&shard.file))).sum::<Result<_, _>>()?;
    let files = plan.shards.len();
    let Options { format, nz, group, .. } = options;
    let report = Report { format, nz, group, files, resumed, bytes, copied, tensors };
    finish(checkpoint, &plan, &report, options, [&dir, to], create)?;
    progress(Progress { done: total, total, file: "" });
    Ok(report)
}

/// The folder in which the output is put together.
fn folder(checkpoint: &Checkpoint, to: &Path) -> Result<PathBuf, ConvertError> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(ConvertError::Exists { to: to.to_path_buf() });
    }
    let Some(name) = to.file_name() else { return Err(ConvertError::Exists { to: to.to_path_buf() }) };
    let parent = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |error| ConvertError::io(parent, error);
    let parent = parent.canonicalize().map_err(io)?;
    if parent.starts_with(checkpoint.dir().canonicalize().map_err(|error| ConvertError::io(checkpoint.dir(), error))?) {
        return Err(ConvertError::InsideInput { to: to.to_path_buf() });
    }
    Ok(parent.join(format!("{}.partial", name.to_string_lossy())))
}

/// Takes the folder into use: a new one, or one of the same conversion.
fn claim(dir: &Path, notes: &Path, identity: &Identity, create: &Create) -> Result<(), ConvertError> {
    let file = notes.join("identity.json");
    let other = |what| Err(ConvertError::OtherConversion { dir: dir.to_path_buf(), what });
    match fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Identity>(&bytes).ok()) {
        Some(found) if found == *identity => return Ok(()),
        Some(found) if found.inputs != identity.inputs => return other("the files of the input"),
        Some(found) if (found.format, found.nz, found.group) != (identity.format, identity.nz, identity.group) => {
            return other("formats");
        }
        Some(_) => return other("versions"),
        None => {}
    }
    // Whoever made what is there, it was not a conversion.
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    if entries.any(|entry| entry.file_name() != NOTES) {
        return other("what it was made by");
    }
    fs::create_dir_all(notes).map_err(|error| ConvertError::io(notes, error))?;
    write_whole(&file, json!(identity).to_string().as_bytes(), create)
}

fn identity(checkpoint: &Checkpoint, options: Options) -> Result<Identity, ConvertError> {
    let config = checkpoint.dir().join("config.json");
    let mut inputs = Vec::new();
    for path in checkpoint.files().iter().map(|file| file.path()).chain([config.as_path()]) {
        let found = path.metadata().map_err(|error| ConvertError::io(path, error))?;
        let changed = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        inputs.push((name, found.len(), changed.unwrap_or_default().as_nanos()));
    }
    let Options { format, nz, group, buffer } = options;
    Ok(Identity { version: env!("CARGO_PKG_VERSION").to_owned(), format, nz, group, buffer, inputs })
}

/// The note of a file that is whole: it has the length and the checksum that were noted.
fn finished(file: &Path, note: &Path) -> Option<Note> {
    let note: Note = serde_json::from_slice(&fs::read(note).ok()?).ok()?;
    let mut found = fs::File::open(file).ok()?;
    let mut checksum = Checksum::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match found.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => checksum.add(buffer.get(..bytes).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    (size(file).ok() == Some(note.bytes) && checksum.finish() == note.checksum).then_some(note)
}

fn size(file: &Path) -> Result<u64, ConvertError> {
    file.metadata().map(|found| found.len()).map_err(|error| ConvertError::io(file, error))
}

/// Everything that stands beside the weights; the configuration last, then the name of the folder.
fn finish(
    checkpoint: &Checkpoint,
    plan: &Plan<'_>,
    report: &Report,
    options: Options,
    [dir, to]: [&Path; 2],
    create: &Create,
) -> Result<(), ConvertError> {
    copy_others(checkpoint.dir(), dir)?;
    if plan.shards.len() > 1 {
        let all = plan.shards.iter().flat_map(|shard| {
            let tensors = shard.steps.iter().flat_map(|step| &step.tensors);
            tensors.map(|tensor| (tensor.name.as_str(), shard.file.as_str()))
        });
        let weight_map: BTreeMap<&str, &str> = all.collect();
        let total: u64 = plan.shards.iter().map(Shard::bytes).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_whole(&dir.join(INDEX), pretty(&index).as_bytes(), create)?;
    }
    write_whole(&dir.join(REPORT), pretty(&json!(report)).as_bytes(), create)?;
    let converted = config::converted(checkpoint.config()?, plan, options);
    write_whole(&dir.join("config.json"), pretty(&converted).as_bytes(), create)?;
    let notes = dir.join(NOTES);
    fs::remove_dir_all(&notes).map_err(|error| ConvertError::io(&notes, error))?;
    sync_folder(dir)?;
    fs::rename(dir, to).map_err(|error| ConvertError::io(to, error))?;
    dir.parent().map_or(Ok(()), sync_folder)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Copies the files of a checkpoint that are neither weights nor about them: tokenizer, generation, licence.
fn copy_others(from: &Path, to: &Path) -> Result<(), ConvertError> {
    const LEFT_OUT: [&str; 7] =
        [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf"];
    const ABOUT_WEIGHTS: &str = "quant_model_description";
    for entry in fs::read_dir(from).map_err(|error| ConvertError::io(from, error))? {
        let path = entry.map_err(|error| ConvertError::io(from, error))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let is_ours = ["config.json", REPORT].contains(&name) || name.starts_with(ABOUT_WEIGHTS);
        if is_ours || LEFT_OUT.iter().any(|end| name.ends_with(end)) || !path.is_file() {
            continue;
        }
        fs::copy(&path, to.join(name)).map_err(|error| ConvertError::io(&to.join(name), error))?;
    }
    Ok(())
}
