//! What a search for CANN looked at and what came of it, whether it ended in a table or not.

use core::fmt;
use std::path::PathBuf;

use super::{LoadError, Root};
use crate::info::{FUNCTIONS, FunctionId, Release};
use crate::table::LoadedLibrary;

/// What became of a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootOutcome {
    /// Its libraries are the ones used.
    Used,
    /// It has no ACL library.
    NoLibrary,
    /// Its ACL library lies in a `devlib` or `stub` directory: made for linking, not for execution.
    Stub,
    /// An earlier root was used.
    NotReached,
}

/// A root and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchedRoot {
    /// The root.
    pub root: Root,
    /// What became of it.
    pub outcome: RootOutcome,
}

/// What became of a library file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not there.
    Absent,
    /// There, not opened, for this reason.
    Unused(&'static str),
    /// Open.
    Opened,
    /// There, but not usable.
    Refused(LoadError),
}

/// A library looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its path, or the bare name given to the dynamic linker.
    pub path: PathBuf,
    /// What became of it.
    pub outcome: Outcome,
}

/// The report of one search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Roots in the order of the search.
    pub roots: Vec<SearchedRoot>,
    /// Library files in the order in which they were looked for.
    pub candidates: Vec<Candidate>,
    /// Libraries that gave functions, or were opened for nothing, and which functions they gave.
    pub libraries: Vec<LoadedLibrary>,
    /// Functions of the list that no library has.
    pub missing: Vec<FunctionId>,
    /// Release of the root used, and the file that tells it.
    pub release: Option<(Release, PathBuf)>,
}

impl LoadReport {
    /// The library that a function was taken from.
    pub fn library_of(&self, function: FunctionId) -> Option<&LoadedLibrary> {
        self.libraries.iter().find(|library| library.functions.contains(&function))
    }

    /// Paths of the candidates that `keep` keeps.
    pub(super) fn paths(&self, keep: impl Fn(&Candidate) -> bool) -> Vec<PathBuf> {
        self.candidates.iter().filter(|candidate| keep(candidate)).map(|candidate| candidate.path.clone()).collect()
    }
}

impl fmt::Display for RootOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Used => "used",
            Self::NoLibrary => "no ACL library",
            Self::Stub => "stub libraries, refused",
            Self::NotReached => "not reached",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Unused(reason) => write!(f, "not opened: {reason}"),
            Self::Opened => f.write_str("opened"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "roots:")?;
        for SearchedRoot { root, outcome } in &self.roots {
            writeln!(f, "  {} ({}): {outcome}", root.path.display(), root.source)?;
        }
        writeln!(f, "libraries:")?;
        for Candidate { path, outcome } in &self.candidates {
            write!(f, "  {}: {outcome}", path.display())?;
            match self.libraries.iter().find(|library| library.path == *path) {
                Some(library) => writeln!(f, ", {} functions", library.functions.len())?,
                None => writeln!(f)?,
            }
        }
        if let Some((release, path)) = &self.release {
            writeln!(f, "release: {release} ({})", path.display())?;
        }
        if !self.missing.is_empty() {
            writeln!(f, "missing: {} of {} functions", self.missing.len(), FUNCTIONS.len())?;
            for id in &self.missing {
                writeln!(f, "  {} (since {})", id.name(), id.info().since)?;
            }
        }
        Ok(())
    }
}
