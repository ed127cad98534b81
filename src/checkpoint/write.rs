//! Writing a safetensors file, whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use half::bf16;
use safetensors::tensor::{Dtype, TensorView};

use super::{CheckpointError, HostTensor};

/// A tensor to be written: name, axes (slowest first), and row-major values.
#[derive(Debug, Clone, Copy)]
pub struct NamedTensor<'a> {
    name: &'a str,
    shape: &'a [usize],
    dtype: Dtype,
    elements: usize,
    bytes: &'a [u8],
}

impl<'a> NamedTensor<'a> {
    /// Written as F32.
    pub fn f32(name: &'a str, shape: &'a [usize], values: &'a [f32]) -> Self {
        Self { name, shape, dtype: Dtype::F32, elements: values.len(), bytes: bytemuck::cast_slice(values) }
    }

    /// Written as I32.
    pub fn i32(name: &'a str, shape: &'a [usize], values: &'a [i32]) -> Self {
        Self { name, shape, dtype: Dtype::I32, elements: values.len(), bytes: bytemuck::cast_slice(values) }
    }

    /// Written as I8.
    pub fn i8(name: &'a str, shape: &'a [usize], values: &'a [i8]) -> Self {
        Self { name, shape, dtype: Dtype::I8, elements: values.len(), bytes: bytemuck::cast_slice(values) }
    }

    /// Written as U8.
    pub fn u8(name: &'a str, shape: &'a [usize], values: &'a [u8]) -> Self {
        Self { name, shape, dtype: Dtype::U8, elements: values.len(), bytes: values }
    }

    /// Written as BF16.
    pub fn bf16(name: &'a str, shape: &'a [usize], values: &'a [bf16]) -> Self {
        Self { name, shape, dtype: Dtype::BF16, elements: values.len(), bytes: bytemuck::cast_slice(values) }
    }

    /// A host tensor under a name.
    pub fn of(name: &'a str, tensor: &'a HostTensor) -> Self {
        Self::f32(name, &tensor.shape, &tensor.data)
    }
}

/// Writes tensors into the file `path`, replacing it. They are written to a new file next to it, which then
/// takes its name: readers see the old file or the whole new one.
///
/// # Errors
/// [`CheckpointError::Values`] where a tensor's values do not fill its shape, [`CheckpointError::DuplicateTensor`]
/// where a name is given twice, [`CheckpointError::Io`] where the system refuses; then nothing is left behind.
pub fn write_tensors(path: &Path, tensors: &[NamedTensor<'_>]) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::Io { file: path.to_path_buf(), source };
    let bytes = serialise(path, tensors)?;
    let partial = partial_name(path).map_err(io)?;
    let written = File::create_new(&partial)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| {
        // Best effort: the first failure is the one to tell.
        let _ = fs::remove_file(&partial);
        io(source)
    })
}

fn serialise(path: &Path, tensors: &[NamedTensor<'_>]) -> Result<Vec<u8>, CheckpointError> {
    let mut views: Vec<(&str, TensorView<'_>)> = Vec::with_capacity(tensors.len());
    for &NamedTensor { name, shape, dtype, elements, bytes } in tensors {
        let fits = shape.iter().try_fold(1_usize, |n, axis| n.checked_mul(*axis)) == Some(elements);
        let view = fits.then(|| TensorView::new(dtype, shape.to_vec(), bytes));
        let Some(Ok(view)) = view else {
            let (tensor, shape) = (name.to_owned(), shape.to_vec());
            return Err(CheckpointError::Values { tensor, values: elements, shape });
        };
        if views.iter().any(|(other, _)| *other == name) {
            let (first, second) = (path.to_path_buf(), path.to_path_buf());
            return Err(CheckpointError::DuplicateTensor { tensor: name.to_owned(), first, second });
        }
        views.push((name, view));
    }
    safetensors::serialize(views, None)
        .map_err(|e| CheckpointError::Io { file: path.to_path_buf(), source: io::Error::other(e) })
}

/// A name in the same folder that no other writer uses.
fn partial_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(path.with_file_name(format!(".{}.{}-{now}.partial", name.to_string_lossy(), std::process::id())))
}
