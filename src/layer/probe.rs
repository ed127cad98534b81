//! Timing of the steps of a forward pass.

use crate::error::Result;
use crate::event::Event;
use crate::stream::Stream;

/// Records an event between the steps of forward passes. Costs an event per step: for reports, not for serving.
#[derive(Default)]
pub struct Probe {
    marks: Vec<(&'static str, Event)>,
}

/// A step and its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What was done.
    pub name: &'static str,
    /// Milliseconds between the events before and after it, on the clock of the device; on the simulator that is the
    /// host's.
    pub milliseconds: f32,
}

/// Name of the mark that begins a pass and ends no step.
const START: &str = "";

impl Probe {
    /// A probe without marks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Marks the end of a step, or the beginning of a pass.
    pub(crate) fn mark(&mut self, stream: &Stream, name: &'static str) -> Result<()> {
        let event = Event::timed(stream.device())?;
        stream.record(&event)?;
        self.marks.push((name, event));
        Ok(())
    }

    pub(crate) fn start(&mut self, stream: &Stream) -> Result<()> {
        self.mark(stream, START)
    }

    /// The steps since the last call, in order. Waits for them.
    ///
    /// # Errors
    /// Those of [`Event::synchronize`] and [`Event::elapsed_ms`].
    pub fn take_steps(&mut self) -> Result<Vec<Step>> {
        let marks = std::mem::take(&mut self.marks);
        if let Some((_, last)) = marks.last() {
            last.synchronize()?;
        }
        let pairs = marks.iter().zip(marks.iter().skip(1));
        pairs
            .filter(|(_, (name, _))| *name != START)
            .map(|((_, before), (name, after))| Ok(Step { name, milliseconds: after.elapsed_ms(before)? }))
            .collect()
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("marks", &self.marks.len()).finish()
    }
}
