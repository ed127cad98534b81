//! How fast checkpoints are converted, beside how fast the same bytes are read and written: for each way a checkpoint of
//! `CONVERT_MIB` MiB (512 unless set) of random experts, in alternating rounds, medians.
//!
//! `cargo bench --bench convert`; the files lie in the folder for temporary files, so set `TMPDIR` to the disk in question. A word
//! after `--` chooses ways by part of their name, like `fp8` or `bf16-to-w4a8`.
#![allow(clippy::unwrap_used, reason = "a benchmark that meets the unexpected ends, and says so")]
#![allow(missing_docs, reason = "nobody reads the documentation of a benchmark")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use ascend_moe::convert::{Format, Options, convert};
use serde_json::{Value, json};

const HIDDEN: usize = 2048;
const INNER: usize = 1024;
const ROUNDS: usize = 5;
/// The least that a conversion should reach, as a share of reading and writing.
const GOAL: f64 = 0.6;

/// What experts are stored in.
#[derive(Clone, Copy)]
enum Stored {
    Bf16,
    Fp8,
}

impl Stored {
    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::Fp8 => 1,
        }
    }
}

/// Bytes that look random and are no NaN in either format.
fn noise(bytes: usize, seed: usize) -> Vec<u8> {
    let word = |at: usize| (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ seed as u64);
    let byte = |at: usize| {
        let byte = (word(at) >> 40) as u8;
        if at % 2 == 1 { 0x3C | (byte & 0x83) } else { byte & 0xF7 }
    };
    (0..bytes).map(byte).collect()
}

/// A Mixtral of one layer with as many experts as fill `bytes`.
fn checkpoint(dir: &Path, stored: Stored, bytes: usize) {
    let each = 3 * HIDDEN * INNER * stored.bytes();
    let experts = (bytes / each).max(2);
    let mut config = json!({
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "torch_dtype": "bfloat16", "num_hidden_layers": 1,
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_local_experts": experts, "num_experts_per_tok": 2,
        "hidden_act": "silu"});
    let (dtype, mut tensors) = match stored {
        Stored::Bf16 => ("BF16", Vec::new()),
        Stored::Fp8 => {
            config["quantization_config"] = json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]});
            ("F8_E4M3", Vec::new())
        }
    };
    let block = "model.layers.0.block_sparse_moe";
    tensors.push((format!("{block}.gate.weight"), "BF16", [experts, HIDDEN], noise(experts * HIDDEN * 2, 0)));
    for expert in 0..experts {
        for (name, [rows, cols]) in [("w1", [INNER, HIDDEN]), ("w2", [HIDDEN, INNER]), ("w3", [INNER, HIDDEN])] {
            let name = format!("{block}.experts.{expert}.{name}.weight");
            if let Stored::Fp8 = stored {
                let grid = [rows / 128, cols / 128];
                let scales = vec![0.01f32; grid[0] * grid[1]];
                tensors.push((format!("{name}_scale_inv"), "F32", grid, bytemuck::cast_slice(&scales).to_vec()));
            }
            tensors.push((name, dtype, [rows, cols], noise(rows * cols * stored.bytes(), expert)));
        }
    }
    let (mut header, mut start) = (json!({}), 0);
    for (name, dtype, shape, bytes) in &tensors {
        header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, start + bytes.len()]});
        start += bytes.len();
    }
    let mut file = File::create(dir.join("model.safetensors")).unwrap();
    let header = Value::to_string(&header);
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    tensors.iter().for_each(|(.., bytes)| file.write_all(bytes).unwrap());
    file.sync_all().unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// Reads a file and writes so many bytes of it to another, until they are on the disk.
fn read_and_write(from: &Path, to: &Path, bytes: usize) -> Duration {
    let started = Instant::now();
    let (mut input, mut output) = (File::open(from).unwrap(), File::create(to).unwrap());
    let total = input.metadata().unwrap().len() as f64;
    let mut buffer = vec![0; 8 << 20];
    let (mut read, mut written) = (0, 0);
    loop {
        let count = input.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        read += count;
        // As much of the output as is due by now; where it is larger, the same bytes again.
        let mut due = (bytes as f64 * read as f64 / total) as usize - written;
        written += due;
        while due > 0 {
            let piece = due.min(count);
            output.write_all(&buffer[..piece]).unwrap();
            due -= piece;
        }
    }
    output.sync_all().unwrap();
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn main() {
    let mib: usize = std::env::var("CONVERT_MIB").map_or(512, |text| text.parse().unwrap());
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    println!("{mib} MiB of experts, {ROUNDS} rounds, {} threads", rayon::current_num_threads());
    let mut missed = 0;
    for stored in [Stored::Bf16, Stored::Fp8] {
        let chosen = |format: &Format| format!("{}-to-{}", stored.name(), format.name()).contains(&filter);
        let formats: Vec<Format> = [Format::Bf16, Format::W8a8, Format::W4a8].into_iter().filter(chosen).collect();
        if formats.is_empty() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        checkpoint(&from, stored, mib << 20);
        let input = fs::metadata(from.join("model.safetensors")).unwrap().len();
        for format in formats {
            let to = dir.path().join("to");
            let (mut conversions, mut copies, mut output) = (Vec::new(), Vec::new(), 0);
            for _ in 0..ROUNDS {
                let started = Instant::now();
                let report = convert(&from, &to, Options::new(format), &mut |_| {}).unwrap();
                conversions.push(started.elapsed());
                output = report.bytes;
                fs::remove_dir_all(&to).unwrap();
                let copy = dir.path().join("copy");
                copies.push(read_and_write(&from.join("model.safetensors"), &copy, output as usize));
                fs::remove_file(&copy).unwrap();
            }
            let (conversion, copy) = (median(conversions), median(copies));
            let rate = |seconds: f64| (input + output) as f64 / seconds / 1e9;
            let share = copy / conversion;
            missed += usize::from(share < GOAL);
            println!(
                "{:>4} to {:<4}  {:.2} GB/s converted, {:.2} GB/s read and written: {:.0} % (goal {:.0} %){}",
                stored.name(),
                format.name(),
                rate(conversion),
                rate(copy),
                100.0 * share,
                100.0 * GOAL,
                if share < GOAL { "  MISSED" } else { "" },
            );
        }
    }
    println!("{missed} goals missed");
}
