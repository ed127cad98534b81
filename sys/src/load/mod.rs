//! The loader: finds an installed CANN, or the simulator's shared library laid out like one, opens its libraries at run
//! time and fills a [`Table`].
//!
//! Which files carry what, by release: CANN runtime 9.1.0 (`libacl_rt.so` since 8.5, `libascendcl.so` before and beside
//! it), opbase (`libnnopbase.so`), ops-transformer/ops-nn/ops-math (`libopapi_<repository>.so` since 8.5, one
//! `libopapi.so` before, which must not be loaded together with them), hccl and hcomm. All libraries come from one root:
//! a mixture of two installations is worse than none.
//!
//! Nothing is decided here about what to do without CANN, and no device is touched: see [`crate::probe`] for that.

mod elf;
mod env;
mod error;
mod library;
mod release;
mod report;
mod session;

use std::path::{Path, PathBuf};

pub use env::{Root, SearchEnv};
pub use error::LoadError;
pub use report::{Candidate, LoadReport, Outcome, RootOutcome, SearchedRoot};

use crate::info::{FunctionId, Library, Need, OperatorId, Release};
use crate::table::{ALL_IDS, Functions, Implementation, Origin, Table};
use session::{Session, is_stub};

/// Files of the ACL runtime. Where both are there, the newer one is asked first.
const ACL_FILES: [&str; 2] = ["libacl_rt.so", "libascendcl.so"];
const BASE_FILE: &str = "libnnopbase.so";
/// All operators in one library: releases up to 8.1, and a compatibility library later.
const SINGLE_OPERATOR_FILE: &str = "libopapi.so";
/// Operator libraries of the repositories that hold the list's operators, asked first.
const OPERATOR_FILES: [&str; 3] = ["libopapi_transformer.so", "libopapi_nn.so", "libopapi_math.so"];
/// What did not move into a repository of its own, asked last.
const LEGACY_OPERATOR_FILE: &str = "libopapi_legacy.so";
const HCCL_FILE: &str = "libhccl.so";
const HCOMM_FILE: &str = "libhcomm.so";

/// A search for CANN.
///
/// Loading runs the initialisers of the libraries found. Nothing is ever unloaded.
#[derive(Clone, Debug)]
pub struct Loader {
    roots: Vec<Root>,
    bare_names: bool,
    custom: Vec<CustomPackage>,
}

#[derive(Clone, Debug)]
struct CustomPackage {
    library: PathBuf,
    operators: Vec<OperatorId>,
}

impl Loader {
    /// Searches where the environment of this process says.
    pub fn from_env() -> Self {
        Self::new(&SearchEnv::from_process())
    }

    /// Searches where `env` says.
    pub fn new(env: &SearchEnv) -> Self {
        Self { roots: env.roots(), bare_names: env.bare_names, custom: Vec::new() }
    }

