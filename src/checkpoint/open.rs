//! A checkpoint's folder: which files it is made of, and which tensor is in which.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::io::{ErrorKind, Read as _};
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::file::open_regular;
use super::quantisation::Quantisation;
use super::{CheckpointError, TensorFile, TensorRef};
use crate::spec::ModelSpec;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What msModelSlim's files begin with: the types of tensors, and the weights.
const DESCRIPTION: &str = "quant_model_description";
const QUANTISED_WEIGHTS: &str = "quant_model_weight";

/// Most bytes of a `config.json`; real ones have a few thousand.
const MAX_CONFIG: u64 = 16 << 20;
/// Most bytes of an index; that of a model of a trillion parameters has about ten million.
const MAX_INDEX: u64 = 256 << 20;

/// A checkpoint: its configuration, and its weights mapped into memory. No weight is read before it is asked for.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    model: ModelSpec,
    /// How the weights are quantised, as the checkpoint says.
    quantisation: Quantisation,
    files: Vec<TensorFile>,
    /// The file each tensor is in. Ordered, so that the tensors of a layer are neighbours.
    tensors: BTreeMap<String, usize>,
}

/// The model that the `config.json` of a checkpoint's folder describes; no weight needs to be there.
///
/// # Errors
/// Those of [`Checkpoint::open`] about the folder and the configuration.
pub fn read_config(dir: &Path) -> Result<ModelSpec, CheckpointError> {
    read(dir).map(|(_, model)| model)
}

fn read(dir: &Path) -> Result<(Value, ModelSpec), CheckpointError> {
    match look(dir)? {
        Some(found) if found.is_dir() => {}
        Some(_) => return Err(CheckpointError::NotAFolder { dir: dir.to_path_buf() }),
        None => return Err(CheckpointError::NoFolder { dir: dir.to_path_buf() }),
    }
    let config_file = dir.join(CONFIG);
    if look(&config_file)?.is_none() {
        return Err(CheckpointError::NoConfig { dir: dir.to_path_buf() });
    }
    let config: Value = read_json(&config_file, MAX_CONFIG)?;
    let model =
        ModelSpec::from_config(&config).map_err(|source| CheckpointError::Spec { file: config_file, source })?;
    Ok((config, model))
}

impl Checkpoint {
    /// Opens the folder `dir`: `config.json`, and `model.safetensors` or, where that is not there,
    /// `model.safetensors.index.json` with the shards it names, or the files that msModelSlim writes in their place
    /// (`quant_model_weight*`, with `quant_model_description*.json`). Shards are plain names of files in the folder; these
    /// files may be symbolic links, as they are in Hugging Face's cache.
    ///
    /// The files must not be written to while the checkpoint is open: see [`TensorFile::open`].
    ///
    /// # Errors
    /// [`CheckpointError`] names the file, the tensor or field, and the rule that is broken.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let dir = dir.into();
        let (config, model) = read(&dir)?;
        let quantisation = match look_for(&dir, DESCRIPTION, ".json")? {
            Some(file) => Quantisation::described(&read_json(&file, MAX_INDEX)?, &file)?,
            None => Quantisation::read(&config, &dir.join(CONFIG))?,
        };
        let (files, tensors) = open_files(&dir)?;
        Ok(Self { quantisation, dir, model, files, tensors })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The model, as the configuration describes it.
    pub const fn model(&self) -> &ModelSpec {
        &self.model
    }

    /// The numbers of the mixture-of-experts layers, ascending.
    pub fn moe_layers(&self) -> &[usize] {
        self.model.moe_layers()
    }

    /// The files of its weights.
    pub(crate) fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// Lets the system take back the memory of mapped bytes of a tensor.
    pub(crate) fn release(&self, name: &str, bytes: &[u8]) {
        if let Some(file) = self.file_of(name) {
            file.release(bytes);
        }
    }

    /// The whole configuration.
    pub(crate) fn config(&self) -> Result<Value, CheckpointError> {
        read_json(&self.dir.join(CONFIG), MAX_CONFIG)
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorRef<'_>> {
        self.tensors.keys().filter_map(|name| self.find(name))
    }

    /// A tensor by name.
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorRef<'_>, CheckpointError> {
        self.find(name).ok_or_else(|| CheckpointError::NoTensor { tensor: name.to_owned(), place: self.dir.clone() })
    }

    pub(super) fn find(&self, name: &str) -> Option<TensorRef<'_>> {
        self.file_of(name)?.tensor(name).ok()
    }

    /// The file a tensor is in.
    pub(super) fn file_of(&self, name: &str) -> Option<&TensorFile> {
        self.files.get(*self.tensors.get(name)?)
    }

    /// The names of all tensors that start with `prefix`.
    pub(super) fn names_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.tensors
            .range::<str, _>(from)
            .map(|(name, _)| name.as_str())
            .take_while(move |name| name.starts_with(prefix))
    }

    /// Where a tensor is: its file, or the folder where it is not there.
    pub(super) fn path_of(&self, name: &str) -> &Path {
        self.file_of(name).map_or(&self.dir, TensorFile::path)
    }

    pub(super) const fn quantisation(&self) -> &Quantisation {
        &self.quantisation
    }
}

