//! Choosing what fills the call table: CANN, or the simulator in process. The only place that knows the simulator.
//!
//! An Ascend host must never serve at CPU speed by accident: the simulator is chosen unasked only where there is neither
//! CANN nor any sign of an Ascend driver or device.

use std::env;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ascend_sys::load::{LoadError, LoadReport, Loader, SearchEnv};
use ascend_sys::probe::{HostDevices, Probe, probe};
use ascend_sys::{Implementation, Table};

use crate::error::{Error, Result};

/// Variable of the environment that names the backend; an explicit choice in code or on the command line goes first.
pub const BACKEND_VARIABLE: &str = "ASCEND_MOE_BACKEND";

/// What should fill the call table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// CANN where it is found; the simulator where there is no CANN and no Ascend driver or device.
    #[default]
    Auto,
    /// CANN, or an error.
    Cann,
    /// The simulator, or an error.
    Sim,
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, "argument")
    }
}

impl Choice {
    fn parse(text: &str, source_name: &'static str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cann" => Ok(Self::Cann),
            "sim" => Ok(Self::Sim),
            _ => Err(Error::UnknownBackend { value: text.to_owned(), source_name }),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cann => "cann",
            Self::Sim => "sim",
        })
    }
}

/// What the choice depends on, as a value, so that a test touches no environment.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Value of [`BACKEND_VARIABLE`], if it is set and not empty.
    pub backend: Option<String>,
    /// Where CANN is searched.
    pub search: SearchEnv,
    /// Signs of an Ascend driver or device on the host.
    pub host: HostDevices,
    /// What the simulator plays where it is chosen.
    #[cfg(feature = "sim")]
    pub simulator: cann_sim::Config,
}

impl Environment {
    /// The environment of this process and this host.
    pub fn from_process() -> Self {
        Self {
            backend: env::var_os(BACKEND_VARIABLE)
                .filter(|value| !value.is_empty())
                .map(|value| value.to_string_lossy().into_owned()),
            search: SearchEnv::from_process(),
            host: HostDevices::detect(),
            #[cfg(feature = "sim")]
            simulator: cann_sim::Config::default(),
        }
    }

    /// The same with a simulator that plays another release of CANN.
    ///
    /// # Errors
    /// [`Error::SimulatedRelease`] for one that it cannot play, [`Error::NoSimulator`] where there is none in this build.
    #[cfg(feature = "sim")]
    pub fn with_simulated_release(mut self, release: &str) -> Result<Self> {
        let known = ascend_sys::Release::parse(release).filter(|release| cann_sim::RELEASES.contains(release));
        self.simulator.release = known.ok_or_else(|| Error::SimulatedRelease {
            value: release.to_owned(),
            legal: cann_sim::RELEASES.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })?;
        Ok(self)
    }

    /// The same with a simulator that plays another release of CANN: none here.
    ///
    /// # Errors
    /// [`Error::NoSimulator`].
    #[cfg(not(feature = "sim"))]
    pub fn with_simulated_release(self, _release: &str) -> Result<Self> {
        Err(Error::NoSimulator { asked: "a release of the simulator is asked for" })
    }
}

/// A filled call table, and why it is this one.
pub(crate) struct Opened {
    pub(crate) table: Arc<Table>,
    pub(crate) probe: Probe,
    pub(crate) reason: String,
    pub(crate) search: Option<LoadReport>,
}

/// Fills the table as `choice` says, or else the environment, or else [`Choice::Auto`].
pub(crate) fn open(choice: Option<Choice>, environment: &Environment) -> Result<Opened> {
    let (choice, asked) = match (choice, &environment.backend) {
        (Some(choice), _) => (choice, "chosen explicitly"),
        (None, Some(value)) => (Choice::parse(value, BACKEND_VARIABLE)?, BACKEND_VARIABLE),
        (None, None) => (Choice::Auto, "auto"),
    };
    match choice {
        Choice::Cann => open_cann(environment, asked),
        Choice::Sim => open_simulator(environment, format!("simulator: {asked}"), "the simulator is asked for", None),
        Choice::Auto => open_auto(environment),
    }
}

/// CANN where it is found.
fn open_auto(environment: &Environment) -> Result<Opened> {
    let (loaded, search) = Loader::new(&environment.search).load();
    match loaded {
        Ok(table) => {
            if table.origin().implementation.is_simulated() && environment.host.any() {
                let library = table.origin().libraries.first().map(|library| library.path.clone()).unwrap_or_default();
                return Err(Error::SimulatorOnAscendHost { evidence: environment.host.evidence.clone(), library });
            }
            let reason = format!("CANN found: {}", place(&table));
            found(table, reason, "auto", search)
        }
        Err(source @ LoadError::NoLibrary { .. }) if environment.host.any() => {
            Err(Error::DeviceWithoutCann { evidence: environment.host.evidence.clone(), source })
        }
        Err(LoadError::NoLibrary { .. }) => {
            let reason = "simulator: no CANN library found and no Ascend driver or device on this host".to_owned();
            tracing::warn!("running on the CANN simulator: no CANN library and no Ascend device on this host");
            open_simulator(environment, reason, "there is no CANN and no Ascend device on this host", Some(search))
        }
        Err(source) => Err(Error::CannUnusable { asked: "auto: CANN is there", source }),
    }
}

/// CANN and nothing else.
fn open_cann(environment: &Environment, asked: &'static str) -> Result<Opened> {
    let (loaded, search) = Loader::new(&environment.search).load();
    let table = loaded.map_err(|source| Error::CannUnusable { asked, source })?;
    let reason = format!("CANN: {asked}; {}", place(&table));
    found(table, reason, asked, search)
}

/// Where a table came from, in words.
fn place(table: &Table) -> String {
    let origin = table.origin();
    let library = origin.libraries.first().map(|library| library.path.display().to_string()).unwrap_or_default();
    match origin.implementation {
        Implementation::Cann => library,
        _ => format!("{library}, which is the simulator's library"),
    }
}

/// A CANN that was found must also work.
fn found(table: Table, reason: String, asked: &'static str, search: LoadReport) -> Result<Opened> {
    let probe = probe(&table).map_err(|source| Error::CannUnusable { asked, source })?;
    Ok(Opened { table: Arc::new(table), probe, reason, search: Some(search) })
}

#[cfg(feature = "sim")]
fn open_simulator(
    environment: &Environment,
    reason: String,
    _wanted: &'static str,
    search: Option<LoadReport>,
) -> Result<Opened> {
    let sim = cann_sim::Sim::start(environment.simulator.clone());
    let table = sim.map_err(|error| Error::SimulatorFailed(Box::new(error)))?.table();
    let probe = probe(&table).map_err(|error| Error::SimulatorFailed(Box::new(error)))?;
    Ok(Opened { table, probe, reason, search })
}

#[cfg(not(feature = "sim"))]
fn open_simulator(
    _environment: &Environment,
    _reason: String,
    wanted: &'static str,
    _search: Option<LoadReport>,
) -> Result<Opened> {
    Err(Error::NoSimulator { asked: wanted })
}
