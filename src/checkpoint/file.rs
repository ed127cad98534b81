//! One safetensors file, mapped into memory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::{CheckpointError, convert, header};

/// A tensor inside a mapped file.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TensorRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its axes, slowest first.
    pub shape: &'a [usize],
    /// Its elements: host memory, row-major, little-endian, in general not aligned.
    pub bytes: &'a [u8],
}

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its axes, slowest first.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub data: Vec<f32>,
}

/// A safetensors file: activations, or the weights of a checkpoint.
///
/// The file is mapped, not read: it must not be changed while this value lives (see [`TensorFile::open`]).
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    /// In the order of their bytes.
    tensors: Vec<(String, TensorInfo)>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Maps the file and checks its header: afterwards every tensor lies inside the file.
    ///
    /// Whoever opens a file vouches that nobody writes to it in place or cuts it while it is open: its bytes would
    /// change under the reader, and reading a page that is gone ends the process. Replacing it by a rename is harmless.
    ///
    /// # Errors
    /// [`CheckpointError`] names the tensor and the rule of the format that is broken.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let path = path.into();
        let map = map(&path)?;
        let header::Header { tensors, data_start, metadata } = header::parse(&path, &map)?;
        let by_name = tensors.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Ok(Self { path, map, data_start, tensors, by_name, metadata })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says of itself: the strings under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// All its tensors, in the order of their bytes.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorRef<'_>> {
        self.tensors.iter().map(|(name, info)| self.view(name, info))
    }

    /// A tensor by name.
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorRef<'_>, CheckpointError> {
        self.by_name
            .get(name)
            .and_then(|i| self.tensors.get(*i))
            .map(|(name, info)| self.view(name, info))
            .ok_or_else(|| CheckpointError::NoTensor { tensor: name.to_owned(), place: self.path.clone() })
    }

    /// The values of a tensor of any float type, converted to `f32` (exactly, but for F64, which is rounded).
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`], or [`CheckpointError::WrongDtype`] if it is not F32, F16, BF16 or F64.
    pub fn values(&self, name: &str) -> Result<HostTensor, CheckpointError> {
        let tensor = self.tensor(name)?;
        let data = convert::to_f32(tensor).ok_or_else(|| CheckpointError::WrongDtype {
            file: self.path.clone(),
            tensor: name.to_owned(),
            found: tensor.dtype,
            legal: "F32, F16, BF16 or F64",
        })?;
        Ok(HostTensor { shape: tensor.shape.to_vec(), data })
    }

    /// Shape and values of a tensor of integers.
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`], or [`CheckpointError::WrongDtype`] if it is not I32 or I64.
    pub fn integers(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>), CheckpointError> {
        let tensor = self.tensor(name)?;
        let values = convert::to_i64(tensor).ok_or_else(|| CheckpointError::WrongDtype {
            file: self.path.clone(),
            tensor: name.to_owned(),
            found: tensor.dtype,
            legal: "I32 or I64",
        })?;
        Ok((tensor.shape.to_vec(), values))
    }

    /// Lets the system take back the memory that mapped bytes of this file are in; they are read again where they are needed again.
    pub(crate) fn release(&self, bytes: &[u8]) {
        let start = (bytes.as_ptr() as usize).wrapping_sub(self.map.as_ptr() as usize);
        if start.checked_add(bytes.len()).is_some_and(|end| end <= self.map.len()) {
            // SAFETY: the map is read-only and of a file, so pages that are dropped come back with the same bytes.
            // That it fails changes nothing.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes.len()) };
        }
    }

    fn view<'a>(&'a self, name: &'a str, info: &'a TensorInfo) -> TensorRef<'a> {
        let (start, end) = info.data_offsets;
        // The header's check put every tensor inside the map, so neither the sums nor the slice fail.
        let bytes = self.map.get(self.data_start + start..self.data_start + end).unwrap_or_default();
        TensorRef { name, dtype: info.dtype, shape: &info.shape, bytes }
    }
}

fn map(path: &Path) -> Result<Mmap, CheckpointError> {
    let file = open_regular(path)?;
    // SAFETY: the map is read-only and private to this value, and lives as long as it. That the file is not written
    // or cut meanwhile cannot be enforced on Linux; it is what `TensorFile::open` asks of its caller.
    unsafe { Mmap::map(&file) }.map_err(|source| CheckpointError::Io { file: path.to_path_buf(), source })
}

/// Opens a regular file. It is looked at first, since opening a pipe waits for a writer.
pub(super) fn open_regular(path: &Path) -> Result<File, CheckpointError> {
    let io = |source| CheckpointError::Io { file: path.to_path_buf(), source };
    if path.metadata().map_err(io)?.is_file() {
        File::open(path).map_err(io)
    } else {
        Err(CheckpointError::NotAFile { file: path.to_path_buf() })
    }
}