type Files = (Vec<TensorFile>, BTreeMap<String, usize>);

fn open_files(dir: &Path) -> Result<Files, CheckpointError> {
    let (single, index) = (dir.join(WEIGHTS), dir.join(INDEX));
    if look(&single)?.is_some() {
        open_single(single)
    } else if look(&index)?.is_some() {
        open_shards(dir, index)
    } else if let Some(index) = look_for(dir, QUANTISED_WEIGHTS, ".safetensors.index.json")? {
        open_shards(dir, index)
    } else if let Some(single) = look_for(dir, QUANTISED_WEIGHTS, ".safetensors")? {
        open_single(single)
    } else {
        Err(CheckpointError::NoWeights { dir: dir.to_path_buf() })
    }
}

fn open_single(path: PathBuf) -> Result<Files, CheckpointError> {
    let file = TensorFile::open(path)?;
    let tensors = file.tensors().map(|tensor| (tensor.name.to_owned(), 0)).collect();
    Ok((vec![file], tensors))
}

fn open_shards(dir: &Path, index: PathBuf) -> Result<Files, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = read_json(&index, MAX_INDEX)?;
    let mut files: Vec<TensorFile> = Vec::new();
    let mut tensors: BTreeMap<String, usize> = BTreeMap::new();
    let mut opened: HashMap<&str, usize> = HashMap::new();
    for (tensor, shard) in &weight_map {
        if opened.contains_key(shard.as_str()) {
            continue;
        }
        if !is_file_name(shard) {
            return Err(CheckpointError::ShardName { index, tensor: tensor.clone(), shard: shard.clone() });
        }
        let path = dir.join(shard);
        if look(&path)?.is_none() {
            return Err(CheckpointError::NoShard { index, shard: shard.clone() });
        }
        let (file, number) = (TensorFile::open(path)?, files.len());
        for found in file.tensors() {
            let earlier = tensors.insert(found.name.to_owned(), number);
            if let Some(earlier) = earlier.and_then(|earlier| files.get(earlier)) {
                let (first, second) = (earlier.path().to_path_buf(), file.path().to_path_buf());
                return Err(CheckpointError::DuplicateTensor { tensor: found.name.to_owned(), first, second });
            }
        }
        files.push(file);
        opened.insert(shard, number);
    }
    for (tensor, shard) in &weight_map {
        if tensors.get(tensor) != opened.get(shard.as_str()) {
            return Err(CheckpointError::NotInShard { index, tensor: tensor.clone(), shard: dir.join(shard) });
        }
    }
    Ok((files, tensors))
}

/// Whether a name, joined to a folder, is a direct child of it whatever the platform's separators.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    plain && !name.contains(['/', '\\'])
}

/// The file of a folder whose name starts and ends so; the first by name.
fn look_for(dir: &Path, start: &str, end: &str) -> Result<Option<PathBuf>, CheckpointError> {
    let io = |source| CheckpointError::Io { file: dir.to_path_buf(), source };
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in dir.read_dir().map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(start) && name.ends_with(end)) {
            found.push(entry.path());
        }
    }
    Ok(found.into_iter().min())
}

/// What is at a path, links followed, or `None` where nothing is.
fn look(path: &Path) -> Result<Option<Metadata>, CheckpointError> {
    match path.metadata() {
        Ok(found) => Ok(Some(found)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Io { file: path.to_path_buf(), source }),
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(file: &Path, max: u64) -> Result<T, CheckpointError> {
    let mut bytes = Vec::new();
    open_regular(file)?
        .take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| CheckpointError::Io { file: file.to_path_buf(), source })?;
    if bytes.len() as u64 > max {
        return Err(CheckpointError::JsonTooLarge { file: file.to_path_buf(), max });
    }
    serde_json::from_slice(&null_for_infinite(&bytes))
        .map_err(|source| CheckpointError::Json { file: file.to_path_buf(), source })
}

/// The text with `null` for `Infinity`, `-Infinity` and `NaN` outside strings: Python writes them into `config.json`, JSON
/// has no such numbers, and no field of a mixture-of-experts layer may be one.
fn null_for_infinite(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut quoted, mut escaped) = (false, false);
    let mut rest = json;
    while let Some((&byte, after)) = rest.split_first() {
        let words: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
        if let Some(after) = words.iter().find_map(|word| rest.strip_prefix(*word)).filter(|_| !quoted) {
            out.extend_from_slice(b"null");
            rest = after;
            continue;
        }
        quoted ^= byte == b'"' && !escaped;
        escaped = quoted && byte == b'\\' && !escaped;
        out.push(byte);
        rest = after;
    }
    out
}
