//! The host memory that a conversion takes has a bound. Alone in its program, as every allocation of it counts.
// The helpers of a test fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "shared with the tests of checkpoints")]
#[path = "checkpoint/support.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use ascend_moe::convert::{Format, Options, Progress, convert, memory_bound};
use serde_json::json;
use tempfile::TempDir;

use support::{Tensor, safetensors};

/// Formats, and inputs that share a scale.
const FORMATS: [(Format, Option<usize>); 4] =
    [(Format::Bf16, None), (Format::W8a8, None), (Format::W4a8, None), (Format::W4a8, Some(32))];

/// Counts the bytes that are allocated, and the most at a time.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A Mixtral of one layer with these experts, in BF16.
fn mixtral(hidden: usize, inner: usize, experts: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "torch_dtype": "bfloat16", "num_hidden_layers": 1,
        "hidden_size": hidden, "intermediate_size": inner, "num_local_experts": experts, "num_experts_per_tok": 2,
        "hidden_act": "silu"});
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let block = "model.layers.0.block_sparse_moe";
    let bytes =
        |count: usize| (0..count).flat_map(|at| [at as u8 ^ (at >> 8) as u8, 0x3C | (at as u8 & 0x80)]).collect();
    let mut tensors =
        vec![Tensor::new(&format!("{block}.gate.weight"), "BF16", &[experts, hidden], bytes(experts * hidden))];
    for expert in 0..experts {
        for (name, shape) in [("w1", [inner, hidden]), ("w2", [hidden, inner]), ("w3", [inner, hidden])] {
            let name = format!("{block}.experts.{expert}.{name}.weight");
            tensors.push(Tensor::new(&name, "BF16", &shape, bytes(hidden * inner)));
        }
    }
    fs::write(dir.path().join("model.safetensors"), safetensors(&tensors)).unwrap();
    dir
}

/// Bytes of files that are in memory on behalf of this program.
fn mapped() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    1024 * line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap()
}

/// Memory has a bound that has nothing to do with the size of the checkpoint.
#[test]
fn memory_is_bounded() {
    let (hidden, inner, experts) = (1024, 512, 16);
    let from = mixtral(hidden, inner, experts);
    let size = fs::metadata(from.path().join("model.safetensors")).unwrap().len() as usize;
    let dir = tempfile::tempdir().unwrap();
    for (at, (format, group)) in FORMATS.into_iter().enumerate() {
        let mut options = Options::new(format);
        (options.buffer, options.group) = (1 << 16, group);
        let bound = memory_bound(options, 1 + 3 * experts, hidden, hidden);
        assert!(bound * 4 < size, "{bound} of {size} would prove nothing");
        let before = NOW.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let mapped_before = mapped();
        let mut most_mapped = 0;
        let sample = &mut |_: Progress<'_>| most_mapped = most_mapped.max(mapped().saturating_sub(mapped_before));
        convert(from.path(), &dir.path().join(at.to_string()), options, sample).unwrap();
        assert!(most_mapped < size / 4, "{format:?}: {most_mapped} bytes of files, of {size}");
        let most = MOST.load(Ordering::Relaxed) - before;
        assert!(most <= bound, "{format:?}: {most} bytes, the bound is {bound}");
    }
}
