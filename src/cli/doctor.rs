//! `doctor`: which backend is usable here, and why, or what is missing.

use std::fmt;

use ascend_moe::backend::{BACKEND_VARIABLE, Environment};
use ascend_moe::{Cann, Error};
use ascend_sys::load::{LoadError, LoadReport, Loader};
use ascend_sys::{FunctionId, Table};
use serde::Serialize;

use super::args::DoctorArgs;
use super::failure::Failure;
use super::{Outcome, backend, print, print_json};

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    /// `null` where none is usable.
    backend: Option<&'static str>,
    reason: String,
    searched: Vec<Searched>,
    libraries: Vec<Library>,
    versions: Versions,
    devices: Vec<Device>,
    missing_symbols: Vec<&'static str>,
    advice: Vec<String>,
}

#[derive(Serialize)]
struct Searched {
    path: String,
    outcome: String,
}

#[derive(Serialize)]
struct Library {
    path: String,
    functions: usize,
}

#[derive(Serialize, Default)]
struct Versions {
    ascend_moe: &'static str,
    build_target: &'static str,
    build_profile: &'static str,
    cann: Option<String>,
    runtime: Option<String>,
    acl: Option<String>,
    /// What the simulator says of itself.
    identity: Option<String>,
}

#[derive(Serialize)]
struct Device {
    id: u32,
    soc: String,
    /// Whether it is the simulator's.
    simulated: bool,
}

pub(crate) fn doctor(args: &DoctorArgs) -> Result<Outcome, Failure> {
    let environment = Environment::from_process();
    let (report, outcome) = match Cann::open_in(args.backend.map(Into::into), &environment) {
        Ok(cann) => (usable(&cann, &environment), Outcome::Right),
        Err(error) => (unusable(&error, &environment), Outcome::Unusable),
    };
    if args.json { print_json(&report) } else { print(&report.to_string()) }?;
    Ok(outcome)
}

fn usable(cann: &Cann, environment: &Environment) -> Report {
    let probe = cann.probe();
    let table = cann.table();
    let mut advice = Vec::new();
    if cann.is_simulated() {
        advice.push(
            "results are right but not fast, and times are the host's: run on an Ascend host to serve".to_owned(),
        );
    }
    for path in &environment.host.evidence {
        advice.push(format!("this host shows an Ascend driver or device: {}", path.display()));
    }
    Report {
        schema: SCHEMA,
        backend: Some(backend::name(cann.implementation())),
        reason: cann.reason().to_owned(),
        searched: cann.search().map(searched).unwrap_or_default(),
        libraries: cann.search().map(libraries).unwrap_or_default(),
        versions: Versions {
            cann: probe.cann_version.clone().or_else(|| probe.release.map(|release| release.to_string())),
            runtime: probe.runtime_version.clone(),
            acl: probe.acl_version.map(|(major, minor, patch)| format!("{major}.{minor}.{patch}")),
            identity: table.origin().identity.clone(),
            ..own_versions()
        },
        devices: (0..probe.device_count)
            .map(|id| Device { id, soc: probe.soc.clone(), simulated: cann.is_simulated() })
            .collect(),
        missing_symbols: missing(table),
        advice,
    }
}

const SCHEMA: &str = "ascend-moe/doctor/1";

fn own_versions() -> Versions {
    Versions {
        ascend_moe: env!("CARGO_PKG_VERSION"),
        build_target: env!("ASCEND_MOE_BUILD_TARGET"),
        build_profile: env!("ASCEND_MOE_BUILD_PROFILE"),
        ..Versions::default()
    }
}

fn unusable(error: &Error, environment: &Environment) -> Report {
    // Libraries stay open once opened, so looking again changes nothing.
    let (table, search) = Loader::new(&environment.search).load();
    let missing = match &table {
        Ok(table) => missing(table),
        Err(LoadError::MissingSymbol { names, .. }) => names.clone(),
        Err(_) => Vec::new(),
    };
    Report {
        schema: SCHEMA,
        backend: None,
        reason: error.to_string(),
        searched: searched(&search),
        libraries: libraries(&search),
        versions: Versions {
            cann: search.release.as_ref().map(|(release, _)| release.to_string()),
            identity: table.ok().and_then(|table| table.origin().identity.clone()),
            ..own_versions()
        },
        devices: Vec::new(),
        missing_symbols: missing,
        advice: cure(error),
    }
}

/// What helps where no backend is usable.
fn cure(error: &Error) -> Vec<String> {
    if let Error::UnknownBackend { .. } = error {
        return vec![format!("unset {BACKEND_VARIABLE}, or set it to auto, cann or sim")];
    }
    let mut advice = vec![
        "on an Ascend host: install CANN 8.5.0 or later with the ops package of the chip, and source its set_env.sh"
            .to_owned(),
    ];
    if cfg!(feature = "sim") {
        advice.push(format!("elsewhere: choose the simulator with --backend sim or {BACKEND_VARIABLE}=sim"));
    } else {
        advice.push("elsewhere: build with the feature `sim`, which has the simulator".to_owned());
    }
    advice
}

/// Names of functions, without HCCL's: those are for several devices, and the simulator has none of them.
/// What the libraries lack and their release should have; HCCL is not looked at.
fn missing(table: &Table) -> Vec<&'static str> {
    let due = |since| table.origin().release.is_none_or(|release| since <= release);
    let missing = table.missing().filter(|id| !id.info().library.is_hccl() && due(id.info().since()));
    missing.map(FunctionId::name).collect()
}

fn libraries(search: &LoadReport) -> Vec<Library> {
    let libraries = search.libraries.iter();
    libraries
        .map(|library| Library { path: library.path.display().to_string(), functions: library.functions.len() })
        .collect()
}

fn searched(search: &LoadReport) -> Vec<Searched> {
    let roots = search.roots.iter().map(|searched| Searched {
        path: format!("{} ({})", searched.root.path.display(), searched.root.source),
        outcome: searched.outcome.to_string(),
    });
    let files = search.candidates.iter().map(|candidate| Searched {
        path: candidate.path.display().to_string(),
        outcome: candidate.outcome.to_string(),
    });
    roots.chain(files).collect()
}

/// For a person.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "backend   {}", self.backend.unwrap_or("none usable"))?;
        writeln!(f, "reason    {}", self.reason)?;
        let Versions { ascend_moe, build_target, build_profile, cann, runtime, acl, identity } = &self.versions;
        writeln!(f, "version   ascend-moe {ascend_moe}, {build_profile} build for {build_target}")?;
        for (name, version) in [("CANN", cann), ("runtime", runtime), ("ACL", acl), ("identity", identity)] {
            if let Some(version) = version {
                writeln!(f, "          {name} {version}")?;
            }
        }
        for Device { id, soc, simulated } in &self.devices {
            writeln!(f, "device    {id} {soc}{}", if *simulated { ", simulated" } else { "" })?;
        }
        for Library { path, functions } in &self.libraries {
            writeln!(f, "library   {path}: {functions} functions")?;
        }
        for Searched { path, outcome } in &self.searched {
            writeln!(f, "searched  {path}: {outcome}")?;
        }
        if !self.missing_symbols.is_empty() {
            writeln!(f, "missing   {}", self.missing_symbols.join(", "))?;
        }
        for advice in &self.advice {
            writeln!(f, "advice    {advice}")?;
        }
        Ok(())
    }
}
