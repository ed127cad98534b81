//! One search under way: opens files at most once, takes symbols, and keeps the report.

use core::ffi::c_void;
use core::ptr::NonNull;
use std::fs;
use std::path::{Path, PathBuf};

use super::library::{self, Opened};
use super::report::{Candidate, LoadReport, Outcome};
use super::{LoadError, elf};
use crate::info::{FUNCTIONS, FunctionId, OPERATORS, OperatorId};
use crate::table::{ALL_IDS, LoadedLibrary};

/// Reason for not opening a library whose functions were all found.
pub(super) const NOT_NEEDED: &str = "every function was found in an earlier library";

pub(super) struct Session {
    /// Directories that a file name is looked for in, in order.
    dirs: Vec<PathBuf>,
    /// Address of each function of the list, by its index.
    addresses: Vec<Option<NonNull<c_void>>>,
    /// Open libraries, parallel to `report.libraries`.
    opened: Vec<Opened>,
    pub(super) report: LoadReport,
}

/// Place of an open library in the session.
#[derive(Clone, Copy)]
pub(super) struct Handle(usize);

impl Session {
    pub(super) fn new(report: LoadReport) -> Self {
        Self { dirs: Vec::new(), addresses: vec![None; FUNCTIONS.len()], opened: Vec::new(), report }
    }

    /// Sets the directories of the root in use.
    pub(super) fn enter(&mut self, dirs: Vec<PathBuf>) {
        self.dirs = dirs;
    }

    /// The path of a file of the root, if it is there (a link to nothing is there, and wrong).
    pub(super) fn find(&self, file: &str) -> Option<PathBuf> {
        self.dirs.iter().map(|dir| dir.join(file)).find(|path| fs::symlink_metadata(path).is_ok())
    }

    /// Names of the files of the root that start and end so, sorted, each once.
    pub(super) fn list(&self, prefix: &str, suffix: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .dirs
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix) && name.ends_with(suffix))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Opens a file of the root by name, once; an absent or refused one is kept in the report.
    pub(super) fn open_named(&mut self, file: &str) -> Option<Handle> {
        match self.find(file) {
            Some(path) => self.open_path(&path).ok(),
            None => {
                let path = self.dirs.first().map_or_else(|| PathBuf::from(file), |dir| dir.join(file));
                self.note(path, Outcome::Absent);
                None
            }
        }
    }

    /// Opens a file, once. A file refused before is refused with the same words.
    pub(super) fn open_path(&mut self, path: &Path) -> Result<Handle, LoadError> {
        if let Some(known) = self.report.libraries.iter().position(|library| library.path == path) {
            return Ok(Handle(known));
        }
        let checked = if is_stub(path) {
            Err(LoadError::StubLibrary { path: path.to_owned() })
        } else {
            elf::check(path).and_then(|()| library::open(path))
        };
        match checked {
            Ok(opened) => {
                self.note(path.to_owned(), Outcome::Opened);
                self.report.libraries.push(LoadedLibrary { path: path.to_owned(), functions: Vec::new() });
                self.opened.push(opened);
                Ok(Handle(self.opened.len() - 1))
            }
            Err(error) => {
                self.note(path.to_owned(), Outcome::Refused(error.clone()));
                Err(error)
            }
        }
    }

    /// Keeps what became of a file; the first word on a file stands.
    pub(super) fn note(&mut self, path: PathBuf, outcome: Outcome) {
        if self.report.candidates.iter().all(|candidate| candidate.path != path) {
            self.report.candidates.push(Candidate { path, outcome });
        }
    }

    /// Takes from the libraries named, in order, the functions `wanted` that are still missing. A library is opened
    /// only while something is missing. Both phases of an operator are taken together or not at all.
    pub(super) fn take(&mut self, wanted: &[FunctionId], files: &[&str]) {
        for file in files {
            if wanted.iter().all(|&id| self.has(id)) {
                if let Some(path) = self.find(file) {
                    self.note(path, Outcome::Unused(NOT_NEEDED));
                }
            } else if let Some(handle) = self.open_named(file) {
                self.take_from(handle, wanted);
            }
        }
    }

    /// Takes from one open library the functions `wanted` that are still missing.
    pub(super) fn take_from(&mut self, handle: Handle, wanted: &[FunctionId]) {
        for &id in wanted {
            match id.info().operator {
                None => {
                    if !self.has(id)
                        && let Some(address) = self.symbol(handle, id)
                    {
                        self.put(handle, id, address);
                    }
                }
                Some(operator) => self.take_operator(handle, operator),
            }
        }
    }

    /// Takes both phases of an operator, if the library has both in one file: phase 2 understands only what phase 1
    /// of its own library prepared.
    pub(super) fn take_operator(&mut self, handle: Handle, operator: OperatorId) {
        let operator = operator.info();
        if self.has(operator.phase1) {
            return;
        }
        if let (Some(phase1), Some(phase2)) =
            (self.symbol(handle, operator.phase1), self.symbol(handle, operator.phase2))
            && library::file_of(phase1) == library::file_of(phase2)
        {
            self.put(handle, operator.phase1, phase1);
            self.put(handle, operator.phase2, phase2);
        }
    }

    pub(super) fn has(&self, id: FunctionId) -> bool {
        self.address(id).is_some()
    }

    pub(super) fn address(&self, id: FunctionId) -> Option<NonNull<c_void>> {
        self.addresses.get(id as usize).copied().flatten()
    }

    /// What the first simulator among the open libraries calls itself.
    pub(super) fn simulator_identity(&self) -> Option<String> {
        self.opened.iter().find_map(|library| library.simulator_identity())
    }

    /// Closes the report: what no library has.
    pub(super) fn note_missing(&mut self) {
        self.report.missing = ALL_IDS.iter().copied().filter(|&id| !self.has(id)).collect();
    }

    /// Operators that have both phases.
    pub(super) fn operator_count(&self) -> usize {
        OPERATORS.iter().filter(|operator| self.has(operator.phase1)).count()
    }

    fn symbol(&self, handle: Handle, id: FunctionId) -> Option<NonNull<c_void>> {
        self.opened.get(handle.0)?.symbol(id.name())
    }

    fn put(&mut self, handle: Handle, id: FunctionId, address: NonNull<c_void>) {
        if let (Some(slot), Some(library)) =
            (self.addresses.get_mut(id as usize), self.report.libraries.get_mut(handle.0))
        {
            *slot = Some(address);
            library.functions.push(id);
        }
    }
}

/// Whether a path lies in one of the directories of stub libraries that CANN ships (`devlib` since 8.5,
/// `runtime/lib64/stub` before), as written or after following links.
pub(super) fn is_stub(path: &Path) -> bool {
    let inside = |path: &Path| path.components().any(|part| part.as_os_str() == "devlib" || part.as_os_str() == "stub");
    inside(path) || fs::canonicalize(path).is_ok_and(|real| inside(&real))
}
