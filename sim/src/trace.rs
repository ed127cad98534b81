//! The trace: what ran, in the order it finished, in memory and as JSON lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use serde::Serialize;

use crate::lock;

/// One launch, copy or record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceRecord {
    /// Position in the order of finishing, from 0.
    pub sequence: u64,
    /// C function that launched it.
    pub function: &'static str,
    /// Operands in words: shapes and dtypes, or bytes and direction.
    pub detail: String,
    /// Device.
    pub device: u32,
    /// Stream id; `None` for what ran in the call itself.
    pub stream: Option<i32>,
    /// When the call queued it: host nanoseconds since the simulator started.
    pub queued_ns: u64,
    /// When it began to run.
    pub started_ns: u64,
    /// When it was done.
    pub finished_ns: u64,
    /// Code of the device fault it ended with; 0 for success.
    pub fault: i32,
}

/// Records what runs, and tells the time.
pub(crate) struct Trace {
    epoch: Instant,
    capacity: usize,
    file: Option<File>,
    records: Mutex<(u64, VecDeque<TraceRecord>)>,
}

/// What a record says of the work itself.
pub(crate) struct Traced {
    pub(crate) function: &'static str,
    pub(crate) detail: String,
    pub(crate) device: u32,
    pub(crate) stream: Option<i32>,
    pub(crate) queued_ns: u64,
    pub(crate) started_ns: u64,
    pub(crate) fault: i32,
}

impl Trace {
    pub(crate) fn new(capacity: usize, file: Option<&Path>) -> io::Result<Self> {
        let file = file.map(File::create).transpose()?;
        Ok(Self { epoch: Instant::now(), capacity, file, records: Mutex::default() })
    }

    /// Host nanoseconds since the simulator started.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether anybody will read the words of a record.
    pub(crate) fn wants_detail(&self) -> bool {
        self.capacity > 0 || self.file.is_some()
    }

    /// Records work that is done now.
    pub(crate) fn add(&self, work: Traced) {
        if !self.wants_detail() {
            return;
        }
        let finished_ns = self.now();
        let mut records = lock(&self.records);
        let record = TraceRecord {
            sequence: records.0,
            function: work.function,
            detail: work.detail,
            device: work.device,
            stream: work.stream,
            queued_ns: work.queued_ns,
            started_ns: work.started_ns,
            finished_ns,
            fault: work.fault,
        };
        records.0 += 1;
        if let Some(mut file) = self.file.as_ref()
            && let Ok(mut line) = serde_json::to_vec(&record)
        {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                tracing::warn!(%error, "the trace file cannot be written");
            }
        }
        if self.capacity > 0 {
            if records.1.len() == self.capacity {
                records.1.pop_front();
            }
            records.1.push_back(record);
        }
    }

    /// The records kept, oldest first.
    pub(crate) fn records(&self) -> Vec<TraceRecord> {
        lock(&self.records).1.iter().cloned().collect()
    }
}
