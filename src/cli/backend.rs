//! What a report says about the backend.

use ascend_moe::{Cann, Implementation};
use moe_kernels::isa::Isa;
use serde::Serialize;

/// The backend of a report.
#[derive(Serialize)]
pub(crate) struct BackendReport {
    /// `cann`, `simulator` or `simulator_library`.
    pub(crate) name: &'static str,
    /// Whether nothing ran on a device.
    pub(crate) simulated: bool,
    /// Why it was chosen.
    pub(crate) reason: String,
    /// Chip.
    pub(crate) soc: String,
    /// CANN release whose rules count.
    pub(crate) release: String,
    /// What the clock of the times below is.
    pub(crate) clock: &'static str,
    /// What a simulator computes with: the instructions of the host's CPU that its kernels take, and which roundings they make;
    /// `null` of a device.
    pub(crate) arithmetic: Option<String>,
}

impl BackendReport {
    pub(crate) fn new(cann: &Cann) -> Self {
        Self {
            name: name(cann.implementation()),
            simulated: cann.is_simulated(),
            reason: cann.reason().to_owned(),
            soc: cann.soc().to_owned(),
            release: cann.release().to_string(),
            clock: if cann.is_simulated() { "host clock of the simulator, not a device's" } else { "device events" },
            arithmetic: cann.is_simulated().then(|| format!("{}, CANN's roundings", Isa::current().name())),
        }
    }
}

/// The name of an implementation in reports.
pub(crate) fn name(implementation: Implementation) -> &'static str {
    match implementation {
        Implementation::Cann => "cann",
        Implementation::SimulatorInProcess => "simulator",
        Implementation::SimulatorLibrary => "simulator_library",
    }
}
