//! Whether layers fit, told before any of them is loaded.

use std::fs;

use ascend_moe::Device;
use ascend_moe::layer::{LayerOptions, MoeLayer, Pass};
use ascend_moe::spec::MoeSpec;

use super::failure::Failure;

/// What a layer will need.
#[derive(Clone, Copy)]
pub(crate) struct Announced {
    /// Device bytes.
    pub(crate) bytes: u64,
    /// Tokens that run at once.
    pub(crate) chunk: usize,
}

/// Device bytes of a layer and a pass, in chunks whose scratch keeps to a limit where there is one.
///
/// The simulator keeps device memory in the host's, which its device may exceed: a host that runs out ends processes
/// without a word, so what is asked for is held against what the host has.
pub(crate) fn announce(
    device: &Device,
    spec: &MoeSpec,
    options: LayerOptions,
    pass: Pass,
    limit: Option<u64>,
) -> Result<Announced, Failure> {
    let tokens = pass.tokens;
    let plan = MoeLayer::chunk_plan(device, spec, options, pass, limit.unwrap_or(u64::MAX))?;
    let (bytes, chunk) = (plan.memory.device_bytes(), plan.chunk.max(tokens.min(1)));
    let info = device.memory_info()?;
    if bytes > info.free {
        return Err(Failure::backend(format_args!(
            "out of memory on device {}: {bytes} bytes needed for {tokens} tokens, {} of {} free",
            device.id(),
            info.free,
            info.total
        )));
    }
    match host_memory() {
        Some(available) if device.cann().is_simulated() && bytes > available => Err(Failure::backend(format_args!(
            "out of memory on this host, where the simulator keeps its device's: {bytes} bytes needed for {tokens} \
             tokens, {available} available"
        ))),
        _ => Ok(Announced { bytes, chunk }),
    }
}

/// Bytes of host memory that programs can have without swapping, where the system tells.
fn host_memory() -> Option<u64> {
    available(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemAvailable` of a `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24605300 kB\nMemFree:  17 kB\nMemAvailable:   23068672 kB\nBuffers: 4 kB\n";
        assert_eq!(available(text), Some(22 << 30));
        for text in ["", "MemFree: 17 kB\n", "MemAvailable: many kB\n", "MemAvailable: 17\n"] {
            assert_eq!(available(text), None, "{text}");
        }
        assert_eq!(available(&format!("MemAvailable: {} kB", u64::MAX)), None);
    }
}
