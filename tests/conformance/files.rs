//! The data of the tests: golden files, checkpoints with what was recorded of them, and changed copies of files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ascend_moe::checkpoint::{Checkpoint, TensorFile};
use ascend_moe::spec::FloatType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// The golden files of layers, in the order of their names.
pub(crate) const GOLDEN: [&str; 34] = [
    "deepseek_v2_greedy",
    "deepseek_v2_group",
    "deepseek_v3_base",
    "deepseek_v3_bf16",
    "deepseek_v3_decode1",
    "deepseek_v3_e64",
    "deepseek_v3_hot",
    "deepseek_v3_negbias",
    "deepseek_v3_nonorm_2shared",
    "deepseek_v3_ties",
    "deepseek_v3_ties_dup",
    "deepseek_v4_bf16",
    "deepseek_v4_clamped",
    "deepseek_v4_hash",
    "deepseek_v4_moe",
    "glm4_moe_base",
    "gpt_oss_base",
    "gpt_oss_bf16",
    "gpt_oss_clamped_hot",
    "longcat_flash_zero_experts",
    "mixtral_base",
    "mixtral_bf16",
    "mixtral_skew_empty",
    "quant_fp8_deepseek_v3_block",
    "quant_mxfp4_gpt_oss_block",
    "qwen2_moe_shared_gate",
    "qwen3_moe_bf16",
    "qwen3_moe_nonorm",
    "qwen3_moe_norm",
    "qwen3_moe_ties_zero",
    "route_deepseek_v2_e160",
    "route_deepseek_v3_e256",
    "route_deepseek_v4_e256",
    "route_qwen3_moe_e128",
];

/// The golden files of number formats, in the order of their names.
pub(crate) const FORMATS: [&str; 8] = [
    "quant_fp8_block128",
    "quant_fp8_cast",
    "quant_int4_group",
    "quant_int8_gemm",
    "quant_int8_gemm_extreme",
    "quant_int8_per_token",
    "quant_mxfp4",
    "quant_w8a8_expert_chain",
];

pub(crate) fn golden(stem: &str) -> PathBuf {
    golden_dir().join(format!("{stem}.safetensors"))
}

pub(crate) fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

/// The checkpoints.
pub(crate) const CHECKPOINTS: [&str; 7] =
    ["deepseek-v2", "deepseek-v3", "deepseek-v3-fp8", "deepseek-v4", "gpt-oss", "mixtral", "qwen3-moe"];

pub(crate) fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints").join(name)).unwrap()
}

/// The types a layer runs in, and how far its output may be from the recorded one, relative to the largest value.
pub(crate) const DTYPES: [(FloatType, f64); 3] =
    [(FloatType::F32, 3e-5), (FloatType::Bf16, 2e-2), (FloatType::F16, 4e-3)];

/// One layer's input and output, both `[tokens, hidden]`, as recorded from the model that wrote the checkpoint.
pub(crate) struct Recorded {
    pub(crate) tokens: usize,
    pub(crate) hidden: usize,
    pub(crate) input: Vec<f32>,
    /// What the router saw where that was something else, `[tokens, hidden]`.
    pub(crate) router_input: Option<Vec<f32>>,
    pub(crate) output: Vec<f32>,
    /// `[tokens]`.
    pub(crate) token_ids: Vec<i64>,
}

impl Recorded {
    pub(crate) fn of(checkpoint: &Checkpoint, layer: usize) -> Self {
        let file = TensorFile::open(checkpoint.dir().join("activations.safetensors")).unwrap();
        let [input, output] = ["input", "output"].map(|end| file.values(&format!("layers.{layer}.mlp.{end}")).unwrap());
        let [tokens, hidden] = input.shape[..] else { panic!("recorded input of shape {:?}", input.shape) };
        assert_eq!(output.shape, input.shape);
        let router_input = file.values(&format!("layers.{layer}.mlp.router_input")).ok().map(|seen| {
            assert_eq!(seen.shape, input.shape);
            seen.data
        });
        let (_, token_ids) = file.integers("input_ids").unwrap();
        Self { tokens, hidden, input: input.data, router_input, output: output.data, token_ids }
    }

    /// The first tokens, over and over where more are wanted.
    pub(crate) fn repeated(&self, tokens: usize) -> Self {
        let repeat = |values: &[f32]| values.iter().copied().cycle().take(tokens * self.hidden).collect();
        Self {
            tokens,
            hidden: self.hidden,
            input: repeat(&self.input),
            router_input: self.router_input.as_deref().map(repeat),
            output: repeat(&self.output),
            token_ids: self.token_ids.iter().copied().cycle().take(tokens).collect(),
        }
    }
}

/// Fails unless every value is within `tolerance` of the due one, relative to the largest value due.
pub(crate) fn assert_near(found: &[f32], due: impl IntoIterator<Item = f64>, tolerance: f64, what: &str) {
    let due: Vec<f64> = due.into_iter().collect();
    assert_eq!(found.len(), due.len(), "{what}: number of values");
    let largest = due.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let error = found.iter().zip(&due).map(|(&found, due)| (f64::from(found) - due).abs());
    // A value that is not a number stays one in this maximum, and fails.
    let worst = error.fold(0.0, |worst: f64, error| if error > worst || error.is_nan() { error } else { worst });
    assert!(worst <= tolerance * largest, "{what}: off by {:.2e} of the largest value {largest:.3}", worst / largest);
}

/// A safetensors file in memory, to be changed and written elsewhere.
pub(crate) struct Contents {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Contents {
    pub(crate) fn read(path: &Path) -> Self {
        let file = TensorFile::open(path).unwrap();
        let metadata = file.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let tensors = file.tensors().map(|t| (t.name.to_owned(), t.dtype, t.shape.to_vec(), t.bytes.to_vec()));
        Self { metadata, tensors: tensors.collect() }
    }

    /// Changes what a golden file says of itself.
    pub(crate) fn edit_golden(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        let text = self.metadata.get_mut("golden").unwrap();
        let mut value = serde_json::from_str(text).unwrap();
        edit(&mut value);
        *text = value.to_string();
        self
    }

    /// Changes the bytes of a tensor.
    pub(crate) fn edit(mut self, name: &str, edit: impl FnOnce(&mut [u8])) -> Self {
        let (.., bytes) = self.tensors.iter_mut().find(|(found, ..)| found == name).unwrap();
        edit(bytes);
        self
    }

    pub(crate) fn rename(mut self, name: &str, to: &str) -> Self {
        self.tensors.iter_mut().find(|(found, ..)| found == name).unwrap().0 = to.to_owned();
        self
    }

    pub(crate) fn write(self, path: &Path) {
        let views = self
            .tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        std::fs::write(path, safetensors::serialize(views, Some(self.metadata.clone())).unwrap()).unwrap();
    }
}
