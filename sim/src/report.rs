//! Findings: what a program did against CANN's rules.

use std::fmt;
use std::sync::Mutex;

use crate::lock;

/// Which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// Memory was used after it was freed.
    UseAfterFree,
    /// An access reaches beyond its allocation.
    OutOfBounds,
    /// A host pointer stands where a device pointer must.
    HostPointerAsDevice,
    /// A device pointer stands where a host pointer must.
    DevicePointerAsHost,
    /// A pointer that no allocation holds.
    UnknownPointer,
    /// An address that its elements cannot lie at.
    Misaligned,
    /// An allocation was freed twice.
    DoubleFree,
    /// A pointer into the middle of an allocation was freed.
    InvalidFree,
    /// A null pointer stands where none may.
    NullPointer,
    /// A handle that was destroyed, never made, or is of another kind.
    UnknownHandle,
    /// An object of another context.
    ForeignContext,
    /// An executor was used twice.
    ExecutorReused,
    /// An argument of a prepared call was destroyed before the call.
    DestroyedArgument,
    /// A workspace smaller than phase 1 asked for.
    WorkspaceTooSmall,
    /// A workspace that is no device memory, or was freed before the operator ran.
    Workspace,
    /// A group list that does not fit its operands.
    GroupList,
    /// An output shares memory with an operand.
    Overlap,
    /// Something still lived when its device was reset.
    Leak,
    /// A call that a host callback must not make.
    Callback,
    /// Use in a forked child of a simulator its parent started.
    Fork,
    /// A fault of the simulator itself.
    Internal,
}

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub kind: FindingKind,
    /// C function at which it was found.
    pub call: &'static str,
    /// What was wrong with which object.
    pub object: String,
}

impl Finding {
    pub(crate) fn new(kind: FindingKind, call: &'static str, object: impl Into<String>) -> Self {
        Self { kind, call, object: object.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {}", self.kind, self.call, self.object)
    }
}

/// Findings kept; a program that breaks rules in a loop must not fill the host's memory.
const KEPT: usize = 10_000;

/// The findings of one simulator, oldest first.
#[derive(Default)]
pub(crate) struct Report {
    findings: Mutex<Vec<Finding>>,
}

impl Report {
    pub(crate) fn add(&self, finding: Finding) {
        let mut findings = lock(&self.findings);
        if findings.len() < KEPT {
            findings.push(finding);
        }
    }

    /// Adds unless another thread holds the report: in a forked child that thread no longer exists.
    pub(crate) fn try_add(&self, finding: Finding) {
        if let Ok(mut findings) = self.findings.try_lock() {
            findings.push(finding);
        }
    }

    pub(crate) fn all(&self) -> Vec<Finding> {
        lock(&self.findings).clone()
    }
}
