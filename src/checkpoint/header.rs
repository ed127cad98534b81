//! The header of a safetensors file: parsing, and every rule its offsets obey.
//!
//! A file is 8 bytes of little-endian length, that many bytes of JSON, then the tensors' bytes. The types of an entry
//! are those of the `safetensors` crate; the rules are checked here because its own check names no tensor, lets a name
//! stand twice and can overflow when it adds offsets.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::CheckpointError;

/// The longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;
const LENGTH_BYTES: usize = size_of::<u64>();

/// The tensors of a file, in the order of their bytes, and where these bytes begin.
pub(super) struct Header {
    pub(super) tensors: Vec<(String, TensorInfo)>,
    pub(super) data_start: usize,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Parses and checks the header of the file `bytes`, which came from `file`. Afterwards every tensor lies inside
/// `bytes`, and every byte after the header belongs to exactly one.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Header, CheckpointError> {
    let file_buf = || file.to_path_buf();
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(CheckpointError::TooShort { file: file_buf(), bytes: bytes.len() });
    };
    let claimed = u64::from_le_bytes(*length);
    let max = MAX_HEADER.min(rest.len() as u64);
    let (json, data) = usize::try_from(claimed)
        .ok()
        .filter(|_| claimed <= max)
        .and_then(|length| rest.split_at_checked(length))
        .ok_or_else(|| CheckpointError::HeaderLength { file: file_buf(), claimed, max })?;
    let Entries { mut tensors, metadata } =
        serde_json::from_slice(json).map_err(|source| CheckpointError::Json { file: file_buf(), source })?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    check_names(file, &tensors)?;
    check_offsets(file, &tensors, data.len())?;
    Ok(Header { tensors, data_start: LENGTH_BYTES + json.len(), metadata })
}

fn check_names(file: &Path, tensors: &[(String, TensorInfo)]) -> Result<(), CheckpointError> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|(name, _)| !seen.insert(name)) {
        None => Ok(()),
        Some((name, _)) => Err(CheckpointError::DuplicateTensor {
            tensor: name.clone(),
            first: file.to_path_buf(),
            second: file.to_path_buf(),
        }),
    }
}

/// `tensors` are in the order of their offsets, `available` is the number of bytes after the header.
fn check_offsets(file: &Path, tensors: &[(String, TensorInfo)], available: usize) -> Result<(), CheckpointError> {
    let mut previous = 0;
    for (name, TensorInfo { dtype, shape, data_offsets }) in tensors {
        let (tensor, file) = (name.clone(), file.to_path_buf());
        let (start, end) = *data_offsets;
        let Some(needed) = size_in_bytes(shape, dtype.bitsize()) else {
            return Err(CheckpointError::ImpossibleSize { file, tensor, dtype: *dtype, shape: shape.clone() });
        };
        if end.checked_sub(start) != Some(needed) {
            let (shape, offsets) = (shape.clone(), *data_offsets);
            return Err(CheckpointError::WrongSpan { file, tensor, dtype: *dtype, shape, needed, offsets });
        }
        if end > available {
            return Err(CheckpointError::BeyondFile { file, tensor, end, available });
        }
        if start < previous {
            return Err(CheckpointError::Overlap { file, tensor, start, previous });
        }
        if start > previous {
            return Err(CheckpointError::Gap { file, tensor, start, previous });
        }
        previous = end;
    }
    if previous == available {
        Ok(())
    } else {
        Err(CheckpointError::TrailingBytes { file: file.to_path_buf(), end: previous, available })
    }
}

fn size_in_bytes(shape: &[usize], bits: usize) -> Option<usize> {
    let bits = shape.iter().try_fold(bits, |bits, axis| bits.checked_mul(*axis))?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The entries of a header as they stand in it, a name that stands twice included.
struct Entries {
    tensors: Vec<(String, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a safetensors header, an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut tensors, mut metadata) = (Vec::new(), BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Entries { tensors, metadata })
            }
        }
        deserializer.deserialize_map(Map)
    }
}
