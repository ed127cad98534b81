//! Copies of checkpoints to break, and safetensors files written byte by byte.

use std::fs;
use std::path::{Path, PathBuf};

use ascend_moe::checkpoint::TensorFile;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A checkpoint of `tests/data/checkpoints`.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints").join(name)
}

/// A copy of it that may be changed.
pub(crate) fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(data(name)).unwrap() {
        let entry = entry.unwrap();
        fs::write(dir.path().join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    dir
}

/// Changes a JSON file.
pub(crate) fn edit_json(file: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    edit(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn new(name: &str, dtype: &str, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), dtype: dtype.to_owned(), shape: shape.to_vec(), bytes }
    }
}

/// The bytes of a file with this header and these data.
pub(crate) fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The bytes of a file with these tensors, one after the other.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (json!({}), Vec::new());
    for Tensor { name, dtype, shape, bytes } in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        data.extend_from_slice(bytes);
    }
    raw(&header.to_string(), &data)
}

/// Changes the tensors of a file.
pub(crate) fn rewrite(file: &Path, edit: impl FnOnce(&mut Vec<Tensor>)) {
    let mut tensors: Vec<Tensor> = TensorFile::open(file)
        .unwrap()
        .tensors()
        .map(|t| Tensor::new(t.name, &t.dtype.to_string(), t.shape, t.bytes.to_vec()))
        .collect();
    edit(&mut tensors);
    fs::write(file, safetensors(&tensors)).unwrap();
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