    /// Searches this root and no other place.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { roots: vec![Root { path: root.into(), source: "explicit" }], bare_names: false, custom: Vec::new() }
    }

    /// Takes these operators from a custom package (`<vendor>/op_api/lib/libcust_opapi.so`) instead of CANN. That one of
    /// them is not in it is an error.
    ///
    /// Nothing else is taken from it, and no custom package is searched unasked: some export CANN's names with other
    /// parameters (vllm-ascend's `GroupedMatmulSwigluQuantWeightNZ` and `...V2` have one more `double`), which no
    /// symbol table shows. Whoever names an operator here vouches that its parameters are the list's.
    #[must_use]
    pub fn custom_package(mut self, library: impl Into<PathBuf>, operators: &[OperatorId]) -> Self {
        self.custom.push(CustomPackage { library: library.into(), operators: operators.to_vec() });
        self
    }

    /// Searches and loads. The report tells what was looked at in either case.
    pub fn load(&self) -> (Result<Table, LoadError>, LoadReport) {
        let mut session = Session::new(LoadReport::default());
        let table = self.fill(&mut session);
        match &table {
            Ok(table) => tracing::debug!(origin = ?table.origin(), "CANN libraries loaded"),
            Err(error) => tracing::debug!(%error, "CANN libraries not loaded"),
        }
        (table, session.report)
    }

    fn fill(&self, session: &mut Session) -> Result<Table, LoadError> {
        let root = self.enter_root(session)?;
        session.report.release = release::of_root(&root);
        if let Some((found, path)) = session.report.release.clone()
            && found < Release::MINIMUM
        {
            return Err(LoadError::ReleaseTooOld { found, minimum: Release::MINIMUM, path });
        }
        session.take(&functions_of(|library| library == Library::Acl), &ACL_FILES);
        require(session, Library::Acl, &ACL_FILES)?;

        // The libraries by repository and the single one exclude each other.
        let by_repository = session.list("libopapi_", ".so");
        take_base(session, by_repository.is_empty())?;
        // Custom packages link against the libraries opened so far, and come before CANN's own operators.
        for package in &self.custom {
            take_custom(session, package)?;
        }
        take_operators(session, &by_repository)?;
        take_hccl(session);
        session.note_missing();

        let identity = session.simulator_identity();
        let origin = Origin {
            implementation: match identity {
                Some(_) => Implementation::SimulatorLibrary,
                None => Implementation::Cann,
            },
            identity,
            release: session.report.release.as_ref().map(|(release, _)| *release),
            libraries: session.report.libraries.clone(),
        };
        // SAFETY: the addresses are those of exported symbols with the names of the list, in libraries that stay open
        // for ever; the list states their signatures, and both phases of an operator come from one file.
        let functions = unsafe { Functions::resolve(|id, _| session.address(id)) };
        // SAFETY: as above.
        Ok(unsafe { Table::new(functions, origin) })
    }

    /// Settles on the first root that has an ACL library, or on the directory where the dynamic linker finds one.
    fn enter_root(&self, session: &mut Session) -> Result<PathBuf, LoadError> {
        let mut searched = Vec::new();
        let mut stub = None;
        let mut used = None;
        for root in &self.roots {
            let outcome = if used.is_some() {
                RootOutcome::NotReached
            } else {
                let dirs = library_dirs(&root.path);
                session.enter(dirs.clone());
                searched.extend(dirs);
                match ACL_FILES.iter().find_map(|file| session.find(file)) {
                    None => RootOutcome::NoLibrary,
                    Some(path) if is_stub(&path) => {
                        stub.get_or_insert(path);
                        RootOutcome::Stub
                    }
                    Some(_) => {
                        used = Some(root.path.clone());
                        RootOutcome::Used
                    }
                }
            };
            session.report.roots.push(SearchedRoot { root: root.clone(), outcome });
        }
        if used.is_none() && self.bare_names {
            searched.extend(ACL_FILES.map(PathBuf::from));
            used = find_by_name(session, &mut stub)?;
        }
        match (used, stub) {
            (Some(root), _) => Ok(root),
            (None, Some(path)) => Err(LoadError::StubLibrary { path }),
            (None, None) => Err(LoadError::NoLibrary { searched }),
        }
    }
}

/// Directories of a root that hold libraries.
fn library_dirs(root: &Path) -> Vec<PathBuf> {
    vec![root.join("lib64"), root.join(release::ARCH_DIR).join("lib64")]
}

/// Asks the dynamic linker for the ACL runtime by name. What it finds tells the directory of the other libraries.
fn find_by_name(session: &mut Session, stub: &mut Option<PathBuf>) -> Result<Option<PathBuf>, LoadError> {
    let mut refused = None;
    for name in ACL_FILES {
        let bare = PathBuf::from(name);
        let opened = match library::open(&bare) {
            Ok(opened) => opened,
            Err(error) if library::is_unknown(name, &error) => {
                session.note(bare, Outcome::Absent);
                continue;
            }
            Err(error) => {
                session.note(bare, Outcome::Refused(error.clone()));
                refused.get_or_insert(error);
                continue;
            }
        };
        let Some(path) = opened.symbol("aclInit").and_then(library::file_of) else {
            let error = LoadError::MissingSymbol { names: vec!["aclInit"], searched: vec![bare.clone()] };
            session.note(bare, Outcome::Refused(error.clone()));
            refused.get_or_insert(error);
            continue;
        };
        if is_stub(&path) {
            session.note(bare, Outcome::Refused(LoadError::StubLibrary { path: path.clone() }));
            stub.get_or_insert(path);
            continue;
        }
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let above = dir.parent().unwrap_or(Path::new("")).to_owned();
        let root = if above.ends_with(release::ARCH_DIR) { above.parent().unwrap_or(&above).to_owned() } else { above };
        session.enter(vec![dir]);
        let source = "dynamic linker";
        session
            .report
            .roots
            .push(SearchedRoot { root: Root { path: root.clone(), source }, outcome: RootOutcome::Used });
        return Ok(Some(root));
    }
    refused.map_or(Ok(None), Err)
}

