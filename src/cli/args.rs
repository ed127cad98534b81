//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use ascend_moe::Choice;
use ascend_moe::convert::Format;
use ascend_moe::layer::ExpertFormat;
use ascend_moe::spec::FloatType;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Mixture-of-experts backend for Huawei Ascend NPUs. Without one, layers run on a simulator of CANN, and every
/// report says so.
#[derive(Parser)]
#[command(name = "ascend-moe", version, arg_required_else_help = false, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  right; of `doctor`: a backend is usable
  1  a comparison failed
  2  bad usage or bad input
  3  the backend is not usable, cannot run this, or failed

With --json standard output holds one JSON object and nothing else. A failure without a report is
  {\"schema\": \"ascend-moe/error/1\", \"ok\": false, \"error\": {\"kind\", \"exit_code\", \"message\"}}
with a kind of \"usage\", \"input\" or \"backend\". Numbers that are infinite or not a number are null.

Environment:
  ASCEND_MOE_BACKEND  auto, cann or sim, where --backend is not given
  ASCEND_HOME_PATH    root of CANN, as its set_env.sh sets it with the others
  RUST_LOG            debug shows what is looked for and chosen; the default is warn";

/// Most values of random input: 4 GiB of f32.
pub(crate) const MAX_RANDOM: usize = 1 << 30;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run mixture-of-experts layers of a Hugging Face checkpoint
    Run(RunArgs),
    /// Convert the expert weights of a checkpoint to bf16, to int8 (W8A8) or to int4 (W4A8)
    Convert(ConvertArgs),
    /// Show which operators a model's routers run as, and why
    PlanRouter(PlanRouterArgs),
    /// Say which backend is usable here, and why, or what is missing
    Doctor(DoctorArgs),
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RunArgs {
    /// Folder with config.json and safetensors
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: PathBuf,

    /// Layer to run, may be repeated [default: all mixture-of-experts layers]
    #[arg(long = "layer", value_name = "N")]
    pub(crate) layers: Vec<usize>,

    /// Safetensors with `layers.N.mlp.input` [T,H] for each layer, or one `hidden_states` [T,H], and `input_ids` [T]
    /// for layers that choose experts by token id; the router sees `layers.N.mlp.router_input` [T,H] where that is
    /// there, else what the experts see; where it also holds `layers.N.mlp.output` [T,H], the result is compared with
    /// it: it is right where no difference is more than 3e-5 (f32), 4e-3 (f16) or 2e-2 (bf16) of the largest value
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// Safetensors to write: per layer `layers.N.mlp.output` [T,H] f32, and the chosen experts in the router's order
    /// `layers.N.mlp.topk_idx` [T,k] i32 with their weights `layers.N.mlp.topk_weight` [T,k] f32. Written whole or not at
    /// all, in place of a file that is there
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// What to run on [default: auto]
    #[arg(long, value_name = "BACKEND", value_enum)]
    pub(crate) backend: Option<BackendArg>,

    /// Type to run in [default: the checkpoint's]
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<DtypeArg>,

    /// How the experts' weights are held: as floating point, or quantised on load. W8A8 has int8 weights with a scale per
    /// output and int8 activations with a scale per token, W4A8 int4 weights; both run in bf16 or f16. The result is then also
    /// compared with that of the same layer in floating point, by the root mean square of the differences: right are 3e-2, with
    /// int4 3e-1 [default: as the checkpoint has them]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) quant: Option<QuantArg>,

    /// Tokens of random input, where there is no --input; at most 2^30 values [default: 16]
    #[arg(long, value_name = "T", conflicts_with = "input")]
    pub(crate) tokens: Option<usize>,

    /// Device bytes that temporary tensors and workspaces may take: a pass that needs more runs in chunks of tokens
    #[arg(long, value_name = "BYTES")]
    pub(crate) scratch_limit: Option<u64>,

    /// Seed of the random input [default: 0]
    #[arg(long, value_name = "S", conflicts_with = "input")]
    pub(crate) seed: Option<u64>,

    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const CONVERSION: &str = "\
Reads FP8 (E4M3 in blocks, scales f32 or E8M0), MXFP4, int8 and int4 per channel and per group, in the layouts of DeepSeek,
gpt-oss, compressed-tensors and msModelSlim, and unquantised weights. Expert weights are converted; all others are copied,
or, where they are quantised, expanded to bf16. In w4a8 shared experts become int8.

Host memory: less than 160 MiB, 4 KiB for each tensor and 16 bytes for each scale of the largest one, whatever the size of the
checkpoint and the number of threads. Files of the checkpoint are mapped, their memory is given back weight by weight, and they
are never written to.

The output is put together in DIR.partial and gets its name when it is whole. Interrupted, by a disk that is full or otherwise,
the same command goes on: files that are whole are kept after their checksum was compared.";

#[derive(Args)]
#[command(after_help = CONVERSION)]
pub(crate) struct ConvertArgs {
    /// Folder with config.json and safetensors
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,

    /// Folder to make; it must not be there
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,

    /// What expert weights become
    #[arg(long, value_enum)]
    pub(crate) format: FormatArg,

    /// Lay expert weights out in FRACTAL_NZ, as the cube unit takes them; only this tool reads them then
    #[arg(long)]
    pub(crate) nz: bool,

    /// With w4a8, inputs that share a scale [default: all]; CANN multiplies int8 activations with groups of 256, and a layer
    /// expands weights in others
    #[arg(long, value_name = "N")]
    pub(crate) group: Option<NonZeroUsize>,

    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PlanRouterArgs {
    /// Folder with config.json; weights are not read
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: PathBuf,

    /// Layer whose router to plan, may be repeated [default: all mixture-of-experts layers]
    #[arg(long = "layer", value_name = "N")]
    pub(crate) layers: Vec<usize>,

    /// What to plan for [default: auto]
    #[arg(long, value_name = "BACKEND", value_enum)]
    pub(crate) backend: Option<BackendArg>,

    /// Release of CANN that the simulator plays: 8.5.0, 9.0.0 or 9.1.0; goes with --backend sim only
    #[arg(long, value_name = "RELEASE")]
    pub(crate) release: Option<String>,

    /// Type to run in [default: the checkpoint's]
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<DtypeArg>,

    /// Print the plans as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DoctorArgs {
    /// What to look for [default: auto]
    #[arg(long, value_name = "BACKEND", value_enum)]
    pub(crate) backend: Option<BackendArg>,

    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum BackendArg {
    /// CANN where it is found, the simulator where there is neither CANN nor an Ascend device
    Auto,
    /// The CANN libraries, or an error
    Cann,
    /// The simulator in process
    Sim,
}

impl From<BackendArg> for Choice {
    fn from(arg: BackendArg) -> Self {
        match arg {
            BackendArg::Auto => Self::Auto,
            BackendArg::Cann => Self::Cann,
            BackendArg::Sim => Self::Sim,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum FormatArg {
    /// Expanded: exact from MXFP4, and from FP8 whose scales are powers of two
    Bf16,
    /// int8 per output channel
    W8a8,
    /// int4 per output channel or group of inputs; shared experts int8
    W4a8,
}

impl From<FormatArg> for Format {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Bf16 => Self::Bf16,
            FormatArg::W8a8 => Self::W8a8,
            FormatArg::W4a8 => Self::W4a8,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DtypeArg {
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum QuantArg {
    /// Floating point: codes of a quantised checkpoint are expanded
    None,
    /// int8 weights, int8 activations
    W8a8,
    /// int4 weights, int8 activations
    W4a8,
    /// int4 weights with a scale for each 256 inputs, int8 activations
    W4a8Groups,
}

impl From<QuantArg> for ExpertFormat {
    fn from(arg: QuantArg) -> Self {
        match arg {
            QuantArg::None => Self::Float,
            QuantArg::W8a8 => Self::W8A8,
            QuantArg::W4a8 => Self::W4A8 { group: None },
            QuantArg::W4a8Groups => Self::W4A8 { group: Some(256) },
        }
    }
}

impl From<DtypeArg> for FloatType {
    fn from(arg: DtypeArg) -> Self {
        match arg {
            DtypeArg::F32 => Self::F32,
            DtypeArg::Bf16 => Self::Bf16,
            DtypeArg::F16 => Self::F16,
        }
    }
}
