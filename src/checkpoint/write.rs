//! Writing a safetensors file, whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use safetensors::tensor::{Dtype, TensorView};

use super::{CheckpointError, HostTensor};

/// Writes tensors as F32 into the file `path`, replacing it. They are written to a new file next to it, which then
/// takes its name: readers see the old file or the whole new one.
///
/// # Errors
/// [`CheckpointError::Values`] where a tensor's values do not fill its shape, [`CheckpointError::DuplicateTensor`]
/// where a name is given twice, [`CheckpointError::Io`] where the system refuses; then nothing is left behind.
pub fn write_tensors(path: &Path, tensors: &[(&str, &HostTensor)]) -> Result<(), CheckpointError> {
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

fn serialise(path: &Path, tensors: &[(&str, &HostTensor)]) -> Result<Vec<u8>, CheckpointError> {
    let mut views: Vec<(&str, TensorView<'_>)> = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let HostTensor { shape, data } = tensor;
        let fits = shape.iter().try_fold(1_usize, |n, axis| n.checked_mul(*axis)) == Some(data.len());
        let view = fits.then(|| TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(data)));
        let Some(Ok(view)) = view else {
            let (tensor, shape) = ((*name).to_owned(), shape.clone());
            return Err(CheckpointError::Values { tensor, values: data.len(), shape });
        };
        if views.iter().any(|(other, _)| other == name) {
            let (first, second) = (path.to_path_buf(), path.to_path_buf());
            return Err(CheckpointError::DuplicateTensor { tensor: (*name).to_owned(), first, second });
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
