//! Why a conversion stops.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Format;
use crate::checkpoint::CheckpointError;

/// A conversion that cannot be done, or went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The checkpoint is not right.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There is something at the path of the output.
    #[error("{} is there; legal is the path of a new folder", to.display())]
    Exists {
        /// The path.
        to: PathBuf,
    },
    /// The output would lie in the folder of the input.
    #[error("{} lies in the folder of the checkpoint; legal is any other place", to.display())]
    InsideInput {
        /// The path.
        to: PathBuf,
    },
    /// What is left of an interrupted conversion is of another one.
    #[error("{} holds part of another conversion ({what} differ); legal is to remove it, or another output", dir.display())]
    OtherConversion {
        /// The folder.
        dir: PathBuf,
        /// What is not the same.
        what: &'static str,
    },
    /// The checkpoint has no layer with experts.
    #[error("{} has no mixture-of-experts layer, so that there is nothing to convert", dir.display())]
    NoExperts {
        /// The folder of the checkpoint.
        dir: PathBuf,
    },
    /// Groups of inputs, and a format that has none.
    #[error("{} experts in groups of inputs; legal is w4a8", format.name())]
    NoGroups {
        /// The format.
        format: Format,
    },
    /// The disk is full.
    #[error("{}: no space is left on the device; files that are whole are kept for another try", file.display())]
    NoSpace {
        /// The file that was being written.
        file: PathBuf,
    },
    /// The system refused to read or write.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl ConvertError {
    /// What the system said of a file.
    pub(crate) fn io(file: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace { file: file.to_path_buf() },
            _ => Self::Io { file: file.to_path_buf(), source },
        }
    }
}