fn functions_of(keep: impl Fn(Library) -> bool) -> Vec<FunctionId> {
    ALL_IDS.iter().copied().filter(|id| keep(id.info().library)).collect()
}

/// An error if a family lacks a function that nothing works without: the reason why one of its files was refused, or
/// the names that are missing.
fn require(session: &Session, family: Library, files: &[&str]) -> Result<(), LoadError> {
    let names: Vec<&str> = functions_of(|library| library == family)
        .into_iter()
        .filter(|&id| id.info().need == Need::Must && !session.has(id))
        .map(FunctionId::name)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    refusal(session, files)?;
    Err(LoadError::MissingSymbol { names, searched: looked_at(session, files) })
}

/// The reason for which one of these files was refused, as an error.
fn refusal(session: &Session, files: &[&str]) -> Result<(), LoadError> {
    let refused = session.report.candidates.iter().find_map(|candidate| match &candidate.outcome {
        Outcome::Refused(error) if is_named(&candidate.path, files) => Some(error.clone()),
        _ => None,
    });
    refused.map_or(Ok(()), Err)
}

fn looked_at(session: &Session, files: &[&str]) -> Vec<PathBuf> {
    session.report.paths(|candidate| is_named(&candidate.path, files))
}

fn is_named(path: &Path, files: &[&str]) -> bool {
    path.file_name().is_some_and(|name| files.iter().any(|file| name == *file))
}

fn take_custom(session: &mut Session, package: &CustomPackage) -> Result<(), LoadError> {
    let handle = session.open_path(&package.library)?;
    for &operator in &package.operators {
        session.take_operator(handle, operator);
    }
    let names: Vec<&str> = package
        .operators
        .iter()
        .flat_map(|operator| [operator.info().phase1, operator.info().phase2])
        .filter(|&id| !session.has(id))
        .map(FunctionId::name)
        .collect();
    if names.is_empty() {
        Ok(())
    } else {
        Err(LoadError::MissingSymbol { names, searched: vec![package.library.clone()] })
    }
}

/// aclnn base; with a single operator library, that one stands in for what the base library lacks.
fn take_base(session: &mut Session, single: bool) -> Result<(), LoadError> {
    let files: &[&str] = if single { &[BASE_FILE, SINGLE_OPERATOR_FILE] } else { &[BASE_FILE] };
    session.take(&functions_of(|library| library == Library::Base), files);
    require(session, Library::Base, files)
}

fn take_operators(session: &mut Session, by_repository: &[String]) -> Result<(), LoadError> {
    let older = session.list("libaclnn_", ".so");
    let files: Vec<&str> = if by_repository.is_empty() {
        std::iter::once(SINGLE_OPERATOR_FILE).chain(older.iter().map(String::as_str)).collect()
    } else {
        if let Some(path) = session.find(SINGLE_OPERATOR_FILE) {
            let reason = "the libraries by repository are there, and the two sets must not be mixed";
            session.note(path, Outcome::Unused(reason));
        }
        let others = by_repository.iter().map(String::as_str);
        let (legacy, others): (Vec<&str>, Vec<&str>) =
            others.filter(|file| !OPERATOR_FILES.contains(file)).partition(|file| *file == LEGACY_OPERATOR_FILE);
        OPERATOR_FILES.into_iter().chain(others).chain(legacy).collect()
    };
    session.take(&functions_of(Library::is_operators), &files);
    if session.operator_count() == 0 {
        refusal(session, &files)?;
        return Err(LoadError::NoOperators { searched: looked_at(session, &files) });
    }
    Ok(())
}

/// HCCL, which a program on one device does without: whatever is wrong with it stays in the report. `libhccl.so` is
/// opened before `libhcomm.so`, as its newer functions fall back on the older library through the order of loading.
fn take_hccl(session: &mut Session) {
    session.take(&functions_of(|library| library == Library::Hccl), &[HCCL_FILE]);
    session.take(&functions_of(|library| library == Library::HcclComm), &[HCOMM_FILE, HCCL_FILE]);
}
