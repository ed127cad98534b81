//! Has the interface drifted? Compares the list with what C headers say: those of an installed CANN, or our own.

mod bindings;
mod interface;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ascend_sys::header;

pub(crate) use interface::{Exactness, Report};
use interface::{Interface, compare};

/// Directories of an include directory in which CANN declares the interface.
const VENDOR_DIRS: [&str; 4] = ["acl", "aclnn", "aclnnop", "hccl"];

/// Compares the list with the headers of an installed CANN. What was read is left in `scratch`.
pub(crate) fn with_vendor_headers(include: &Path, scratch: &Path) -> Result<Report> {
    let listed = Interface::of_list();
    let headers = declaring_headers(include, &listed)?;
    if headers.is_empty() {
        bail!("no header below {} declares anything of the list", include.display());
    }
    read_and_compare(&listed, include, &headers, scratch, Exactness::Abi)
}

/// Writes our own headers into `scratch`, reads them back and compares.
pub(crate) fn with_own_headers(scratch: &Path) -> Result<Report> {
    let include = scratch.join("own");
    header::write_to(&include).with_context(|| format!("writing headers to {}", include.display()))?;
    let headers = [PathBuf::from(header::UMBRELLA)];
    read_and_compare(&Interface::of_list(), &include, &headers, scratch, Exactness::Identical)
}

fn read_and_compare(
    listed: &Interface,
    include: &Path,
    headers: &[PathBuf],
    scratch: &Path,
    exactness: Exactness,
) -> Result<Report> {
    let text = bindings::generate(include, headers, listed)?;
    fs::create_dir_all(scratch).with_context(|| format!("making {}", scratch.display()))?;
    let file = scratch.join("bindings.rs");
    fs::write(&file, &text).with_context(|| format!("writing {}", file.display()))?;
    let found = bindings::parse(&text).with_context(|| format!("reading {}", file.display()))?;
    Ok(compare(listed, &found, exactness))
}

/// The headers below `include` that declare something of the list, relative to it, sorted.
fn declaring_headers(include: &Path, listed: &Interface) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = VENDOR_DIRS.iter().map(PathBuf::from).collect();
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(include.join(&dir)) else { continue };
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", include.join(&dir).display()))?;
            let relative = dir.join(entry.file_name());
            let path = entry.path();
            if path.is_dir() {
                // A linked directory leads back or to another copy.
                if !path.is_symlink() {
                    pending.push(relative);
                }
            } else if path.extension().is_some_and(|extension| extension == "h") {
                let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                if declares_one_of(&String::from_utf8_lossy(&bytes), listed) {
                    found.push(relative);
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a text has a function of the list before a parenthesis, or gives one of its constants a value. This only
/// chooses what clang reads, so that comments do no harm.
fn declares_one_of(text: &str, listed: &Interface) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    let mut defining = false;
    while let Some(start) = rest.find(is_part) {
        let word_on = &rest[start..];
        let end = word_on.find(|c| !is_part(c)).unwrap_or(word_on.len());
        let (word, after) = word_on.split_at(end);
        let next = after.trim_start().chars().next();
        let declared = match next {
            Some('(') => listed.functions.contains_key(word),
            Some('=') => listed.constants.contains_key(word),
            _ => defining && listed.constants.contains_key(word),
        };
        if declared {
            return true;
        }
        defining = word == "define";
        rest = after;
    }
    false
}
