//! `doctor`: which backend is usable here, and why, or what is missing.

use anyhow::anyhow;
use ascend_moe::backend::Environment;
use ascend_moe::{Cann, Error};
use ascend_sys::load::{LoadReport, Loader};
use serde::Serialize;

use super::Failure;
use super::args::DoctorArgs;
use super::backend;

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
    id: i32,
    soc: String,
}

pub(crate) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let environment = Environment::from_process();
    let opened = Cann::open_in(args.backend.map(Into::into), &environment);
    let report = match &opened {
        Ok(cann) => usable(cann, &environment),
        Err(error) => unusable(error, &environment),
    };
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::Backend(error.into()))?;
        println!("{text}");
    } else {
        print(&report);
    }
    opened.map(|_| ()).map_err(|error| Failure::Backend(anyhow!(error)))
}

fn usable(cann: &Cann, environment: &Environment) -> Report {
    let probe = cann.probe();
    let table = cann.table();
    let mut advice = Vec::new();
    if cann.is_simulated() {
        advice.push("results are right but not fast, and times are the host's: run on an Ascend host to serve".to_owned());
    }
    for path in &environment.host.evidence {
        advice.push(format!("this host shows an Ascend driver or device: {}", path.display()));
    }
    // HCCL is for several devices; the simulator has none of it.
    let missing = table.missing().filter(|id| !id.info().library.is_hccl()).map(|id| id.name()).collect();
    Report {
        schema: SCHEMA,
        backend: Some(backend::name(cann.implementation())),
        reason: cann.reason().to_owned(),
        searched: cann.search().map(searched).unwrap_or_default(),
        libraries: cann
            .libraries()
            .iter()
            .map(|library| Library { path: library.path.display().to_string(), functions: library.functions.len() })
            .collect(),
        versions: Versions {
            cann: probe.cann_version.clone().or_else(|| probe.release.map(|release| release.to_string())),
            runtime: probe.runtime_version.clone(),
            acl: probe.acl_version.map(|(major, minor, patch)| format!("{major}.{minor}.{patch}")),
            identity: table.origin().identity.clone(),
            ..own_versions()
        },
        devices: (0..probe.device_count as i32).map(|id| Device { id, soc: probe.soc.clone() }).collect(),
        missing_symbols: missing,
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
    let missing = table.map(|table| table.missing().map(|id| id.name()).collect()).unwrap_or_default();
    Report {
        schema: SCHEMA,
        backend: None,
        reason: error.to_string(),
        searched: searched(&search),
        libraries: search
            .libraries
            .iter()
            .map(|library| Library { path: library.path.display().to_string(), functions: library.functions.len() })
            .collect(),
        versions: own_versions(),
        devices: Vec::new(),
        missing_symbols: missing,
        advice: vec![
            "on an Ascend host: install CANN 8.5.0 or later with the ops package of the chip, and source its set_env.sh"
                .to_owned(),
            "elsewhere: choose the simulator with --backend sim or ASCEND_MOE_BACKEND=sim".to_owned(),
        ],
    }
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

fn print(report: &Report) {
    println!("backend   {}", report.backend.unwrap_or("none usable"));
    println!("reason    {}", report.reason);
    let Versions { ascend_moe, build_target, build_profile, cann, runtime, acl, identity } = &report.versions;
    println!("version   ascend-moe {ascend_moe}, {build_profile} build for {build_target}");
    for (name, version) in [("CANN", cann), ("runtime", runtime), ("ACL", acl), ("identity", identity)] {
        if let Some(version) = version {
            println!("          {name} {version}");
        }
    }
    for device in &report.devices {
        println!("device    {} {}", device.id, device.soc);
    }
    for Library { path, functions } in &report.libraries {
        println!("library   {path}: {functions} functions");
    }
    for Searched { path, outcome } in &report.searched {
        println!("searched  {path}: {outcome}");
    }
    if !report.missing_symbols.is_empty() {
        println!("missing   {}", report.missing_symbols.join(", "));
    }
    for advice in &report.advice {
        println!("advice    {advice}");
    }
}
